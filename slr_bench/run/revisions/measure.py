"""Two revisions of the working repository measured in turn: checked out, expanded, run, and cleaned up."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from slr_bench.errors import ConfigError, DataError, NoBaselineError, NotComparableError
from slr_bench.grid.config import GridConfig, Overrides
from slr_bench.run.revisions.checkouts import Revision, Tree, source_trees
from slr_bench.run.revisions.foreign_cells import Expanded, expand_in
from slr_bench.run.revisions.pairs import PairRunner, common_cells
from slr_bench.run.runner import Listener
from slr_bench.run.session import Job, Lane
from slr_bench.run.store import Store, Turn

SIDES = ("base", "head")


@dataclass(frozen=True)
class Asked:
    """What to measure of both revisions."""

    grid: GridConfig
    overrides: Overrides
    arm: str | None
    fake: bool
    command: str


@contextmanager
def measured_in_turn(
    top: Path, revisions: Sequence[Revision], asked: Asked, out: Path | None, listener: Listener
) -> Iterator[tuple[Path, Path]]:
    """The run directories of base and head, measured process by process in turn: ``out/base`` and ``out/head``, with
    which the same command goes on; without ``out`` they are gone at the end.

    Raises:
        ConfigError: the grid, the data or the output place cannot be used.
        NoBaselineError: the base alone cannot run the grid.
        NotComparableError: no cell in common.
    """
    with source_trees(top, revisions) as (trees, root):
        base, head = _expand_both(trees, asked)
        if not common_cells(base.cells, head.cells):
            raise NotComparableError(_nothing_in_common(trees, base, head))
        stores = [Store((out or root / "runs") / side) for side in SIDES]
        pair = _pair_id(stores)
        lanes = [
            Lane(_job(expanded, store, Turn(pair=pair, name=tree.name, refused=dict(expanded.refused)), asked))
            for tree, expanded, store in zip(trees, (base, head), stores, strict=True)
        ]
        PairRunner(*lanes).run(listener)
        yield stores[0].directory, stores[1].directory


def _job(expanded: Expanded, store: Store, turn: Turn, asked: Asked) -> Job:
    return Job(
        grid=expanded.grid,
        cells=expanded.cells,
        store=store,
        fake=asked.fake,
        command=asked.command,
        source=expanded.source,
        in_turn=turn,
    )


def _expand_both(trees: Sequence[Tree], asked: Asked) -> tuple[Expanded, Expanded]:
    found: list[Expanded] = []
    mistakes: dict[str, str] = {}
    for side, tree in zip(SIDES, trees, strict=True):
        try:
            found.append(expand_in(tree, asked.grid, asked.overrides, asked.arm, asked.fake))
        except (ConfigError, DataError) as error:
            mistakes[side] = str(error)
    if mistakes:
        _raise(mistakes, trees)
    base, head = found
    for arm in base.refused.keys() & head.refused.keys():
        raise ConfigError(head.refused[arm])
    return base, head


def _raise(mistakes: Mapping[str, str], trees: Sequence[Tree]) -> NoReturn:
    """A mistake on both sides is the grid's; on one it is that revision's."""
    if len(mistakes) == 2:
        raise ConfigError(mistakes["head"])
    cure = "choose another revision, or with --config a grid that both can run"
    if "base" in mistakes:
        raise NoBaselineError(f"base {trees[0].name} cannot run the grid: {mistakes['base']}; {cure}")
    raise ConfigError(f"head {trees[1].name} cannot run the grid: {mistakes['head']}; {cure}")


def _nothing_in_common(trees: Sequence[Tree], base: Expanded, head: Expanded) -> str:
    names = [", ".join(f"{cell.cell_id} ({cell.arm})" for cell in side.cells[:3]) for side in (base, head)]
    return (
        f"no cell in common: {trees[0].name} has {names[0]}, {trees[1].name} {names[1]}; their training files or "
        "defaults differ: choose a grid with --config whose arms set these keys"
    )


def _pair_id(stores: Sequence[Store]) -> str:
    """Of the measurement that goes on, or a new one."""
    manifests = [manifest for store in stores if (manifest := store.read_manifest())]
    pairs = {manifest.in_turn.pair for manifest in manifests if manifest.in_turn}
    return pairs.pop() if len(pairs) == 1 else secrets.token_hex(8)
