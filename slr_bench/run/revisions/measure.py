"""Measures two revisions of the repository interleaved: checks them out, expands the grid, runs it, and cleans up."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from slr_bench.errors import ConfigError, DataError, NoBaselineError, NotComparableError
from slr_bench.files import Overrides
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.run.revisions.checkouts import Revision, Tree, source_trees
from slr_bench.run.revisions.foreign_cells import Expanded, expand_in
from slr_bench.run.runner import Listener, SessionConfig, make_and_report, open_session
from slr_bench.run.schedule import Run, schedule
from slr_bench.run.store import Pairing, Store

SIDES = ("base", "head")


@dataclass(frozen=True)
class MeasurementRequest:
    """The grid to measure on both revisions, and its options."""

    grid: GridConfig
    overrides: Overrides
    arm: str | None
    fake: bool
    command: str


@contextmanager
def measure_interleaved(
    top: Path, revisions: Sequence[Revision], request: MeasurementRequest, out: Path | None, listener: Listener
) -> Iterator[tuple[Path, Path]]:
    """Measure both revisions process by process in alternation; give the run directories of base and head.

    They are ``out/base`` and ``out/head``, where the same command continues. Without ``out`` they are removed at the
    end.

    Raises:
        ConfigError: The grid, the data or the output directory cannot be used.
        NoBaselineError: Only the base cannot run the grid.
        NotComparableError: The revisions have no cell in common.
    """
    with source_trees(top, revisions) as (trees, root):
        base, head = _expand_both(trees, request)
        if not common_cells(base.cells, head.cells):
            raise NotComparableError(_nothing_in_common(trees, base, head))
        stores = [Store((out or root / "runs") / side) for side in SIDES]
        pair = _pair_id(stores)
        configs = [
            _session_config(
                expanded, store, Pairing(pair=pair, name=tree.name, refused=dict(expanded.refused)), request
            )
            for tree, expanded, store in zip(trees, (base, head), stores, strict=True)
        ]
        run_pairs(configs[0], configs[1], listener)
        yield stores[0].directory, stores[1].directory


def run_pairs(base: SessionConfig, head: SessionConfig, listener: Listener) -> None:
    """Run what is missing of the cells that both sources have, each into its own run directory.

    A repeat of a cell is a pair of neighbours. A coin decides which side goes first, as between the sides of an
    A/A run.

    Raises:
        ConfigError: A directory belongs to another source, environment or configuration.
    """
    configs = {"a": base, "b": head}
    with ExitStack() as stack:
        sessions = {side: stack.enter_context(open_session(config)) for side, config in configs.items()}
        identity = "".join(session.identity for session in sessions.values())
        runs = schedule(common_cells(base.cells, head.cells), 2, identity)
        cells = {side: {cell.cell_id: cell for cell in config.cells} for side, config in configs.items()}
        # A run as its session knows it: with the setting of that source, as the only side of its directory.
        own = {run.name: Run(cells[run.side][run.cell.cell_id], "a", run.repeat) for run in runs}
        missing = [run for run in runs if own[run.name].name not in sessions[run.side].records]
        note = next((session.note for session in sessions.values() if session.note), None)
        listener.scheduled(runs, len(runs) - len(missing), note)
        for run in missing:
            other = sessions["b" if run.side == "a" else "a"]
            is_broken_pair = own[run.name].name in other.earlier
            make_and_report(sessions[run.side], run, listener, len(runs), is_broken_pair, own[run.name])


def common_cells(base: Sequence[Cell], head: Sequence[Cell]) -> list[Cell]:
    """Return the cells of ``base`` that ``head`` has too: equal setting and arm."""
    others = {(cell.cell_id, cell.arm) for cell in head}
    return [cell for cell in base if (cell.cell_id, cell.arm) in others]


def _session_config(expanded: Expanded, store: Store, pairing: Pairing, request: MeasurementRequest) -> SessionConfig:
    return SessionConfig(
        grid=expanded.grid,
        cells=expanded.cells,
        store=store,
        fake=request.fake,
        command=request.command,
        source=expanded.source,
        pairing=pairing,
    )


def _expand_both(trees: Sequence[Tree], request: MeasurementRequest) -> tuple[Expanded, Expanded]:
    found: list[Expanded] = []
    mistakes: dict[str, str] = {}
    for side, tree in zip(SIDES, trees, strict=True):
        try:
            found.append(expand_in(tree, request.grid, request.overrides, request.arm, request.fake))
        except (ConfigError, DataError) as error:
            mistakes[side] = str(error)
    if mistakes:
        _raise(mistakes, trees)
    base, head = found
    for arm in base.refused.keys() & head.refused.keys():
        raise ConfigError(head.refused[arm])
    return base, head


def _raise(mistakes: Mapping[str, str], trees: Sequence[Tree]) -> NoReturn:
    """Blame the grid for a mistake on both sides, and otherwise the revision."""
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
    """Return the id of the measurement that is continued, or a new one."""
    manifests = [manifest for store in stores if (manifest := store.read_manifest())]
    pairs = {manifest.pairing.pair for manifest in manifests if manifest.pairing}
    return pairs.pop() if len(pairs) == 1 else secrets.token_hex(8)
