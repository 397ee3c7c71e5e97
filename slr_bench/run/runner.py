"""Runs the cells of a grid in child processes; handles resuming, repeats and skipping. Does not import torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from slr_bench.errors import NothingMeasuredError
from slr_bench.execute.machine import Readers
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, Record
from slr_bench.run.schedule import Run, schedule
from slr_bench.run.session import Session, SessionConfig, open_session
from slr_bench.run.store import Store

_RESULTS = (Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST)


class Listener(Protocol):
    """Receives progress events from the runner."""

    def scheduled(self, runs: Sequence[Run], finished: int, note: str | None) -> None: ...

    def started(self, run: Run) -> None: ...

    def progressed(self, run: Run, phase: str) -> None: ...

    def finished(self, run: Run, record: Record) -> None: ...


class Totals(NamedTuple):
    """The result of ``Runner.run``."""

    records: list[Record]
    duration_s: float
    ran: int
    """Number of records made, those of skipped runs included."""


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
        """Check the cells against their data, before anything is made.

        ``retry`` repeats crashed and timed-out runs; ``skip`` skips cells that an out-of-memory dominates.
        """
        config = SessionConfig(grid, list(cells), store, fake, command, retry, skip, readers)
        self._config = replace(config, facts=config.collect_facts())

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._config.store.directory

    def run(self, listener: Listener) -> Totals:
        """Run what is missing.

        Raises:
            ConfigError: The directory belongs to another source, environment or configuration.
            NothingMeasuredError: No run gave a result.
        """
        start_s = time.monotonic()
        with open_session(self._config) as session:
            runs = schedule(self._config.cells, self._config.grid.sides, session.identity)
            missing = [run for run in runs if run.name not in session.records]
            listener.scheduled(runs, len(runs) - len(missing), session.note)
            for run in missing:
                make_and_report(session, run, listener, len(runs), run.partner_name in session.earlier)
        return self._totals(runs, time.monotonic() - start_s, len(missing))

    def _totals(self, runs: Sequence[Run], duration_s: float, ran: int) -> Totals:
        wanted = {run.name for run in runs}
        records = [record for record in self._config.store.read_records()[0] if record.name in wanted]
        if not any(record.outcome in _RESULTS for record in records):
            reasons = sorted({f"{record.outcome}: {record.reason}" for record in records})
            raise NothingMeasuredError(f"nothing was measured; every cell ended as {'; '.join(reasons)}")
        return Totals(records, duration_s, ran)


def make_and_report(
    session: Session, run: Run, listener: Listener, runs: int, is_broken_pair: bool, own: Run | None = None
) -> None:
    """Make a run and report it to the listener; ``own`` is the same run under the name it has in its session."""
    listener.started(run)
    record = session.make(own or run, lambda phase: listener.progressed(run, phase), runs, is_broken_pair)
    listener.finished(run, record)


def outcome_counts(records: Sequence[Record]) -> dict[str, int]:
    """Return the number of runs by outcome."""
    return {str(outcome): count for outcome in Outcome if (count := sum(r.outcome is outcome for r in records))}
