"""The parent: expands nothing, measures nothing; isolates, skips, repeats, stores, resumes. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from slr_bench.errors import NothingMeasuredError
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, Record
from slr_bench.run.interference import Readers
from slr_bench.run.schedule import Run, plan
from slr_bench.run.session import Job, Lane
from slr_bench.run.store import Store

_ANSWERS = (Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST)


class Listener(Protocol):
    """Who is told how the grid goes on."""

    def planned(self, runs: Sequence[Run], finished: int, note: str | None) -> None: ...

    def started(self, run: Run) -> None: ...

    def progressed(self, run: Run, phase: str) -> None: ...

    def finished(self, run: Run, record: Record) -> None: ...


class Totals(NamedTuple):
    """What a call of ``Runner.run`` did."""

    records: list[Record]
    duration_s: float
    ran: int
    """Records made, of skipped runs too."""


class Runner:
    """Runs a grid into a run directory."""

    def __init__(
        self,
        grid: GridConfig,
        cells: Sequence[Cell],
        store: Store,
        *,
        fake: bool,
        command: str,
        retry: bool = False,
        skip: bool = True,
        readers: Readers | None = None,
    ) -> None:
        """``retry``: crashed and timed-out runs again; ``skip``: not the cells that an out-of-memory dominates."""
        self._lane = Lane(Job(grid, list(cells), store, fake, command, retry, skip, readers))

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._lane.job.store.directory

    def run(self, listener: Listener) -> Totals:
        """Run what is missing.

        Raises:
            ConfigError: the directory belongs to another source, environment or configuration.
            NothingMeasuredError: no run gave a result.
        """
        start_s = time.monotonic()
        lane, job = self._lane, self._lane.job
        runs = plan(job.cells, job.grid.sides, lane.identity)
        with lane.opened() as note:
            missing = [run for run in runs if run.name not in lane.records]
            listener.planned(runs, len(runs) - len(missing), note)
            for run in missing:
                make_and_tell(lane, run, listener, len(runs), run.partner_name in lane.earlier)
        return self._totals(runs, time.monotonic() - start_s, len(missing))

    def _totals(self, runs: Sequence[Run], duration_s: float, ran: int) -> Totals:
        wanted = {run.name for run in runs}
        records = [record for record in self._lane.job.store.read_records()[0] if record.name in wanted]
        if not any(record.outcome in _ANSWERS for record in records):
            reasons = sorted({f"{record.outcome}: {record.reason}" for record in records})
            raise NothingMeasuredError(f"nothing was measured; every cell ended as {'; '.join(reasons)}")
        return Totals(records, duration_s, ran)


def make_and_tell(
    lane: Lane, run: Run, listener: Listener, runs: int, is_broken_pair: bool, own: Run | None = None
) -> None:
    """Make a run of the plan; ``own`` is the same one as its lane knows it."""
    listener.started(run)
    record = lane.make(own or run, lambda phase: listener.progressed(run, phase), runs, is_broken_pair)
    listener.finished(run, record)


def outcome_counts(records: Sequence[Record]) -> dict[str, int]:
    """Outcome -> number of runs."""
    return {str(outcome): count for outcome in Outcome if (count := sum(r.outcome is outcome for r in records))}
