"""Runs the cells of a grid through a driver, makes the record of how each run ended, and judges disturbances."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydantic import JsonValue

from slr_bench.errors import ConfigError, DataError, NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.job import (
    NO_CUDA,
    DescribeEnvironment,
    Driver,
    Ending,
    GpuFacts,
    JsonObject,
    MachineReadings,
    MeasureCell,
    Measurement,
    OnMessage,
    PhaseEntered,
    Work,
)
from slr_bench.execute.machine import PSS_PERIOD_S
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Metric, Outcome, Record, without_paths
from slr_bench.run.schedule import Run
from slr_bench.units import MIB, format_bytes

_HAS_CUDA: Final = "import sys, torch; sys.exit(9 * (not torch.cuda.is_available()))"


def on_phase(progress: Callable[[str], None]) -> OnMessage:
    """Return a receiver of messages that passes the phases to ``progress``."""

    def receive(message: Any) -> None:
        if isinstance(message, PhaseEntered):
            progress(message.phase)

    return receive


def preload_of(tasks: Iterable[type[Any]], cells: Iterable[Cell]) -> list[str]:
    """Return the modules that a fork server imports once: those of the tasks and those that the workloads declare."""
    modules = {task.entry.partition(":")[0] for task in tasks}
    return sorted(modules.union(*(cell.spec.preload for cell in cells)))


def work_of(cell: Cell, *, fake: bool = False, cuda_rules: bool = False) -> Work:
    """Return what the child builds for a cell."""
    return Work(cell.spec.name, cell.settings.model_dump(mode="json"), fake, cuda_rules)


def prepare(cells: Iterable[Cell], device: str) -> Mapping[str, Mapping[str, str]]:
    """Check the data of each cell before any process starts; return its facts by cell id.

    Raises:
        ConfigError, DataError: The data of a cell cannot be used.
        UnsupportedSettingError: In addition, the requested device does not exist, so that no data would help.
    """
    try:
        return {cell.cell_id: dict(cell.spec.prepare(cell.settings)) for cell in cells}
    except (ConfigError, DataError):
        # Importing torch takes seconds, so the device is checked only after a failure.
        if device == "cuda" and not has_cuda():
            raise UnsupportedSettingError(NO_CUDA) from None
        raise


def has_cuda() -> bool:
    """Return whether torch sees a GPU. A process of its own imports torch; if that fails the result is true."""
    return subprocess.run([sys.executable, "-c", _HAS_CUDA], capture_output=True, check=False).returncode != 9


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
            events=measured.events,
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


FOREIGN_CPU_SHARE: Final = 0.10
"""Largest share of the cores' time for others while steps are timed. On a quiet machine it stays under 0.03."""
SWAPPED_BYTES: Final = MIB
"""Bytes that the machine moved in or out of swap during the run, or bytes of the cell's processes in swap."""
CLOCK_JUMP_S: Final = 0.5
"""Difference of wall clock and monotonic clock. Only a clock that was set or a suspended machine makes them differ."""
FEWEST_REPETITIONS: Final = 3
SHARE_OF_REPETITIONS: Final = 1 / 3
"""This share of the runs of a grid is repeated, but at least ``FEWEST_REPETITIONS``; further runs get warnings only."""


def warnings_of(machine: MachineReadings, gpu: GpuFacts | None = None) -> tuple[str, ...]:
    """Return one sentence per disturbance of a run. They concern times: a busy machine does not change traced bytes."""
    warnings = (
        _foreign_cpu(machine.foreign_cpu_share),
        _swapping(machine.swapped_bytes, machine.tree_swap_bytes or 0),
        _clock_jump(machine.clock_jump_s),
        *gpu_warnings(gpu or GpuFacts()),
    )
    return tuple(warning for warning in warnings if warning is not None)


def gpu_warnings(facts: GpuFacts) -> tuple[str, ...]:
    """Return the warnings about what the child observed of its GPU."""
    warnings = []
    if facts.throttle_reasons:
        warnings.append(f"GPU throttled: {', '.join(facts.throttle_reasons)}")
    if facts.other_processes:
        warnings.append(f"foreign GPU work: {facts.other_processes} other processes on the device")
    return tuple(warnings)


def _foreign_cpu(share: float | None) -> str | None:
    if share is None or share <= FOREIGN_CPU_SHARE:
        return None
    return (
        f"foreign CPU work: other processes took {share:.0%} of the cores while steps were timed "
        f"(limit {FOREIGN_CPU_SHARE:.0%})"
    )


def _swapping(moved_bytes: int, tree_bytes: int) -> str | None:
    if moved_bytes >= SWAPPED_BYTES:
        return f"swapping: the machine moved {format_bytes(moved_bytes)} in or out of swap during the run"
    if tree_bytes >= SWAPPED_BYTES:
        return f"swapping: {format_bytes(tree_bytes)} of the cell lay in swap"
    return None


def _clock_jump(jump_s: float) -> str | None:
    if abs(jump_s) < CLOCK_JUMP_S:
        return None
    return f"clock jump: the wall clock moved {jump_s:+.1f} s against the monotonic clock"


def as_discarded(record: Record) -> Record:
    """Return a disturbed run in the form in which it is kept aside."""
    return record.model_copy(update={"outcome": Outcome.INVALID_ENV, "reason": "; ".join(record.marks)})


def may_repeat(name: str, discarded: Iterable[Record], runs: int, reruns: int) -> bool:
    """Return whether a disturbed run is repeated: at most ``reruns`` times, and a limited share of the grid's ``runs``.

    Earlier repetitions are counted in the directory, so an interrupted grid does not start counting anew.
    """
    names = [record.name for record in discarded]
    return names.count(name) < reruns and len(names) < max(FEWEST_REPETITIONS, int(runs * SHARE_OF_REPETITIONS))
