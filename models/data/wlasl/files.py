"""Read and check the files of a WLASL-style data directory, one by one. No torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from models.data.layouts.directory import imported_words
from models.data.layouts.layout import MANIFEST_NAME
from models.data.left_out import Split, read_text
from models.data.manifest import VIDEO_SUFFIXES, VideoFile
from slr_bench.errors import DataError

_SPLIT_FILE = re.compile(r"nslt_(\d+)\.json")
# An id becomes a file name: no separators, so that an annotation cannot point outside the directory.
VideoId = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
ParsedT = TypeVar("ParsedT")


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
_SPLIT_ENTRY = TypeAdapter(SplitEntry)
_SPLIT_ENTRIES = TypeAdapter(dict[VideoId, SplitEntry])


def split_files(names: list[str]) -> dict[int, str]:
    """Number of classes -> name of each ``nslt_<N>.json`` among ``names``."""
    return {int(match[1]): name for name in names if (match := _SPLIT_FILE.fullmatch(name))}


def choose_split_file(
    data_dir: Path, names: list[str], num_classes: int | None, *, exactly: bool = True
) -> tuple[int, Path]:
    """N and path of the ``nslt_<N>.json`` to use; raises DataError if there is not the wanted one.

    Without ``exactly``, the only one is taken whatever its number.
    """
    found = split_files(names)
    if len(found) == 1 and not exactly:
        num_classes = None
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


def load_split(path: Path) -> tuple[dict[str, SplitEntry], set[str]]:
    """Video id -> split and class, and the ids that are listed more than once, whose last entry counts.

    Raises:
        DataError: the file cannot be used, or gives a video two classes.
    """
    earlier: list[tuple[str, Any]] = []

    def keep_last(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            earlier.extend((key, value) for key, value in pairs if value is not values[key])
        return values

    entries = _validated(_SPLIT_ENTRIES, _load_json(path, object_pairs_hook=keep_last), path)
    repeated = {key: _validated(_SPLIT_ENTRY, value, path) for key, value in earlier if key in entries}
    for video_id, entry in repeated.items():
        labels = entry.action[0], entries[video_id].action[0]
        if labels[0] != labels[1]:
            raise DataError(f"{path}: video {video_id} has class {labels[0]} and class {labels[1]}; fix the file")
    return entries, set(repeated)


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
    """Class id -> gloss, from a class list or an imported table; empty without one; raises DataError."""
    path = next((data_dir / name for name in names if "class_list" in name and name.endswith(".txt")), None)
    if path is None:
        return dict(enumerate(imported_words(data_dir))) if MANIFEST_NAME in names else {}
    rows = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    if not all(len(row) == 2 and row[0].isdecimal() for row in rows):
        raise DataError(f"{path}: expected lines of <class><tab><gloss>; fix or delete the file")
    return {int(label): gloss.strip() for label, gloss in rows}


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


def list_directory(data_dir: Path, named_by: str = "the path") -> list[str]:
    """File names, sorted; raises DataError. ``named_by``: what the user has to check."""
    try:
        return sorted(entry.name for entry in data_dir.iterdir())
    except OSError as error:
        raise DataError(f"cannot read data directory {data_dir}: {error.strerror}; check {named_by}") from error


def _load_json(path: Path, **options: Any) -> Any:
    try:
        return json.loads(read_text(path), **options)
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
