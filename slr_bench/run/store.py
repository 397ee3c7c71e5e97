"""Reads and writes a run directory: ``grid.json`` and one JSON file per run, each written atomically."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from slr_bench.errors import ConfigError
from slr_bench.execute.job import JsonObject
from slr_bench.files import write_atomically
from slr_bench.grid.config import AblationChain
from slr_bench.record import SCHEMA, Record, parse_record, record_text
from slr_bench.startup import deferred

_CURE: Final = "make room there or choose another directory with --out"
_OWN_NAMES = frozenset((".lock", "records", "samples", "logs", "discarded"))
"""Names that a run leaves if it is stopped before its manifest is written."""


_OPTIONAL = frozenset({"ladder", "in_turn"})


class CellEntry(BaseModel):
    """A cell as the directory lists it. Two arms with equal settings share a cell id and its records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_id: str
    arm: str
    workload: str
    setting: dict[str, JsonValue]
    """The whole setting, nested, without its paths."""
    coordinates: dict[str, JsonValue]
    """The values of the axes that made this cell, by dotted key."""
    is_own: bool
    """If true, this is the arm's own setting before any axis, which the headline compares."""
    repeats: int


class Pairing(BaseModel):
    """One half of an interleaved measurement: two sources, process by process, each in a directory of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair: str
    """An id that both directories share, and no other."""
    name: str
    """The revision that was measured, or the working tree."""
    refused: dict[str, str] = {}
    """The reason for each arm that this source cannot run."""


class Manifest(BaseModel):
    """The contents of ``grid.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_number: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    workload: str
    source_hash: str
    config_hash: str
    environment: dict[str, JsonValue]
    command: str
    """The command that makes this directory again."""
    cells: tuple[CellEntry, ...]
    ladder: AblationChain | None = None
    """The techniques between two of the arms; left out of the file if the grid names none."""
    pairing: Annotated[Pairing | None, Field(alias="in_turn")] = None
    """Present if another directory was measured interleaved with this one; otherwise left out of the file."""

    @model_serializer(mode="wrap")
    def _without_what_it_lacks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}


class Store:
    """Reads and writes one run directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records_directory = directory / "records"
        self.discarded_directory = directory / "discarded"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process.

        Raises:
            ConfigError: The directory is not writable, is a file, or is held by another run.
        """
        self._refuse_foreign()
        try:
            for directory in self._directories:
                directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"cannot use {self.directory} as run directory: {error.strerror}; choose another with --out"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                f"{self.directory} is in use by another run; wait for it or choose another with --out"
            ) from error
        try:
            self._remove_unfinished_writes()
            yield
        finally:
            os.close(handle)

    @property
    def _directories(self) -> tuple[Path, ...]:
        return (
            self.records_directory,
            self.directory / "samples",
            self.directory / "logs",
            self.discarded_directory,
        )

    def _remove_unfinished_writes(self) -> None:
        """Remove what a killed run had not renamed yet. The lock guarantees that no other run is writing."""
        for directory in (self.directory, *self._directories):
            for path in directory.glob(".*.tmp"):
                path.unlink(missing_ok=True)

    def _refuse_foreign(self) -> None:
        """Refuse a directory that holds other things."""
        if not self.directory.is_dir() or (self.directory / "grid.json").exists():
            return
        others = {path.name for path in self.directory.iterdir() if not path.match(".grid.json*.tmp")} - _OWN_NAMES
        if others:
            raise ConfigError(
                f"{self.directory} is no run directory: it holds {sorted(others)[0]}; "
                "choose a new or empty one with --out"
            )

    def write_manifest(self, manifest: Manifest) -> None:
        """Write ``grid.json`` atomically."""
        with deferred():
            text = manifest.model_dump_json(by_alias=True, indent=1)
            write_atomically(self.directory / "grid.json", text, cure=_CURE)

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None if the directory has none yet.

        Raises:
            ConfigError: The file exists but is not a readable manifest.
        """
        path = self.directory / "grid.json"
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{path} is not a readable manifest; {_first_line(error)}; start anew with --out"
            ) from error

    def write_record(self, record: Record, samples: JsonObject | None = None) -> None:
        """Store a finished run: first its samples, then its record."""
        with deferred():
            if samples is not None:
                write_atomically(self.directory / "samples" / f"{record.name}.json", json.dumps(samples), cure=_CURE)
            write_atomically(self.records_directory / f"{record.name}.json", record_text(record), cure=_CURE)

    def read_records(self) -> tuple[list[Record], list[str]]:
        """Return all valid records sorted by name, and a line for each other file, which is left in place."""
        records, problems = [], []
        for path in sorted(self.records_directory.glob("*.json")):
            try:
                record = parse_record(path.read_bytes())
            except (OSError, ValueError) as error:
                problems.append(f"{path.name}: not a readable record: {_first_line(error)}")
                continue
            if path.stem == record.name:
                records.append(record)
            else:
                problems.append(f"{path.name}: a copy of record {record.name}; it counts once")
        return records, problems

    def write_discarded(self, record: Record, attempt: int) -> None:
        """Keep a discarded run for the report: ``discarded/<name>-<attempt>.json``, attempts from 1."""
        with deferred():
            path = self.discarded_directory / f"{record.name}-{attempt}.json"
            write_atomically(path, record_text(record), cure=_CURE)

    def read_discarded(self) -> list[Record]:
        """Return the discarded runs, sorted by name and attempt, without unreadable files."""
        records = []
        for path in sorted(self.discarded_directory.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                records.append(parse_record(path.read_bytes()))
        return records

    def read_samples(self, name: str) -> JsonObject | None:
        """Return the time series of one run, or None if it left none."""
        try:
            samples: JsonObject = json.loads((self.directory / "samples" / f"{name}.json").read_text())
        except (OSError, ValueError):  # ValueError: not JSON, or not even text
            return None
        return samples


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        items = error.errors(include_url=False)
        schema = next((item for item in items if item["loc"][:1] == ("schema",)), None)
        if schema:
            return (
                f"schema {schema['input']!r:.20} was written by another version of slr-bench, this one reads {SCHEMA}"
            )
        message = items[0]["msg"].removeprefix("Value error, ")
        return ": ".join(part for part in (".".join(map(str, items[0]["loc"])), message) if part)
    return str(error).splitlines()[0]


def set_aside(directory: Path) -> Path | None:
    """Rename a run directory to the next free ``NAME-<n>``; return the new path, or None if there is no directory.

    Raises:
        ConfigError: It is not a run directory, or a run is writing to it.
    """
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise ConfigError(f"{directory} is a file, not a run directory; choose another with --out")
    if not (directory / "grid.json").is_file() and any(directory.iterdir()):
        raise ConfigError(f"{directory} holds files that are not runs; choose another with --out")
    number = 1
    while (target := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    with Store(directory).locked():  # a run that still writes to it must keep it
        directory.rename(target)
    return target
