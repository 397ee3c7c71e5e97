"""A run directory read for a report: everything that can be read, and a line for everything that cannot.

A runner refuses what a report must show: a lost manifest, a figure that is none, a record of another version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue, ValidationError

from slr_bench.errors import ConfigError
from slr_bench.grid.cells import flatten
from slr_bench.record import Record
from slr_bench.run.store import CellEntry, Manifest, Store

LOST_ARM: Final = "arm not known"
"""Of every cell of a directory whose manifest is lost."""
_MOST_AXES: Final = 6


@dataclass(frozen=True)
class RunDirectory:
    """What is there."""

    store: Store
    manifest: Manifest
    records: list[Record]
    discarded: list[Record]
    problems: list[str]
    """A line for each file that is no record, or not wholly."""
    fault: str | None
    """Why there is no manifest; the one here was made of the records."""


def read_directory(run_dir: Path) -> RunDirectory:
    """Read a run directory, whole or not.

    Raises:
        ConfigError: there is none, or it holds neither a readable ``grid.json`` nor a readable record.
    """
    if not run_dir.is_dir():
        what = "is a file, not a run directory" if run_dir.exists() else "does not exist"
        raise ConfigError(f"{run_dir} {what}; give the directory that `slr-bench run` wrote")
    store = Store(run_dir)
    records, problems = store.read_records()
    mended, said = _mended(store, {record.name for record in records})
    records = sorted([*records, *mended], key=lambda record: record.name)
    problems = [line for line in problems if line.partition(":")[0] not in {one.partition(":")[0] for one in said}]
    manifest, fault = _manifest(store, records)
    return RunDirectory(store, manifest, records, store.read_discarded(), [*problems, *said], fault)


def _manifest(store: Store, records: Sequence[Record]) -> tuple[Manifest, str | None]:
    try:
        manifest = store.read_manifest()
        cause = "it has no grid.json"
    except ConfigError as error:
        manifest, cause = None, str(error).rpartition("; ")[0]
    if manifest is not None:
        return manifest, None
    if not records:
        raise ConfigError(
            f"{store.directory} is not a run directory: {cause} and no record; "
            "give the directory that `slr-bench run` wrote"
        )
    fault = (
        f"{store.directory}: {cause}. Arms, own settings and runs not made are not known; what is reported are its "
        f"{len(records)} records alone; bring grid.json back, or run the grid anew"
    )
    return _manifest_of(records), fault


def _manifest_of(records: Sequence[Record]) -> Manifest:
    """Cells as the records know them; what their settings differ in stands for the axes."""
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
    """The first keys in which settings differ."""
    values: dict[str, set[str]] = {}
    for record in records:
        for key, value in flatten(record.setting).items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    return [key for key, found in values.items() if len(found) > 1][:_MOST_AXES]


def _mended(store: Store, known: set[str]) -> tuple[list[Record], list[str]]:
    """Records that are refused for a figure that is none (NaN, infinite): without it, and a line for each."""
    found, lines = [], []
    for path in sorted(store.records_directory.glob("*.json")):
        if path.stem in known:
            continue
        try:
            raw = json.loads(path.read_text())
            names = _drop_what_is_no_number(raw)
            record = Record.model_validate(raw) if names else None
        except (OSError, ValueError, ValidationError, AttributeError, TypeError):
            continue  # the store has said what is wrong with it
        if record is not None and record.name == path.stem:
            found.append(record)
            lines.append(f"{path.name}: {', '.join(names)} left out: NaN and infinite are no figures")
    return found, lines


def _drop_what_is_no_number(raw: dict[str, Any]) -> list[str]:
    """Make such metrics unavailable; their names."""
    dropped = []
    for name, metric in raw["metrics"].items():
        value: JsonValue = metric["value"]
        if isinstance(value, float) and not math.isfinite(value):
            reason = f"the record holds {value}, which is no figure"
            metric |= {"value": None, "quality": "unavailable", "reason": reason}
            dropped.append(name)
    return dropped
