"""One run made once: a job for the executor, and the record of how it ended."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slr_bench.errors import NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.local import Ending, LocalExecutor
from slr_bench.execute.oom_kills import read_oom_kills, rose
from slr_bench.execute.outcome import classify, without_paths
from slr_bench.grid.config import GridConfig
from slr_bench.record import Metric, Outcome, Phase, Record
from slr_bench.run.cell_monitor import PSS_PERIOD_S, TIMED_PREFIX, Watch
from slr_bench.run.interference import Disturbances, Readers
from slr_bench.run.preflight import NO_CUDA
from slr_bench.run.schedule import Run
from slr_bench.units import parse_bytes

_ENVIRONMENT_TIMEOUT_S = 120


class Attempt(NamedTuple):
    """What one process left."""

    record: Record
    samples: dict[str, Any] | None


class Attempts:
    """Makes runs of one grid, into the logs of one directory."""

    def __init__(
        self,
        grid: GridConfig,
        directory: Path,
        facts: Mapping[str, Mapping[str, str]],
        *,
        fake: bool,
        readers: Readers | None = None,
    ) -> None:
        """``facts``: of each cell's data; ``readers``: other sources of what disturbs a run than this machine's."""
        self._grid, self._logs, self._facts, self._fake = grid, directory / "logs", facts, fake
        self._readers = readers or Readers()

    def environment(self, executor: LocalExecutor) -> dict[str, Any]:
        """A child's environment.

        Raises:
            NothingMeasuredError: the child could not say.
            UnsupportedSettingError: CUDA was asked for, and it sees none.
        """
        job = self._job("environment", "environment")
        ending = executor.run(job, _ENVIRONMENT_TIMEOUT_S, lambda _: None, lambda _: None, _ENVIRONMENT_TIMEOUT_S / 2)
        if ending.result is None:
            log = self._logs / "environment.log"
            raise NothingMeasuredError(f"a child could not describe its environment; {_last_line(log)} (whole: {log})")
        if ending.result.get("device") == "cuda" and "gpu" not in ending.result:
            raise UnsupportedSettingError(NO_CUDA)
        return ending.result

    def make(self, executor: LocalExecutor, run: Run, progressed: Callable[[str], None]) -> Attempt:
        """Run one process to its end, whatever that is."""
        started_at, timeout_s = now(), run.cell.part.timeout_s
        kills, watch = read_oom_kills(), Watch(progressed)
        disturbances = Disturbances(lambda phase: phase.startswith(TIMED_PREFIX), self._readers)

        def on_message(message: dict[str, Any]) -> None:
            if "phase" in message:
                disturbances.on_phase(message["phase"], message["pid"])
            watch.on_message(message)

        ending = executor.run(self._measure_job(run), timeout_s, on_message, watch.on_tick, PSS_PERIOD_S)
        outcome, reason = classify(ending, timeout_s, rose(kills, read_oom_kills()))
        result = ending.result or {}
        own_metrics = watch.readings(result["work_s"]) if outcome is Outcome.OK else {}
        marks = () if self._fake else disturbances.marks(result.get("gpu_facts"))
        record = self._record(run, ending, (outcome, reason), own_metrics, marks, started_at)
        return Attempt(record, result.get("samples"))

    def skipped(self, run: Run, reason: str, environment: Mapping[str, Any]) -> Record:
        """The record of a run that was not made."""
        return Record(
            cell_id=run.cell.cell_id,
            side=run.side,
            repeat=run.repeat,
            workload=run.cell.spec.name,
            setting=run.cell.public_setting,
            outcome=Outcome.SKIPPED_DOMINATED,
            reason=reason,
            environment={**environment, **self._facts[run.cell.cell_id]},
            metrics={},
            phases={},
            started_at=now(),
            duration_s=0.0,
        )

    def _record(
        self,
        run: Run,
        ending: Ending,
        end: tuple[Outcome, str | None],
        own_metrics: Mapping[str, Metric],
        marks: tuple[str, ...],
        started_at: str,
    ) -> Record:
        cell, result, (outcome, reason) = run.cell, ending.result or {}, end
        metrics = {name: Metric.model_validate(value) for name, value in result.get("metrics", {}).items()}
        return Record(
            cell_id=cell.cell_id,
            side=run.side,
            repeat=run.repeat,
            workload=cell.spec.name,
            setting=cell.public_setting,
            outcome=outcome,
            reason=without_paths(reason, cell.settings.model_dump_json()) if reason else None,
            environment={**result.get("environment", {}), **self._facts[cell.cell_id]},
            metrics={**metrics, **own_metrics},
            phases={name: Phase.model_validate(value) for name, value in result.get("phases", {}).items()},
            started_at=started_at,
            duration_s=ending.duration_s,
            marks=marks,
        )

    def _job(self, op: str, log_name: str) -> dict[str, Any]:
        limit = self._grid.ram_limit
        return {
            "op": op,
            "log_path": str(self._logs / f"{log_name}.log"),
            "isolation": self._grid.isolation,
            "device": "cpu" if self._fake else self._grid.device,
            "ram_limit_bytes": parse_bytes(limit) if limit else None,
        }

    def _measure_job(self, run: Run) -> dict[str, Any]:
        cell = run.cell
        return self._job("measure", run.name) | {
            "workload": cell.spec.name,
            "setting": cell.settings.model_dump(mode="json"),
            "fake": self._fake,
            "sample_hz": self._grid.sample_hz,
            "warmup_steps": cell.part.warmup_steps,
            "timed_steps": cell.part.timed_steps,
            "sampler_check_pairs": cell.part.sampler_check_pairs,
        }


def now() -> str:
    """ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"
