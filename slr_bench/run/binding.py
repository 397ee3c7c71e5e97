"""A run directory belongs to one source, environment and configuration; those of another are refused, never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slr_bench.errors import ConfigError
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Record
from slr_bench.run.store import CellEntry, Manifest, Store

_BOUND = {"source_hash": "source", "config_hash": "configuration or other data", "environment": "environment"}
_CURE = "records are never mixed: choose another directory with --out, or set the old one aside with --fresh"
_OF_A_CELL = {"threads"}
"""Keys of the environment that a workload may set for itself."""


class BoundElsewhereError(ConfigError):
    """The run directory holds runs of another source, environment or configuration."""


def source_hash(cells: Sequence[Cell]) -> str:
    """Hash of the Python source of this package and of the workloads' packages."""
    packages = sorted({"slr_bench", *(package for cell in cells for package in cell.spec.packages)})
    digest = hashlib.sha256()
    for package in packages:
        for name, path in _sources(package):
            digest.update(f"{package}/{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Name and file of every Python module of a package, or of a module that is one file."""
    spec = find_spec(package)
    roots = sorted((spec.submodule_search_locations if spec else None) or [])
    for root in roots:
        for path in sorted(Path(root).rglob("*.py")):
            yield str(path.relative_to(root)), path
    if spec is not None and not roots and spec.origin is not None and spec.has_location:
        yield Path(spec.origin).name, Path(spec.origin)


def config_hash(grid: GridConfig, cells: Sequence[Cell], facts: Mapping[str, Mapping[str, str]], fake: bool) -> str:
    """Hash of what decides a figure and is no part of a cell's id. How often and how long to run is not in it."""
    measured = grid.model_dump(mode="json", include={"device", "isolation", "sample_hz", "ram_limit", "sides"})
    plans = [
        (
            cell.cell_id,
            cell.arm,
            cell.part.model_dump(mode="json", include={"warmup_steps", "timed_steps"}),
            facts[cell.cell_id],
        )
        for cell in cells
    ]
    return hashlib.sha256(json.dumps([measured, plans, fake], sort_keys=True).encode()).hexdigest()[:16]


def cell_entries(cells: Sequence[Cell]) -> tuple[CellEntry, ...]:
    """The cells as the manifest lists them."""
    return tuple(
        CellEntry(
            cell_id=cell.cell_id,
            arm=cell.arm,
            workload=cell.spec.name,
            setting=cell.public_setting,
            coordinates=dict(cell.coordinates),
            is_own=cell.is_own,
            repeats=cell.part.repeats,
        )
        for cell in cells
    )


def bind(store: Store, manifest: Manifest) -> str | None:
    """Tie the directory to this source, environment and configuration. What to tell of the earlier plan, or None.

    Raises:
        BoundElsewhereError: it, or a record put into it, is of another.
    """
    earlier = store.read_manifest()
    for name in _BOUND if earlier else ():
        before, now = getattr(earlier, name), getattr(manifest, name)
        if before != now:
            raise BoundElsewhereError(
                f"{store.directory} holds runs of another {_BOUND[name]} ({_difference(before, now)}); {_CURE}"
            )
    for record in store.read_records()[0]:
        if (found := foreign_trait(record, manifest)) is not None:
            raise BoundElsewhereError(
                f"{store.directory}: records/{record.name}.json is of another {found}; take it out, or: {_CURE}"
            )
    store.write_manifest(manifest)  # anew each time: repeats may have grown
    return repeats_change(earlier, manifest) if earlier else None


def repeats_change(earlier: Manifest, manifest: Manifest) -> str | None:
    """What a second run with other ``repeats`` does, in a line; None where they are the same."""
    before = {entry.cell_id: entry.repeats for entry in earlier.cells}
    asked = [(before.get(entry.cell_id, entry.repeats), entry.repeats) for entry in manifest.cells]
    changes = [f"{old} before, {new} now" for old, new in dict.fromkeys(asked) if old != new]
    if not changes:
        return None
    return (
        f"repeats: {'; '.join(changes)}. Missing runs are added, finished ones stay and count, "
        "and grid.json keeps this command"
    )


def foreign_trait(record: Record, manifest: Manifest) -> str | None:
    """What shows that a record was not made in this directory; None where nothing does. A cell that the grid does
    not have is not foreign: the report leaves it out and says so."""
    own = {key: value for key, value in manifest.environment.items() if key not in _OF_A_CELL}
    seen = {key: record.environment[key] for key in own if key in record.environment}
    if seen != {key: own[key] for key in seen}:
        return f"environment ({_difference({key: own[key] for key in seen}, seen)})"
    entry = next((entry for entry in manifest.cells if entry.cell_id == record.cell_id), None)
    if entry is not None and (entry.workload, entry.setting) != (record.workload, record.setting):
        return "setting than the cell of that id"
    return None


def _difference(before: Any, now: Any) -> str:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return f"{before}, now {now}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in keys)
