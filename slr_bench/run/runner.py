"""The parent: expands nothing, measures nothing; isolates, times out, classifies, stores, resumes. Imports no torch."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.probes import host
from slr_bench.record import Metric, Outcome, Phase, Record
from slr_bench.run.executors.local import LocalExecutor
from slr_bench.run.outcome import classify, without_paths
from slr_bench.run.store import CellEntry, Manifest, Store
from slr_bench.run.watch import PSS_PERIOD_S, Watch
from slr_bench.units import parse_bytes

_BOUND = {"source_hash": "source", "config_hash": "configuration or other data", "environment": "environment"}


class BoundElsewhereError(ConfigError):
    """The run directory holds runs of another source, environment or configuration."""


class Run(NamedTuple):
    """One process to come: a cell, a side, a repeat."""

    cell: Cell
    side: Literal["a", "b"]
    repeat: int

    @property
    def name(self) -> str:
        """Stem of its record."""
        return f"{self.cell.cell_id}-{self.side}-{self.repeat}"


class Listener(Protocol):
    """Who is told how the grid goes on."""

    def planned(self, runs: Sequence[Run], finished: int) -> None: ...

    def started(self, run: Run) -> None: ...

    def progressed(self, run: Run, phase: str) -> None: ...

    def finished(self, run: Run, record: Record) -> None: ...


class Totals(NamedTuple):
    """What a call of ``run_grid`` did."""

    records: list[Record]
    duration_s: float
    ran: int


def plan(cells: Sequence[Cell]) -> list[Run]:
    """Every run in order: part after part, within a part repeats interleaved across its cells.

    Every other repeat goes backwards, so that a machine that slows down slows all cells alike.
    """
    # A cell of two parts belongs to the one that wants more repeats of it.
    unique = {cell.cell_id: cell for cell in sorted(cells, key=lambda cell: cell.part.repeats)}
    runs = []
    for part in dict.fromkeys(id(cell.part) for cell in cells):
        members = [cell for cell in unique.values() if id(cell.part) == part]
        for repeat in range(members[0].part.repeats if members else 0):
            runs += [Run(cell, "a", repeat) for cell in (members if repeat % 2 == 0 else members[::-1])]
    return runs


def source_hash(cells: Sequence[Cell]) -> str:
    """Hash of the Python source of this package and of the workloads' packages."""
    packages = sorted({"slr_bench", *(package for cell in cells for package in cell.spec.packages)})
    digest = hashlib.sha256()
    for package in packages:
        spec = find_spec(package)
        for root in sorted((spec.submodule_search_locations if spec else None) or []):
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


