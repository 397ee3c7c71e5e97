"""Cells of another source tree, as that tree's own code expanded them.

This process never imports the tree. It knows a setting as a mapping, and a workload as a name with the modules that the
fork server must import.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import RootModel, ValidationError

from slr_bench.errors import ConfigError
from slr_bench.files import Overrides, flatten, nest
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.run.revisions.checkouts import Tree
from slr_bench.run.revisions.expand_child import ExpandedCell, Expansion, ExpansionRequest
from slr_bench.run.runner import Source
from slr_bench.units import plain

EXPANSION = "slr_bench.run.revisions.expand_child"


class ForeignSetting(RootModel[dict[str, Any]]):
    """A setting whose keys only its own source tree knows."""


@dataclass(frozen=True)
class Expanded:
    """A grid as the code of a tree expands it."""

    grid: GridConfig
    cells: tuple[Cell, ...]
    refused: Mapping[str, str]
    """The reason for each arm that the tree cannot run."""
    source: Source


def expand_in(tree: Tree, grid: GridConfig, overrides: Overrides, arm: str | None, fake: bool) -> Expanded:
    """Expand a grid with the code of a tree.

    The grid is the caller's. Training files that it starts from are those of the tree, if it has them.

    Raises:
        ConfigError: The tree's code refuses the whole grid, or fails over it.
    """
    own = _moved(grid, tree)
    request = ExpansionRequest(grid=own, overrides=dict(overrides), arm=arm, fake=fake, foreign=tree.top)
    variables = dict(tree.variables())
    done = subprocess.run(
        [sys.executable, "-m", EXPANSION],
        input=request.model_dump_json(),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        expansion = Expansion.model_validate_json(done.stdout)
    except ValidationError:
        raise ConfigError(f"its code broke while it expanded the grid: {_last_line(done.stderr)}") from None
    if expansion.error is not None:
        raise ConfigError(_public(expansion.error, tree))
    refused = {name: plain(_public(text, tree)) for name, text in expansion.refused.items()}
    cells = tuple(_cell(expanded, own) for expanded in expansion.cells)
    return Expanded(own, cells, refused, Source(f"{expansion.hash}-{tree.content[:16]}", variables))


def _moved(grid: GridConfig, tree: Tree) -> GridConfig:
    arms = {
        name: values | ({"base": tree.moved(Path(values["base"]))} if "base" in values else {})
        for name, values in grid.arms.items()
    }
    return grid.model_copy(update={"base": tree.moved(grid.base) if grid.base else None, "arms": arms})


def _cell(expanded: ExpandedCell, grid: GridConfig) -> Cell:
    flat = flatten(expanded.setting)
    flat |= {key: Path(flat[key]) for key in expanded.paths}
    spec = WorkloadSpec(
        name=expanded.workload,
        settings=ForeignSetting,
        build=_not_here,
        kind=expanded.kind,
        preload=expanded.preload,
        packages=expanded.packages,
        monotone=expanded.monotone,
        prepare=lambda _: expanded.facts,
    )
    return Cell(
        cell_id=expanded.cell_id,
        arm=expanded.arm,
        spec=spec,
        part=grid.parts[expanded.part],
        settings=ForeignSetting(nest(flat)),
        coordinates=expanded.coordinates,
        is_own=expanded.is_own,
    )


def _not_here(settings: Any, context: Any) -> NoReturn:
    raise AssertionError("a foreign workload is built in a process of its own source")


def _public(text: str, tree: Tree) -> str:
    """Replace the names of the tree's files by those in the repository."""
    return text.replace(f"{tree.directory}/", "")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return plain(lines[-1]) if lines else "it said nothing"
