"""Reads a run directory for a report: everything that can be read, and a line for everything that cannot.

A report must also show what a runner refuses: a lost manifest, a value that is no number, a record of another version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slr_bench.compare.cells import FoundRecords, find_records
from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.record import Record
from slr_bench.run.store import CellEntry, Manifest, Store
from slr_bench.units import plain

LOST_ARM: Final = "arm not known"
"""Name of the arm of every cell if the manifest is lost."""
_MOST_AXES: Final = 6


@dataclass(frozen=True)
class RunDirectory:
    """The content of a run directory."""

    store: Store
    manifest: Manifest
    records: list[Record]
    discarded: list[Record]
    problems: list[str]
    """One line per reason why files are no records, or are not complete."""
    unreadable: Mapping[str, str]
    """Name of each record that cannot be read -> the reason."""
    fault: str | None
    """Why there is no manifest. If it is set, the manifest here was made from the records."""


def read_directory(run_dir: Path) -> RunDirectory:
    """Read a run directory, complete or not.

    Raises:
        ConfigError: there is no such directory, or it holds neither a readable ``grid.json`` nor a readable record.
    """
    if not run_dir.is_dir():
        what = "is a file, not a run directory" if run_dir.exists() else "does not exist"
        raise ConfigError(f"{run_dir} {what}; give the directory that `slr-bench run` wrote")
    store = Store(run_dir)
    found = find_records(store)
    manifest, fault = _manifest(store, found)
    return RunDirectory(store, manifest, found.records, store.read_discarded(), found.problems, found.unreadable, fault)


def _manifest(store: Store, found: FoundRecords) -> tuple[Manifest, str | None]:
    try:
        manifest = store.read_manifest()
        cause = "it has no grid.json"
    except ConfigError as error:
        manifest, cause = None, str(error).rpartition("; ")[0].replace(f"{store.directory}/", "its ")
    if manifest is not None:
        return manifest, None
    records = found.records
    if not records:
        lost = f"none of its {len(found.unreadable)} records can be read ({next(iter(found.unreadable.values()), '')})"
        raise ConfigError(
            f"{store.directory} is not a run directory: {cause} and {plain(lost) if found.unreadable else 'no record'}"
            "; give the directory that `slr-bench run` wrote"
        )
    fault = (
        f"{store.directory}: {cause}. Arms, own settings and missing runs are not known; the report shows its "
        f"{len(records)} records alone; bring grid.json back, or run the grid again"
    )
    return _manifest_of(records), fault


def _manifest_of(records: Sequence[Record]) -> Manifest:
    """Make a manifest from the records. The keys in which their settings differ are used as axes."""
    first = {record.cell_id: record for record in records}
    varying = _varying(first.values())
    repeats = {name: 1 + max(one.repeat for one in records if one.cell_id == name) for name in first}
    cells = [
        CellEntry(
            cell_id=name,
            arm=LOST_ARM,
            workload=record.workload,
            setting=record.setting,
            coordinates={key: value for key, value in flatten(record.setting).items() if key in varying},
            is_own=False,
            repeats=repeats[name],
        )
        for name, record in first.items()
    ]
    unknown = "not known"
    return Manifest(
        workload=records[0].workload,
        source_hash=unknown,
        config_hash=unknown,
        environment=records[0].environment,
        command=unknown,
        cells=tuple(cells),
    )


def _varying(records: Iterable[Record]) -> list[str]:
    """Return the first keys in which settings differ."""
    values: dict[str, set[str]] = {}
    for record in records:
        for key, value in flatten(record.setting).items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    return [key for key, found in values.items() if len(found) > 1][:_MOST_AXES]
