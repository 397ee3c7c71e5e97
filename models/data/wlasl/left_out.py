"""Listed clips that cannot be used: which, why, and how that is said. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.data.wlasl.files import Split
from slr_bench.errors import ConfigError, DataError, why_unreadable

Reason = Literal["missing", "empty", "unreadable"]

LIST_NAME = "left_out.txt"
"""Of a data directory: ids of clips whose files cannot be read, one a line, the cause behind a tab."""
NAMED = 5
"""Ids that a message names; the others are counted."""


@dataclass(frozen=True)
class LeftOut:
    """A clip that the split file lists and training does not see."""

    video_id: str
    split: Split
    reason: Reason
    """No file, a file of 0 bytes, or named in ``left_out.txt``."""


def some_of(names: Iterable[str], count: int = NAMED) -> str:
    """``"00001, 00004, …"``: at most ``count`` names."""
    names = list(names)
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def describe(left_out: Iterable[LeftOut], listed: int) -> str:
    """One line: how many of the ``listed`` clips are left out, why, and some of them by id."""
    by_reason: dict[Reason, list[str]] = {}
    for clip in left_out:
        by_reason.setdefault(clip.reason, []).append(clip.video_id)
    parts = [f"{len(ids)} {reason} ({some_of(ids)})" for reason, ids in sorted(by_reason.items())]
    return f"{sum(map(len, by_reason.values()))} of {listed} listed clips are left out: {', '.join(parts)}"


def read_list(data_dir: Path) -> frozenset[str]:
    """Ids in the directory's ``left_out.txt``; none without one. Raises DataError."""
    path = data_dir / LIST_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {why_unreadable(error)}; check the file, or delete it") from error
    return frozenset(line.split("\t")[0].strip() for line in lines if line.strip())


def write_list(data_dir: Path, causes: dict[str, str]) -> Path:
    """Add ``causes`` {id: why} to the directory's ``left_out.txt``, whole or not at all; its path.

    Raises:
        ConfigError: the directory cannot be written.
    """
    path = data_dir / LIST_NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = before + "".join(f"{video_id}\t{' '.join(why.split())}\n" for video_id, why in sorted(causes.items()))
    temporary = path.with_name(f".{LIST_NAME}.{os.getpid()}")
    try:
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; make the directory writable") from error
    return path
