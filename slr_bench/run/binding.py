"""Binds a run directory to one source, environment and configuration, and refuses runs of any other."""

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
    """Return the hash of the Python source of this package and of the workloads' packages."""
    packages = sorted({"slr_bench", *(package for cell in cells for package in cell.spec.packages)})
    digest = hashlib.sha256()
    for package in packages:
        for name, path in _sources(package):
            digest.update(f"{package}/{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Give the name and file of every Python module of a package, or of a module that is one file."""
    spec = find_spec(package)
    roots = sorted((spec.submodule_search_locations if spec else None) or [])
    for root in roots:
        for path in sorted(Path(root).rglob("*.py")):
            yield str(path.relative_to(root)), path
    if spec is not None and not roots and spec.origin is not None and spec.has_location:
        yield Path(spec.origin).name, Path(spec.origin)


def config_hash(grid: GridConfig, cells: Sequence[Cell], facts: Mapping[str, Mapping[str, str]], fake: bool) -> str:
    """Return the hash of what influences a figure beside the cell's id. Repeats and timeouts are left out."""
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
    """Return the cells as the manifest lists them."""
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
    """Bind the directory to this source, environment and configuration.

    Return a line about a change against the earlier plan, or None.

    Raises:
        BoundElsewhereError: The directory, or a record in it, belongs to another.
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
    store.write_manifest(manifest)  # each time, because repeats may have changed
    return repeats_change(earlier, manifest) if earlier else None


def repeats_change(earlier: Manifest, manifest: Manifest) -> str | None:
    """Return a line about what other ``repeats`` do to an existing directory, or None if they are equal."""
    before = {entry.cell_id: entry.repeats for entry in earlier.cells}
    pairs = [(before.get(entry.cell_id, entry.repeats), entry.repeats) for entry in manifest.cells]
    changes = [f"{old} before, {new} now" for old, new in dict.fromkeys(pairs) if old != new]
    if not changes:
        return None
    return (
        f"repeats: {'; '.join(changes)}. Missing runs are added, finished ones stay and count, "
        "and grid.json keeps this command"
    )


def foreign_trait(record: Record, manifest: Manifest) -> str | None:
    """Return the trait by which a record was not made in this directory, or None.

    A record of a cell that the grid lacks is not foreign; the report leaves it out and says so.
    """
    own = {key: value for key, value in manifest.environment.items() if key not in _OF_A_CELL}
    recorded = {key: record.environment[key] for key in own if key in record.environment}
    if recorded != {key: own[key] for key in recorded}:
        return f"environment ({_difference({key: own[key] for key in recorded}, recorded)})"
    entry = next((entry for entry in manifest.cells if entry.cell_id == record.cell_id), None)
    if entry is not None and (entry.workload, entry.setting) != (record.workload, record.setting):
        return "setting than the cell of that id"
    return None


def _difference(before: Any, now: Any) -> str:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return f"{before}, now {now}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in keys)
