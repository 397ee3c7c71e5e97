"""Files that a command writes beside what it prints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from slr_bench.errors import ConfigError


def refuse_lost_outputs(paths: Iterable[Path | None]) -> None:
    """Told before anything is measured.

    Raises:
        ConfigError: an output file could not be written.
    """
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            why = f"there is no directory {path.parent}; make it, or"
        elif path.is_dir():
            why = "Is a directory;"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            why = "Permission denied;"
        else:
            continue
        raise ConfigError(f"cannot write {path}: {why} choose another place")


def remove_outputs(paths: Iterable[Path | None]) -> None:
    """What an earlier run wrote is not taken for this one's answer, however this one ends. Pipes and links stay: what
    is written into them is not theirs to keep.

    Raises:
        ConfigError: a file cannot be removed.
    """
    for path in paths:
        if path is None or path.is_symlink() or not path.is_file():
            continue
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from error


def write_output(path: Path, content: str | bytes) -> None:
    """Write an output file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from error
