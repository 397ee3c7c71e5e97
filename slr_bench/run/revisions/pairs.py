"""Two source trees measured in turn, process by process, each into a run directory of its own. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import get_args

from slr_bench.grid.cells import Cell
from slr_bench.run.runner import Listener, make_and_tell
from slr_bench.run.schedule import Run, Side, plan
from slr_bench.run.session import Lane


@dataclass(frozen=True)
class PairRunner:
    """Runs the cells that both lanes have. A repeat of a cell is a pair of neighbours; who goes first a coin decides,
    as between the sides of an A/A run.
    """

    base: Lane
    head: Lane

    def run(self, listener: Listener) -> None:
        """Run what is missing.

        Raises:
            ConfigError: a directory belongs to another source, environment or configuration.
        """
        runs = plan(self.common, 2, self.base.identity + self.head.identity)
        with ExitStack() as stack:
            notes = [stack.enter_context(lane.opened()) for lane in (self.base, self.head)]
            known = {side: {cell.cell_id: cell for cell in self._lane(side).job.cells} for side in get_args(Side)}
            # A run as its lane knows it: with that source's own setting, as the one side of its directory.
            own = {run.name: Run(known[run.side][run.cell.cell_id], "a", run.repeat) for run in runs}
            missing = [run for run in runs if own[run.name].name not in self._lane(run.side).records]
            listener.planned(runs, len(runs) - len(missing), next((note for note in notes if note), None))
            for run in missing:
                other = self.head if run.side == "a" else self.base
                is_torn = own[run.name].name in other.earlier
                make_and_tell(self._lane(run.side), run, listener, len(runs), is_torn, own[run.name])

    @property
    def common(self) -> Sequence[Cell]:
        """The base's cells that the head has, too: equal setting and arm."""
        return common_cells(self.base.job.cells, self.head.job.cells)

    def _lane(self, side: Side) -> Lane:
        return self.base if side == "a" else self.head


def common_cells(base: Sequence[Cell], head: Sequence[Cell]) -> list[Cell]:
    """Cells of ``base`` that ``head`` has, too: equal setting and arm."""
    others = {(cell.cell_id, cell.arm) for cell in head}
    return [cell for cell in base if (cell.cell_id, cell.arm) in others]
