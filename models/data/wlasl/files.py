"""Read and check the files of a WLASL-style data directory, one by one. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from slr_bench.errors import DataError
from slr_bench.files import why_unreadable, write_atomically

Split = Literal["train", "val", "test"]
Reason = Literal["missing", "empty", "unreadable", "unannotated"]
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".flv", ".swf", ".mpg", ".wmv", ".3gp")
_SPLIT_FILE = re.compile(r"nslt_(\d+)\.json")
# An id becomes a file name: no separators, so that an annotation cannot point outside the directory.
VideoId = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
ParsedT = TypeVar("ParsedT")

LIST_NAME = "left_out.txt"
"""File of a data directory that lists unreadable clips: one id per line, then a tab and the cause."""
NAMED = 5
"""Number of ids that a message names; further ones are counted."""


class Instance(BaseModel):
    """One sign in the annotation list; frames count from 1 and ``frame_end`` is included; -1 means the last."""

    video_id: VideoId
    bbox: tuple[float, float, float, float]
    fps: Annotated[float, Field(gt=0)] | None = None
    frame_start: Annotated[int, Field(ge=1)] = 1
    frame_end: int = -1
    signer_id: int = -1


class Gloss(BaseModel):
    """An element of the annotation list."""

    gloss: str
    instances: list[Instance]


class SplitEntry(BaseModel):
    """A value of the split file."""

    subset: Split
    action: tuple[Annotated[int, Field(ge=0)], int, int]
    """Class, start, end. The range is that of the authors' cut copies; ours is the annotation list's."""


_ANNOTATIONS = TypeAdapter(list[Gloss])
_SPLIT_ENTRIES = TypeAdapter(dict[VideoId, SplitEntry])


def choose_split_file(data_dir: Path, names: list[str], num_classes: int | None) -> tuple[int, Path]:
    """N and path of the ``nslt_<N>.json`` to use; raises DataError if there is none or not the wanted one."""
    found = {int(match[1]): name for name in names if (match := _SPLIT_FILE.fullmatch(name))}
    if not found:
        raise DataError(f"{data_dir} has no split file nslt_<N>.json; point data.dir at a WLASL-style directory")
    if num_classes is None:
        if len(found) > 1:
            raise DataError(
                f"{data_dir} has {_listed(found.values())}; choose one with model.num_classes or --num-classes"
            )
        num_classes = next(iter(found))
    if num_classes not in found:
        raise DataError(
            f"model.num_classes={num_classes}, but {data_dir} has {_listed(found.values())}; "
            f"use model.num_classes: {' or '.join(map(str, sorted(found)))}"
        )
    return num_classes, data_dir / found[num_classes]


def load_split(path: Path) -> dict[str, SplitEntry]:
    """Video id -> split and class; raises DataError."""
    return _validated(_SPLIT_ENTRIES, _load_json(path), path)


def load_annotations(data_dir: Path, names: list[str]) -> list[Gloss]:
    """The one annotation list of the directory, whatever its name; raises DataError."""
    candidates = [data_dir / name for name in names if name.endswith(".json") and not _SPLIT_FILE.fullmatch(name)]
    # Other JSON files may lie beside it (a marker, a download log): only the list of glosses is ours.
    lists = {path: values for path in candidates if isinstance(values := _load_json(path), list)}
    if len(lists) != 1:
        what = f"several annotation lists ({_listed(p.name for p in lists)})" if lists else "no annotation list"
        raise DataError(f"{data_dir} has {what}; keep exactly one, like WLASL_v0.3.json")
    path, values = lists.popitem()
    return _validated(_ANNOTATIONS, values, path)


def load_class_list(data_dir: Path, names: list[str]) -> dict[int, str]:
    """Class id -> gloss; empty without a class list; raises DataError."""
    path = next((data_dir / name for name in names if "class_list" in name and name.endswith(".txt")), None)
    if path is None:
        return {}
    rows = [line.split("\t") for line in _read_text(path).splitlines() if line.strip()]
    if not all(len(row) == 2 and row[0].isdecimal() for row in rows):
        raise DataError(f"{path}: expected lines of <class><tab><gloss>; fix or delete the file")
    return {int(label): gloss.strip() for label, gloss in rows}


class VideoFile(NamedTuple):
    """A file of ``videos/``."""

    path: Path
    file_bytes: int


def find_videos(data_dir: Path) -> dict[str, VideoFile]:
    """Video id -> file, from one listing of ``videos/`` (20,000 names take 0.1 s). Empty without the folder.

    WLASL's sources came as ``.mp4``, ``.swf``, ``.mkv``, ``.webm`` and others; where an id has several files, the first
    of ``VIDEO_SUFFIXES`` counts that holds any bytes.

    Raises:
        DataError: the folder cannot be read.
    """
    found: dict[str, tuple[tuple[bool, int], VideoFile]] = {}
    folder = data_dir / "videos"
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() not in VIDEO_SUFFIXES or not entry.is_file():  # a link to nowhere is no file
                    continue
                size = entry.stat().st_size
                rank = (not size, VIDEO_SUFFIXES.index(suffix.lower()))
                if stem not in found or rank < found[stem][0]:
                    found[stem] = rank, VideoFile(folder / entry.name, size)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror}; check the permissions") from error
    return {video_id: video for video_id, (_, video) in found.items()}


def list_directory(data_dir: Path, named_by: str = "data.dir") -> list[str]:
    """File names, sorted; raises DataError. ``named_by``: the key or option that says where it is."""
    try:
        return sorted(entry.name for entry in data_dir.iterdir())
    except OSError as error:
        raise DataError(f"cannot read data directory {data_dir}: {error.strerror}; check {named_by}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}; check the file") from error


def _load_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); fetch it again") from error


def _validated(adapter: TypeAdapter[ParsedT], values: Any, path: Path) -> ParsedT:
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        _raise_first_mistake(error, path)


def _raise_first_mistake(error: ValidationError, path: Path) -> NoReturn:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    raise DataError(f"{path}: {where}: {first['msg']}, got {first['input']!r:.60}; use the WLASL schema") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@dataclass(frozen=True)
class LeftOut:
    """A clip of the split file that training does not use."""

    video_id: str
    split: Split
    reason: Reason
    """No file, a file of 0 bytes, named in ``left_out.txt``, or absent from the annotation list."""


def some_of(names: Iterable[str], count: int = NAMED) -> str:
    """``"00001, 00004, …"``: at most ``count`` names."""
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def describe(left_out: Iterable[LeftOut], listed: int) -> str:
    """Describe in one line how many of the ``listed`` clips are left out, why, and some of their ids."""
    by_reason: dict[Reason, list[str]] = {}
    for clip in left_out:
        by_reason.setdefault(clip.reason, []).append(clip.video_id)
    parts = [f"{len(ids)} {reason} ({some_of(ids)})" for reason, ids in sorted(by_reason.items())]
    return f"{sum(map(len, by_reason.values()))} of {listed} listed clips are left out: {', '.join(parts)}"


def read_list(data_dir: Path) -> frozenset[str]:
    """Return the ids in ``left_out.txt``; empty without such a file. Raises DataError."""
    path = data_dir / LIST_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}; check the file, or delete it") from error
    return frozenset(line.split("\t")[0].strip() for line in lines if line.strip())


def write_list(data_dir: Path, causes: dict[str, str]) -> Path:
    """Add ``causes`` {id: reason} to ``left_out.txt``, completely or not at all; return its path.

    Raises:
        ConfigError: the directory cannot be written.
    """
    path = data_dir / LIST_NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = before + "".join(f"{video_id}\t{' '.join(why.split())}\n" for video_id, why in sorted(causes.items()))
    write_atomically(path, text, cure="make the directory writable")
    return path
