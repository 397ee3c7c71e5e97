"""Runs the cells of a grid in child processes; handles resuming, repeats and skipping. Does not import torch.

A session has the runs of one source in one run directory. A grid has one session. Two sources that are measured
interleaved have one each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from slr_bench.errors import NothingMeasuredError
from slr_bench.execute.job import Driver, JsonObject, MeasureCell
from slr_bench.execute.local import LocalExecutor, thread_environment
from slr_bench.execute.machine import Readers
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, Record
from slr_bench.run.binding import bind, cell_entries, config_hash, source_hash
from slr_bench.run.cell_runner import (
    CellRunner,
    CompletedRun,
    as_discarded,
    may_repeat,
    preload_of,
    prepare,
)
from slr_bench.run.schedule import Dominance, Run, schedule
from slr_bench.run.store import Manifest, Pairing, Store
from slr_bench.units import parse_bytes

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


BROKEN_PAIR: Final = "broken pair: the other side ran in an earlier start of the grid, not beside it"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """The code under measurement, if it is not what this process imports."""

    hash: str
    environment: Mapping[str, str]
    """Further variables of its fork server: where Python looks for modules first."""


@dataclass(frozen=True)
class SessionConfig:
    """The grid, cells and options of a session."""

    grid: GridConfig
    cells: Sequence[Cell]
    store: Store
    fake: bool
    command: str
    retry: bool = False
    """Repeat runs that crashed or timed out."""
    skip: bool = True
    """Skip cells that need at least the memory of one that ran out of it."""
    readers: Readers | None = None
    source: Source | None = None
    pairing: Pairing | None = None
    facts: Mapping[str, Mapping[str, str]] | None = None
    """Facts of each cell's data, by cell id, if they have been collected already."""

    def collect_facts(self) -> Mapping[str, Mapping[str, str]]:
        """Check every cell against its data and this machine; return the facts that are bound to the run."""
        if self.facts is not None:
            return self.facts
        return {cell.cell_id: {} for cell in self.cells} if self.fake else prepare(self.cells, self.grid.device)


@dataclass(frozen=True)
class Session:
    """Makes runs one by one. ``records`` holds those that need not be made again, by name."""

    config: SessionConfig
    runner: CellRunner
    dominance: Dominance
    environment: JsonObject
    identity: str
    """Hash of source and configuration, from which the order of the runs is drawn."""
    note: str | None
    """A line about a change against the earlier plan of this directory."""
    records: dict[str, Record]
    earlier: frozenset[str]
    """Names of the records that an earlier start has left."""

    def make(self, run: Run, on_progress: Progress, runs: int, is_broken_pair: bool) -> Record:
        """Make or skip one of ``runs`` runs, and store its record."""
        reason = self.dominance.why_skipped(run.cell.cell_id, self.records.values()) if self.config.skip else None
        if reason is not None:
            completed = CompletedRun(self.runner.skipped(run, reason, self.environment), None)
        else:
            completed = self._make_valid(run, on_progress, runs)
            if is_broken_pair:
                marks = (*completed.record.marks, BROKEN_PAIR)
                completed = CompletedRun(completed.record.model_copy(update={"marks": marks}), completed.samples)
        self.config.store.write_record(*completed)
        self.records[run.name] = completed.record
        return completed.record

    def _make_valid(self, run: Run, on_progress: Progress, runs: int) -> CompletedRun:
        """Make a run; repeat a disturbed one while that is allowed. The last one is kept with its warnings."""
        store, reruns = self.config.store, self.config.grid.invalid_reruns
        while True:
            completed = self.runner.run(run, on_progress)
            record = completed.record
            discarded = store.read_discarded() if record.marks else []
            is_repeated = record.outcome is Outcome.OK and may_repeat(run.name, discarded, runs, reruns)
            if not record.marks or not is_repeated:
                return completed
            on_progress(f"disturbed ({record.marks[0]}), once more")
            store.write_discarded(as_discarded(record), 1 + sum(old.name == run.name for old in discarded))


@contextmanager
def open_session(config: SessionConfig) -> Iterator[Session]:
    """Check the data, hold the directory, start the fork server, and bind the directory to this source.

    Raises:
        ConfigError: The directory belongs to another source, environment or configuration.
        DataError: The data of a cell cannot be used.
    """
    grid, cells, store, source = config.grid, config.cells, config.store, config.source
    facts = config.collect_facts()
    hashes = (source.hash if source else source_hash(cells), config_hash(grid, cells, facts, config.fake))
    variables = thread_environment() | dict(source.environment if source else {})
    preload = preload_of([MeasureCell], cells)
    with store.locked(), LocalExecutor(preload, variables, config.readers) as executor:
        limit = parse_bytes(grid.ram_limit) if grid.ram_limit else None
        device = "cpu" if config.fake else grid.device
        driver = Driver(executor, store.directory / "logs", device, grid.isolation, limit)
        runner = CellRunner(driver, grid, facts, config.fake)
        environment = runner.environment()
        note = bind(store, _manifest(config, environment, hashes))
        dominance = Dominance(cells)
        records = _finished(config, dominance)
        yield Session(config, runner, dominance, environment, "".join(hashes), note, records, frozenset(records))


def _finished(config: SessionConfig, dominance: Dominance) -> dict[str, Record]:
    """Return the records of runs that need not be made again.

    With ``retry`` crashes and timeouts are repeated. A skipped run is made if nothing dominates it any more, or if
    skipping is off.
    """
    again = {Outcome.SKIPPED_DOMINATED} | ({Outcome.CRASH, Outcome.TIMEOUT} if config.retry else set())
    records = config.store.read_records()[0]
    finished = {record.name: record for record in records if record.outcome not in again}
    if config.skip:
        made = list(finished.values())
        skipped = [record for record in records if record.outcome is Outcome.SKIPPED_DOMINATED]
        finished |= {old.name: old for old in skipped if dominance.why_skipped(old.cell_id, made)}
    return finished


def _manifest(config: SessionConfig, environment: JsonObject, hashes: tuple[str, str]) -> Manifest:
    return Manifest(
        workload=config.grid.workload,
        source_hash=hashes[0],
        config_hash=hashes[1],
        environment=environment,
        command=config.command,
        cells=cell_entries(config.cells),
        ladder=config.grid.ablation,
        pairing=config.pairing,
    )
