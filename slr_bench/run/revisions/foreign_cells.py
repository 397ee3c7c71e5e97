"""The parent's half of another source tree: its cells, as that tree's own code expanded them.

This process never imports the tree: a setting is to it a mapping, a workload a name with what the server must load.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import RootModel

from slr_bench.errors import ConfigError
from slr_bench.files import Overrides, flatten, nest
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.run.revisions.checkouts import Tree
from slr_bench.run.session import Source
from slr_bench.units import plain

EXPANSION = "slr_bench.run.revisions.expand_child"


class ForeignSetting(RootModel[dict[str, Any]]):
    """A setting whose keys only its own source tree knows."""


@dataclass(frozen=True)
class Expanded:
    """What a tree makes of a grid."""

    grid: GridConfig
    cells: tuple[Cell, ...]
    refused: Mapping[str, str]
    """Arms that it cannot run, with why."""
    source: Source


def expand_in(tree: Tree, grid: GridConfig, overrides: Overrides, arm: str | None, fake: bool) -> Expanded:
    """Expand a grid with a tree's code. The grid is the caller's; training files that it starts from are the tree's own
    where it has them.

    Raises:
        ConfigError: the tree's code refuses the whole grid, or breaks over it.
    """
    own = _moved(grid, tree)
    request = {
        "grid": own.model_dump(mode="json"),
        "overrides": overrides,
        "arm": arm,
        "fake": fake,
        "foreign": str(tree.top),
    }
    variables = dict(tree.variables())
    done = subprocess.run(
        [sys.executable, "-m", EXPANSION],
        input=json.dumps(request, default=str),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise ConfigError(f"its code broke while it expanded the grid: {_last_line(done.stderr)}") from None
    if "error" in answer:
        raise ConfigError(_public(answer["error"], tree))
    refused = {name: plain(_public(text, tree)) for name, text in answer["refused"].items()}
    cells = tuple(_cell(values, own) for values in answer["cells"])
    return Expanded(own, cells, refused, Source(f"{answer['hash']}-{tree.content[:16]}", variables))


def _moved(grid: GridConfig, tree: Tree) -> GridConfig:
    arms = {
        name: values | ({"base": tree.moved(Path(values["base"]))} if "base" in values else {})
        for name, values in grid.arms.items()
    }
    return grid.model_copy(update={"base": tree.moved(grid.base) if grid.base else None, "arms": arms})


def _cell(values: Mapping[str, Any], grid: GridConfig) -> Cell:
    flat = flatten(values["setting"])
    flat |= {key: Path(flat[key]) for key in values["paths"]}
    facts = values["facts"]
    spec = WorkloadSpec(
        name=values["workload"],
        settings=ForeignSetting,
        build=_not_here,
        kind=values["kind"],
        preload=tuple(values["preload"]),
        packages=tuple(values["packages"]),
        monotone=tuple(values["monotone"]),
        prepare=lambda _: facts,
    )
    return Cell(
        cell_id=values["cell_id"],
        arm=values["arm"],
        spec=spec,
        part=grid.parts[values["part"]],
        settings=ForeignSetting(nest(flat)),
        coordinates=values["coordinates"],
        is_own=values["is_own"],
    )


def _not_here(settings: Any, context: Any) -> NoReturn:
    raise AssertionError("a foreign workload is built in a process of its own source")


def _public(text: str, tree: Tree) -> str:
    """The tree's files by their names in the repository."""
    return text.replace(f"{tree.directory}/", "")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return plain(lines[-1]) if lines else "it said nothing"
