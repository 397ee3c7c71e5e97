"""The parent: expands nothing, measures nothing; isolates, skips, repeats, stores, resumes. Imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from slr_bench.errors import NothingMeasuredError
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, Record
from slr_bench.run.attempt import Attempt, Attempts
from slr_bench.run.binding import bind, cell_entries, config_hash, source_hash
from slr_bench.run.dominance import Dominance
from slr_bench.run.executors.local import LocalExecutor
from slr_bench.run.plan import Run, plan
from slr_bench.run.preparation import prepare
from slr_bench.run.store import Manifest, Store
from slr_bench.run.validity import Readers, as_discarded, may_repeat

_ANSWERS = (Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST)
BROKEN_PAIR = "broken pair: the other side ran in an earlier start of the grid, not beside it"


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
        self._grid, self._cells, self._store = grid, list(cells), store
        self._fake, self._command, self._retry, self._skip = fake, command, retry, skip
        self._facts = {cell.cell_id: {} for cell in cells} if fake else prepare(cells, grid.device)
        self._attempts = Attempts(grid, store.directory, self._facts, fake=fake, readers=readers)
        self._dominance = Dominance(self._cells)
        self._source_hash = source_hash(self._cells)
        self._config_hash = config_hash(grid, self._cells, self._facts, fake)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self._store.directory

    def run(self, listener: Listener) -> Totals:
        """Run what is missing.

        Raises:
            ConfigError: the directory belongs to another source, environment or configuration.
            NothingMeasuredError: no run gave a result.
        """
        start_s = time.monotonic()
        runs = plan(self._cells, self._grid.sides, self._source_hash + self._config_hash)
        preload = sorted({"slr_bench.run.measure", *(module for cell in self._cells for module in cell.spec.preload)})
        with self._store.locked(), LocalExecutor(preload, thread_environment()) as executor:
            environment = self._attempts.environment(executor)
            note = bind(self._store, self._manifest(environment))
            records = self._finished()
            earlier = frozenset(records)
            listener.planned(runs, sum(run.name in records for run in runs), note)
            missing = [run for run in runs if run.name not in records]
            for run in missing:
                listener.started(run)
                reason = self._dominance.why_skipped(run.cell.cell_id, records.values()) if self._skip else None
                if reason is not None:
                    attempt = Attempt(self._attempts.skipped(run, reason, environment), None)
                else:
                    attempt = self._make_valid(executor, run, listener, len(runs), run.partner_name in earlier)
                self._store.write_record(*attempt)
                records[run.name] = attempt.record
                listener.finished(run, attempt.record)
        return self._totals(runs, time.monotonic() - start_s, len(missing))

    def _make_valid(
        self, executor: LocalExecutor, run: Run, listener: Listener, runs: int, is_broken_pair: bool
    ) -> Attempt:
        """Make a run; a disturbed one again while that is allowed. The last is kept with its marks."""
        while True:
            attempt = self._attempts.make(executor, run, lambda phase: listener.progressed(run, phase))
            record = attempt.record
            discarded = self._store.read_discarded() if record.marks else []
            is_again = record.outcome is Outcome.OK and may_repeat(run.name, discarded, runs, self._grid.invalid_reruns)
            if not record.marks or not is_again:
                break
            listener.progressed(run, f"disturbed ({record.marks[0]}), once more")
            self._store.write_discarded(as_discarded(record), 1 + sum(old.name == run.name for old in discarded))
        if is_broken_pair:
            record = record.model_copy(update={"marks": (*record.marks, BROKEN_PAIR)})
        return Attempt(record, attempt.samples)

    def _finished(self) -> dict[str, Record]:
        """Records of runs that need not be made again. With ``retry`` crashes and timeouts are; a skipped one is
        where nothing dominates it any more, or skipping is off.
        """
        again = {Outcome.SKIPPED_DOMINATED} | ({Outcome.CRASH, Outcome.TIMEOUT} if self._retry else set())
        found = self._store.read_records()[0]
        finished = {record.name: record for record in found if record.outcome not in again}
        if self._skip:
            made = list(finished.values())
            skipped = [record for record in found if record.outcome is Outcome.SKIPPED_DOMINATED]
            finished |= {old.name: old for old in skipped if self._dominance.why_skipped(old.cell_id, made)}
        return finished

    def _manifest(self, environment: dict[str, Any]) -> Manifest:
        return Manifest(
            workload=self._grid.workload,
            source_hash=self._source_hash,
            config_hash=self._config_hash,
            environment=environment,
            command=self._command,
            cells=cell_entries(self._cells),
            ladder=self._grid.ladder,
        )

    def _totals(self, runs: Sequence[Run], duration_s: float, ran: int) -> Totals:
        wanted = {run.name for run in runs}
        records = [record for record in self._store.read_records()[0] if record.name in wanted]
        if not any(record.outcome in _ANSWERS for record in records):
            reasons = sorted({f"{record.outcome}: {record.reason}" for record in records})
            raise NothingMeasuredError(f"nothing was measured; every cell ended as {'; '.join(reasons)}")
        return Totals(records, duration_s, ran)


def thread_environment() -> dict[str, str]:
    """Thread settings fixed when the server starts: one OpenMP thread a core unless the user says otherwise. MKL's
    follows, since torch takes its number of threads from there: a user's ``OMP_NUM_THREADS=1`` alone would do nothing.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    defaults = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def outcome_counts(records: Sequence[Record]) -> dict[str, int]:
    """Outcome -> number of runs."""
    return {str(outcome): count for outcome in Outcome if (count := sum(r.outcome is outcome for r in records))}