class Runner:
    """Runs a grid into a run directory."""

    def __init__(
        self, grid: GridConfig, cells: Sequence[Cell], store: Store, *, fake: bool, command: str, retry: bool = False
    ) -> None:
        self._grid, self._cells, self._store = grid, list(cells), store
        self._fake, self._command, self._retry = fake, command, retry
        self._facts = {cell.cell_id: dict(cell.spec.prepare(cell.settings)) if not fake else {} for cell in cells}

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
        runs = plan(self._cells)
        preload = sorted({"slr_bench.run.measure", *(module for cell in self._cells for module in cell.spec.preload)})
        with self._store.locked(), LocalExecutor(preload, thread_environment()) as executor:
            self._bind(self._ask_environment(executor))
            finished = self._finished_names()
            missing = [run for run in runs if run.name not in finished]
            listener.planned(runs, len(runs) - len(missing))
            for run in missing:
                listener.started(run)
                record, samples = self._run_one(executor, run, listener)
                self._store.write_record(record, samples)
                listener.finished(run, record)
        wanted = {run.name for run in runs}
        records = [record for record in self._store.read_records()[0] if record.name in wanted]
        if not any(record.outcome in (Outcome.OK, Outcome.OOM_GPU, Outcome.OOM_HOST) for record in records):
            reasons = sorted({f"{record.outcome}: {record.reason}" for record in records})
            raise NothingMeasuredError(f"nothing was measured; every cell ended as {'; '.join(reasons)}")
        return Totals(records, time.monotonic() - start_s, len(missing))

    def _finished_names(self) -> set[str]:
        """Runs that need not be made again; with ``retry``, crashes and timeouts are."""
        again = {Outcome.CRASH, Outcome.TIMEOUT} if self._retry else set()
        return {record.name for record in self._store.read_records()[0] if record.outcome not in again}

    def _bind(self, environment: dict[str, Any]) -> None:
        """Tie the directory to this source, environment and configuration, or refuse another's."""
        manifest = Manifest(
            workload=self._grid.workload,
            source_hash=source_hash(self._cells),
            config_hash=self._config_hash(),
            environment=environment,
            command=self._command,
            cells=tuple(
                CellEntry(
                    cell_id=cell.cell_id,
                    arm=cell.arm,
                    workload=cell.spec.name,
                    setting=cell.public_setting,
                    coordinates=dict(cell.coordinates),
                    is_own=cell.is_own,
                    repeats=cell.part.repeats,
                )
                for cell in self._cells
            ),
        )
        earlier = self._store.read_manifest()
        for name in _BOUND if earlier else ():
            before, now = getattr(earlier, name), getattr(manifest, name)
            if before != now:
                raise BoundElsewhereError(
                    f"{self._store.directory} holds runs of another {_BOUND[name]} "
                    f"({_difference(before, now)}); records are never mixed: choose another directory with --out, "
                    "or set the old one aside with --fresh"
                )
        self._store.write_manifest(manifest)  # anew each time: repeats may have grown

    def _config_hash(self) -> str:
        measured = self._grid.model_dump(mode="json", include={"device", "isolation", "sample_hz", "ram_limit"})
        plans = [
            (
                cell.cell_id,
                cell.arm,
                cell.part.model_dump(mode="json", include={"warmup_steps", "timed_steps"}),
                self._facts[cell.cell_id],
            )
            for cell in self._cells
        ]
        return hashlib.sha256(json.dumps([measured, plans, self._fake], sort_keys=True).encode()).hexdigest()[:16]

    def _job(self, op: str, log_name: str) -> dict[str, Any]:
        limit = self._grid.ram_limit
        return {
            "op": op,
            "log_path": str(self._store.directory / "logs" / f"{log_name}.log"),
            "isolation": self._grid.isolation,
            "device": "cpu" if self._fake else self._grid.device,
            "ram_limit_bytes": parse_bytes(limit) if limit else None,
        }

    def _ask_environment(self, executor: LocalExecutor) -> dict[str, Any]:
        ending = executor.run(self._job("environment", "environment"), 120, lambda _: None, lambda _: None, 60)
        if ending.result is None:
            log = self._store.directory / "logs" / "environment.log"
            raise NothingMeasuredError(f"a child could not describe its environment; {_last_line(log)} (whole: {log})")
        return ending.result

    def _run_one(self, executor: LocalExecutor, run: Run, listener: Listener) -> tuple[Record, dict[str, Any] | None]:
        cell = run.cell
        job = self._job("measure", run.name) | {
            "workload": cell.spec.name,
            "setting": cell.settings.model_dump(mode="json"),
            "fake": self._fake,
            "sample_hz": self._grid.sample_hz,
            "warmup_steps": cell.part.warmup_steps,
            "timed_steps": cell.part.timed_steps,
            "sampler_check_pairs": cell.part.sampler_check_pairs,
        }
        started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        kills_before, watch = host.oom_kills(), Watch(lambda phase: listener.progressed(run, phase))
        ending = executor.run(job, cell.part.timeout_s, watch.on_message, watch.on_tick, PSS_PERIOD_S)
        outcome, reason = classify(ending, cell.part.timeout_s, kills_before, host.oom_kills())
        result = ending.result or {}
        metrics = {name: Metric.model_validate(value) for name, value in result.get("metrics", {}).items()}
        if outcome is Outcome.OK:
            metrics |= watch.readings(result["work_s"])
        record = Record(
            cell_id=cell.cell_id,
            side=run.side,
            repeat=run.repeat,
            workload=cell.spec.name,
            setting=cell.public_setting,
            outcome=outcome,
            reason=without_paths(reason, cell.settings.model_dump_json()) if reason else None,
            environment=result.get("environment", {}) | self._facts[cell.cell_id],
            metrics=metrics,
            phases={name: Phase.model_validate(value) for name, value in result.get("phases", {}).items()},
            started_at=started_at,
            duration_s=ending.duration_s,
        )
        return record, result.get("samples")


def thread_environment() -> dict[str, str]:
    """Thread settings fixed when the server starts: one OpenMP thread a core unless the user says otherwise."""
    cores = str(len(os.sched_getaffinity(0)))
    defaults = {"OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def outcome_counts(records: Sequence[Record]) -> dict[str, int]:
    """Outcome -> number of runs."""
    return {str(outcome): count for outcome in Outcome if (count := sum(r.outcome is outcome for r in records))}


def _difference(before: Any, now: Any) -> str:
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return f"{before}, now {now}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key}: {before.get(key)}, now {now.get(key)}" for key in keys)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"
