"""A grid expanded by the code of another source tree: ``python -m slr_bench.run.revisions.expand_child``, JSON to JSON.

Settings, their defaults and their checks are part of the source under measurement; only a process that imports it can
say what the cells are. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slr_bench.errors import ConfigError, SlrBenchError
from slr_bench.files import flatten
from slr_bench.grid.cells import Cell, expand_each
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import registrations
from slr_bench.run.binding import source_hash
from slr_bench.run.driver import prepare
from slr_bench.worker.old_names import install_if_needed


def main() -> None:
    """Read a request, write ``cells, refused, hash``, or ``error``."""
    request = json.load(sys.stdin)
    install_if_needed()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a source prints as it is imported is no answer
            answer = expand_here(request)
    except SlrBenchError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


def expand_here(request: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a grid as this process's source has them, as JSON values.

    Raises:
        ConfigError: no arm can be expanded, or a workload would come from the ``foreign`` directory.
        DataError: a cell's data cannot be used.
    """
    grid = GridConfig.model_validate(request["grid"])
    cells, refused = expand_each(grid, request["overrides"], request["arm"])
    _refuse_foreign(cells, Path(request["foreign"]))
    facts = {cell.cell_id: {} for cell in cells} if request["fake"] else prepare(cells, grid.device)
    parts = [id(part) for part in grid.parts]
    return {
        "cells": [_cell(cell, parts.index(id(cell.part)), facts[cell.cell_id]) for cell in cells],
        "refused": refused,
        "hash": source_hash(cells),
    }


def _cell(cell: Cell, part: int, facts: Mapping[str, str]) -> dict[str, Any]:
    values = flatten(cell.settings.model_dump())
    return {
        "cell_id": cell.cell_id,
        "arm": cell.arm,
        "part": part,
        "workload": cell.spec.name,
        "kind": cell.spec.kind,
        "setting": cell.settings.model_dump(mode="json"),
        "paths": [key for key, value in values.items() if isinstance(value, Path)],
        "coordinates": dict(cell.coordinates),
        "is_own": cell.is_own,
        "preload": list(cell.spec.preload),
        "packages": list(cell.spec.packages),
        "monotone": list(cell.spec.monotone),
        "facts": dict(facts),
    }


def _refuse_foreign(cells: Sequence[Cell], foreign: Path) -> None:
    """A package that this source lacks must not be taken from the user's working tree instead."""
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
