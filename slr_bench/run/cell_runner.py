"""Makes one run of a cell: a job for the executor, and the record of how it ended."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue

from slr_bench.errors import NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, DescribeEnvironment, Ending, GpuFacts, JsonObject, MeasureCell, Measurement
from slr_bench.execute.machine import PSS_PERIOD_S
from slr_bench.grid.config import GridConfig
from slr_bench.record import Metric, Outcome, Record, without_paths
from slr_bench.run.driver import Driver, on_phase, work_of
from slr_bench.run.interference import warnings_of
from slr_bench.run.schedule import Run

_ENVIRONMENT_TIMEOUT_S = 120


class CompletedRun(NamedTuple):
    """The record and the samples of one process."""

    record: Record
    samples: JsonObject | None


@dataclass(frozen=True)
class CellRunner:
    """Makes the runs of one grid."""

    driver: Driver
    grid: GridConfig
    facts: Mapping[str, Mapping[str, str]]
    """Facts of each cell's data, by cell id."""
    fake: bool

    def environment(self) -> JsonObject:
        """Return the environment of a child.

        Raises:
            NothingMeasuredError: The child could not describe it.
            UnsupportedSettingError: CUDA was requested and the child sees no CUDA device.
        """
        ending = self.driver.run(DescribeEnvironment(), _ENVIRONMENT_TIMEOUT_S, "environment")
        if ending.result is None:
            lines, log = self.driver.log_lines("environment"), self.driver.log_path("environment")
            last = lines[-1] if lines else "it said nothing"
            raise NothingMeasuredError(f"a child could not describe its environment; {last} (whole: {log})")
        environment = ending.result.environment
        if environment.get("device") == "cuda" and "gpu" not in environment:
            raise UnsupportedSettingError(NO_CUDA)
        return environment

    def run(self, run: Run, on_progress: Callable[[str], None]) -> CompletedRun:
        """Run one process to its end, whatever that is."""
        started_at, part = now(), run.cell.part
        task = MeasureCell(
            work_of(run.cell, fake=self.fake),
            warmup_steps=part.warmup_steps,
            timed_steps=part.timed_steps,
            sample_hz=self.grid.sample_hz,
            sampler_check_pairs=part.sampler_check_pairs,
        )
        ending = self.driver.run(task, part.timeout_s, run.name, on_message=on_phase(on_progress), is_monitored=True)
        measurement = ending.result.measurement if ending.result else None
        record = self._record(run, ending, measurement or Measurement({}), started_at)
        return CompletedRun(record, measurement.samples if measurement else None)

    def skipped(self, run: Run, reason: str, environment: Mapping[str, JsonValue]) -> Record:
        """Return the record of a run that was not made."""
        return Record(
            cell_id=run.cell.cell_id,
            side=run.side,
            repeat=run.repeat,
            workload=run.cell.spec.name,
            setting=run.cell.public_setting,
            outcome=Outcome.SKIPPED_DOMINATED,
            reason=reason,
            environment={**environment, **self.facts[run.cell.cell_id]},
            metrics={},
            phases={},
            started_at=now(),
            duration_s=0.0,
        )

    def _record(self, run: Run, ending: Ending, measured: Measurement, started_at: str) -> Record:
        cell, outcome, reason = run.cell, ending.outcome, ending.reason
        gpu: GpuFacts = measured.gpu
        return Record(
            cell_id=cell.cell_id,
            side=run.side,
            repeat=run.repeat,
            workload=cell.spec.name,
            setting=cell.public_setting,
            outcome=outcome,
            reason=without_paths(reason, cell.settings.model_dump_json()) if reason else None,
            environment={**(ending.result.environment if ending.result else {}), **self.facts[cell.cell_id]},
            metrics=measured.metrics | (machine_metrics(ending) if outcome is Outcome.OK else {}),
            phases=measured.phases,
            started_at=started_at,
            duration_s=ending.duration_s,
            marks=() if self.fake else warnings_of(ending.machine, gpu),
        )


def machine_metrics(ending: Ending) -> dict[str, Metric]:
    """Return the metrics that the executor measured: ``peak_pss_bytes``, ``harness_s`` and ``parent_cpu_ratio``."""
    pss_bytes, duration_s = ending.machine.peak_pss_bytes, ending.duration_s
    work_s = ending.result.work_s if ending.result else 0.0
    source = f"smaps_rollup of the tree: every {PSS_PERIOD_S:g} s, and as the trace begins"
    clock, own = "runner's clock minus the work's", "process_time of the runner, PSS reads apart"
    cpu_ratio = ending.machine.executor_cpu_s / duration_s
    return {
        "peak_pss_bytes": Metric.unavailable("bytes", source, "no reading succeeded while the cell ran")
        if pss_bytes is None
        else Metric(value=pss_bytes, unit="bytes", source=source, quality="sampled"),
        "harness_s": Metric(value=max(0.0, duration_s - work_s), unit="s", source=clock, quality="measured"),
        "parent_cpu_ratio": Metric(value=cpu_ratio, unit="ratio", source=own, quality="measured"),
    }


def now() -> str:
    """Return the time as ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
