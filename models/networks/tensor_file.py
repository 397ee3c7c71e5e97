"""Reads files of ``torch.save`` without running code from them, and checks that they are complete."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy._core.multiarray import scalar

from slr_bench.errors import ConfigError
from slr_bench.units import plain

# The errors of torch.load on bytes that are not a file of tensors, found with truncated and random files.
_NOT_TENSORS = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_ARCHIVE = b"PK\x03\x04"
_IS_DIRECTORY = 0x10
_FOREIGN_OBJECT = re.compile(r"Unsupported global: GLOBAL (\S+)")
_PLAIN_DATA: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    (scalar, "numpy.core.multiarray.scalar"),  # the name before NumPy 2
    scalar,
    np.dtype,
    *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
]
"""Types that published checkpoints hold beside tensors: the options of a training, and its best accuracy."""


def read_tensor_file(path: Path, what: str) -> dict[str, Any]:
    """Return the dictionary that ``torch.save`` wrote to ``path``, on the CPU. ``what`` begins every message.

    Also checks the checksums of the file, which torch ignores. This reads the file once more, 1 MiB at a time (0.5 s
    for 480 MiB). Files from before torch 1.6 have no checksums. A file written after ``set_crc32_options(False)`` has
    wrong ones and is refused.

    Raises:
        ConfigError: the file is missing, unreadable, truncated, damaged or foreign.
    """
    if path.is_dir():
        raise ConfigError(f"{what}: {path} is a directory; name a file in it, as {path / 'checkpoint.pt'}")
    if path.suffix in (".onnx", ".pt2"):
        raise ConfigError(f"{what}: {path} is an export, from which nothing is loaded; use the checkpoint.pt it is of")
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}; check the path") from error
    with file:
        try:
            damaged = _damaged_record(file)
            with torch.serialization.safe_globals(_PLAIN_DATA):
                content = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
        except _NOT_TENSORS as error:
            raise ConfigError(f"{what}: {path} {_why_refused(error)}") from error
    if damaged:
        raise ConfigError(f"{what}: {path} is damaged in its record {damaged}; use another copy of it")
    if not isinstance(content, dict):
        raise ConfigError(f"{what}: {path} holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


def _why_refused(error: Exception) -> str:
    if match := _FOREIGN_OBJECT.search(str(error)):
        return (
            f"is not a file of tensors: it holds {plain(match[1], 60)}, and reading that could run code; save its "
            "tensors with torch.save(model.state_dict(), FILE) in the program that it comes from"
        )
    return "is truncated or not a file of tensors; use a complete file of torch.save"


def _damaged_record(file: IO[bytes]) -> str | None:
    """Return the first record of an archive that differs from its checksum, and rewind the file.

    One bit that no checksum covers is checked too: it marks a record as a directory, which torch would read as empty.
    """
    damaged = None
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        archive = zipfile.ZipFile(file)
        directories = (record.filename for record in archive.infolist() if record.external_attr & _IS_DIRECTORY)
        damaged = next(directories, None) or archive.testzip()
    file.seek(0)
    return damaged
