"""Clips of a data directory that are not used: the reasons, their text, and the list ``left_out.txt``. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slr_bench.errors import DataError
from slr_bench.files import why_unreadable, write_atomically
from slr_bench.units import plain

Split = Literal["train", "val", "test"]
Reason = Literal["missing", "empty", "unreadable", "unannotated"]

LIST_NAME = "left_out.txt"
"""File of a data directory that lists unreadable clips: one id per line, then a tab and the cause."""
NAMED = 5
"""Number of ids that a message names; further ones are counted."""


@dataclass(frozen=True)
class LeftOut:
    """A listed clip that training does not use."""

    video_id: str
    split: Split
    reason: Reason
    """No file, a file of 0 bytes, named in ``left_out.txt``, or absent from the annotation list."""


def some_of(names: Iterable[str], count: int = NAMED) -> str:
    """``"00001, 00004, …"``: at most ``count`` names, without control characters."""
    names = list(names)
    return ", ".join(plain(name) for name in names[:count]) + (", …" if len(names) > count else "")


def describe(left_out: Iterable[LeftOut], listed: int) -> str:
    """Describe in one line how many of the ``listed`` clips are left out, why, and some of their ids."""
    by_reason: dict[Reason, list[str]] = {}
    for clip in left_out:
        by_reason.setdefault(clip.reason, []).append(clip.video_id)
    parts = [f"{len(ids)} {reason} ({some_of(ids)})" for reason, ids in sorted(by_reason.items())]
    count = sum(map(len, by_reason.values()))
    return f"{count} of {listed} listed clips {'is' if count == 1 else 'are'} left out: {', '.join(parts)}"


def read_text(path: Path, cure: str = "check the file") -> str:
    """Return the text of a UTF-8 file as it is, without a byte order mark. ``cure`` is for a file that is no such text.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: it is not UTF-8 text; {cure}") from error


def read_list(data_dir: Path) -> frozenset[str]:
    """Return the ids in ``left_out.txt``; empty without such a file. Raises DataError."""
    path = data_dir / LIST_NAME
    if not path.exists():
        return frozenset()
    lines = read_text(path, "check the file, or delete it").splitlines()
    return frozenset(line.split("\t")[0].strip() for line in lines if line.strip())


def write_list(data_dir: Path, causes: dict[str, str]) -> Path:
    """Add ``causes`` {id: reason} to ``left_out.txt``, completely or not at all; return its path.

    Raises:
        ConfigError: the directory cannot be written.
    """
    path = data_dir / LIST_NAME
    before = read_text(path) if path.exists() else ""
    text = before + "".join(f"{video_id}\t{' '.join(why.split())}\n" for video_id, why in sorted(causes.items()))
    write_atomically(path, text, cure="make the directory writable")
    return path
