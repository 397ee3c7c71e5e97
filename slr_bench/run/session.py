"""The cells of one source in one run directory: bound, made, skipped, stored. Imports no torch.

A grid has one lane; two sources measured in turn have one each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from slr_bench.execute.local import LocalExecutor
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, Record
from slr_bench.run.binding import bind, cell_entries, config_hash, source_hash
from slr_bench.run.cell_runner import Attempt, Attempts
from slr_bench.run.dominance import Dominance
from slr_bench.run.interference import Readers, as_discarded, may_repeat
from slr_bench.run.preflight import prepare
from slr_bench.run.schedule import Run
from slr_bench.run.store import Manifest, Store, Turn

BROKEN_PAIR: Final = "broken pair: the other side ran in an earlier start of the grid, not beside it"

Progressed = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where the code under measurement is, if it is not what this process imports."""

    hash: str
    """Of that code."""
    environment: Mapping[str, str]
    """Further variables of its fork server: where Python looks first."""


@dataclass(frozen=True)
class Job:
    """What a lane measures, and how."""

    grid: GridConfig
    cells: Sequence[Cell]
    store: Store
    fake: bool
    command: str
    retry: bool = False
    """Crashed and timed-out runs again."""
    skip: bool = True
    """Not the cells that an out-of-memory dominates."""
    readers: Readers | None = None
    source: Source | None = None
    in_turn: Turn | None = None


@dataclass
class Lane:
    """Makes runs one by one while it is open; ``records`` are those that need not be made again."""

    job: Job
    records: dict[str, Record] = field(default_factory=dict)
    earlier: frozenset[str] = frozenset()
    """Names of the records that an earlier start has left."""

    def __post_init__(self) -> None:
        job = self.job
        self._facts = {cell.cell_id: {} for cell in job.cells} if job.fake else prepare(job.cells, job.grid.device)
        self._attempts = Attempts(job.grid, job.store.directory, self._facts, fake=job.fake, readers=job.readers)
        self._dominance = Dominance(job.cells)
        self._source_hash = job.source.hash if job.source else source_hash(job.cells)
        self._config_hash = config_hash(job.grid, job.cells, self._facts, job.fake)

    @property
    def identity(self) -> str:
        """Of source and configuration: what the coins of the order are drawn from."""
        return self._source_hash + self._config_hash

    @contextmanager
    def opened(self) -> Iterator[str | None]:
        """Hold the directory and run the fork server; gives what to tell of the earlier plan.

        Raises:
            ConfigError: the directory belongs to another source, environment or configuration.
        """
        job = self.job
        preload = sorted({"slr_bench.worker.measure", *(module for cell in job.cells for module in cell.spec.preload)})
        variables = thread_environment() | dict(job.source.environment if job.source else {})
        with job.store.locked(), LocalExecutor(preload, variables) as executor:
            self._executor = executor
            self._environment = self._attempts.environment(executor)
            note = bind(job.store, self._manifest())
            self.records = self._finished()
            self.earlier = frozenset(self.records)
            yield note

    def make(self, run: Run, progressed: Progressed, runs: int, is_broken_pair: bool) -> Record:
        """Make or skip one of ``runs`` runs, and store its record."""
        reason = self._dominance.why_skipped(run.cell.cell_id, self.records.values()) if self.job.skip else None
        if reason is not None:
            attempt = Attempt(self._attempts.skipped(run, reason, self._environment), None)
        else:
            attempt = self._make_valid(run, progressed, runs)
            if is_broken_pair:
                marks = (*attempt.record.marks, BROKEN_PAIR)
                attempt = Attempt(attempt.record.model_copy(update={"marks": marks}), attempt.samples)
        self.job.store.write_record(*attempt)
        self.records[run.name] = attempt.record
        return attempt.record

    def _make_valid(self, run: Run, progressed: Progressed, runs: int) -> Attempt:
        """Make a run; a disturbed one again while that is allowed. The last is kept with its marks."""
        store, reruns = self.job.store, self.job.grid.invalid_reruns
        while True:
            attempt = self._attempts.make(self._executor, run, progressed)
            record = attempt.record
            discarded = store.read_discarded() if record.marks else []
            is_again = record.outcome is Outcome.OK and may_repeat(run.name, discarded, runs, reruns)
            if not record.marks or not is_again:
                return attempt
            progressed(f"disturbed ({record.marks[0]}), once more")
            store.write_discarded(as_discarded(record), 1 + sum(old.name == run.name for old in discarded))

    def _finished(self) -> dict[str, Record]:
        """Records of runs that need not be made again. With ``retry`` crashes and timeouts are; a skipped one is
        where nothing dominates it any more, or skipping is off.
        """
        again = {Outcome.SKIPPED_DOMINATED} | ({Outcome.CRASH, Outcome.TIMEOUT} if self.job.retry else set())
        found = self.job.store.read_records()[0]
        finished = {record.name: record for record in found if record.outcome not in again}
        if self.job.skip:
            made = list(finished.values())
            skipped = [record for record in found if record.outcome is Outcome.SKIPPED_DOMINATED]
            finished |= {old.name: old for old in skipped if self._dominance.why_skipped(old.cell_id, made)}
        return finished

    def _manifest(self) -> Manifest:
        environment: dict[str, Any] = self._environment
        return Manifest(
            workload=self.job.grid.workload,
            source_hash=self._source_hash,
            config_hash=self._config_hash,
            environment=environment,
            command=self.job.command,
            cells=cell_entries(self.job.cells),
            ladder=self.job.grid.ladder,
            in_turn=self.job.in_turn,
        )


def thread_environment() -> dict[str, str]:
    """Thread settings fixed when the server starts: one OpenMP thread a core unless the user says otherwise. MKL's
    follows, since torch takes its number of threads from there: a user's ``OMP_NUM_THREADS=1`` alone would do nothing.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    defaults = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
