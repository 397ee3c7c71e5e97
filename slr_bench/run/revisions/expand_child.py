"""Expands a grid with the code of another source tree: ``python -m slr_bench.run.revisions.expand_child``.

Settings, their defaults and their checks are part of the source under measurement. Only a process that imports that
source knows what the cells are. It does not import torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slr_bench.errors import ConfigError, SlrBenchError
from slr_bench.execute.job import OLD_NAMES_VARIABLE
from slr_bench.files import flatten
from slr_bench.grid.cells import Cell, expand_each
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import registrations
from slr_bench.run.binding import source_hash
from slr_bench.run.cell_runner import prepare
from slr_bench.worker.old_names import install


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExpansionRequest(_Message):
    """The grid that the parent wants expanded."""

    grid: GridConfig
    overrides: dict[str, Any]
    arm: str | None
    fake: bool
    foreign: Path
    """The working tree, from which no package may be imported."""


class ExpandedCell(_Message):
    """One cell, as values that a process without the source can hold."""

    cell_id: str
    arm: str
    part: int
    """Position of the grid's part."""
    workload: str
    kind: Literal["step", "whole"]
    setting: dict[str, Any]
    paths: tuple[str, ...]
    """Dotted keys of the setting whose values are paths."""
    coordinates: dict[str, Any]
    is_own: bool
    preload: tuple[str, ...]
    packages: tuple[str, ...]
    monotone: tuple[str, ...]
    facts: dict[str, str]


class Expansion(_Message):
    """The cells of a grid, or the error that kept it from being expanded."""

    cells: tuple[ExpandedCell, ...] = ()
    refused: dict[str, str] = {}
    """The reason for each arm that this source cannot run."""
    hash: str = ""
    """Hash of the source."""
    error: str | None = None


def main() -> None:
    """Read a request from stdin and write an expansion to stdout."""
    if os.environ.get(OLD_NAMES_VARIABLE):
        install()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a source may print while it is imported
            expansion = expand_here(ExpansionRequest.model_validate_json(sys.stdin.read()))
    except SlrBenchError as error:
        expansion = Expansion(error=str(error))
    sys.stdout.write(expansion.model_dump_json())


def expand_here(request: ExpansionRequest) -> Expansion:
    """Return the cells of a grid as the source of this process defines them.

    Raises:
        ConfigError: No arm can be expanded, or a workload would come from the ``foreign`` directory.
        DataError: The data of a cell cannot be used.
    """
    grid = request.grid
    cells, refused = expand_each(grid, request.overrides, request.arm)
    _refuse_foreign(cells, request.foreign)
    facts = {cell.cell_id: {} for cell in cells} if request.fake else prepare(cells, grid.device)
    parts = [id(part) for part in grid.parts]
    expanded = tuple(_expanded(cell, parts.index(id(cell.part)), facts[cell.cell_id]) for cell in cells)
    return Expansion(cells=expanded, refused=refused, hash=source_hash(cells))


def _expanded(cell: Cell, part: int, facts: Mapping[str, str]) -> ExpandedCell:
    values = flatten(cell.settings.model_dump())
    return ExpandedCell(
        cell_id=cell.cell_id,
        arm=cell.arm,
        part=part,
        workload=cell.spec.name,
        kind=cell.spec.kind,
        setting=cell.settings.model_dump(mode="json"),
        paths=tuple(key for key, value in values.items() if isinstance(value, Path)),
        coordinates=dict(cell.coordinates),
        is_own=cell.is_own,
        preload=cell.spec.preload,
        packages=cell.spec.packages,
        monotone=cell.spec.monotone,
        facts=dict(facts),
    )


def _refuse_foreign(cells: Sequence[Cell], foreign: Path) -> None:
    """Refuse a package that this source lacks and that would come from the user's working tree instead."""
    homes = {one.name: one.module for one in registrations()}
    names = {name for cell in cells for name in (homes[cell.spec.name], *cell.spec.packages)}
    for name in sorted(names):
        found = find_spec(name)
        for place in [found.origin, *(found.submodule_search_locations or ())] if found else ():
            path = Path(place).resolve() if place else None
            if path and path.is_relative_to(foreign) and not path.is_relative_to(Path(sys.prefix).resolve()):
                raise ConfigError(
                    f"it has no package {name}, which is in the working tree alone; choose a later revision"
                )


if __name__ == "__main__":
    main()
