"""Measure this machine's GPU, for a file that ``predict`` and ``plan`` read in place of rules. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, Final

from slr_bench.errors import CellCrashedError, ConfigError, NothingMeasuredError, SlrBenchError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, CalibrateOperators, CalibrateSteps, Driver, Ending, JsonObject, MeasureCell
from slr_bench.execute.local import temporary_driver
from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.golden import SUFFIX, GoldenTrace, write_golden
from slr_bench.predict.allocator.verdict import golden_differences
from slr_bench.predict.device import SMALL_WORKSPACE_BYTES, Device, known_devices
from slr_bench.record import Outcome
from slr_bench.run.cell_runner import on_phase, preload_of, prepare, work_of

MIN_READINGS: Final = 3
"""With fewer readings the spread of a figure is unknown, and its rule stays."""
NO_GPU: Final = (
    "torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi` lists, with torch's CUDA build, and "
    "commit the files that it writes"
)
_SAME_CAPACITY: Final = 0.05
"""Relative difference within which two readings of a capacity mean the same card."""
_NOT_PART_OF_THE_MODEL: Final = re.compile(r"\b(?:nvidia|geforce|tesla|\d+\s?gb|sxm\d*|pcie|hbm\w*)\b", re.IGNORECASE)
_OPERATORS_TIMEOUT_S: Final = 300.0

Measurements = Mapping[str, Any]
"""A JSON object from ``worker.calibrate``."""
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """The measurements of one card."""

    name: str
    entry: Mapping[str, Any]
    """Content of ``devices/<name>.json``."""
    traces: Mapping[str, GoldenTrace]
    """Golden traces by file name."""
    notes: Sequence[str]
    """Failed measurements, and differences from the rules."""

    def write(self, devices: Path | None, traces: Path | None) -> list[Path]:
        """Write the device's file, and one file per trace if a directory for them is given; return the paths.

        ``devices`` None is the directory that ``predict`` reads.

        Raises:
            ConfigError: a file cannot be written.
        """
        directory = devices or Path(str(files("slr_bench.predict") / "devices"))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            written = [directory / f"{self.name}.json"]
            written[0].write_text(json.dumps(self.entry, indent=1) + "\n")
            if traces is not None:
                traces.mkdir(parents=True, exist_ok=True)
                for name, trace in self.traces.items():
                    write_golden(trace, traces / name)
                    written.append(traces / name)
        except OSError as error:
            raise ConfigError(f"cannot write {error.filename}: {error.strerror}; choose another place") from error
        return written

    def to_dict(self, written: Sequence[Path]) -> JsonObject:
        """The JSON object of ``slr-bench calibrate``."""
        head = {"device": self.name, "files": [str(path) for path in written], "notes": list(self.notes)}
        return head | {name: value for name, value in self.entry.items() if name != "operators"}


def calibrate_gpu(cells: Sequence[Cell], on_progress: OnProgress) -> Calibration:
    """Measure this machine's GPU with the steps among ``cells``.

    Raises:
        ConfigError: there are no steps among the cells, or their data cannot be used.
        NothingMeasuredError: there is no GPU, or no step could be recorded.
    """
    steps = [cell for cell in cells if cell.spec.kind == "step"]
    if not steps:
        raise ConfigError("the grid has no steps to record, only whole trainings; see configs/calibrate.yml")
    try:
        prepare(steps, "cuda")
    except UnsupportedSettingError as error:
        raise NothingMeasuredError(NO_GPU) from error
    with gpu_processes(steps) as jobs:
        calibration = calibrate(steps, jobs, on_progress)
    if not calibration.traces:
        raise NothingMeasuredError(f"no setting's steps could be recorded: {calibration.notes[0]}")
    return calibration


def calibrate(cells: Sequence[Cell], jobs: GpuProcesses, on_progress: OnProgress) -> Calibration:
    """Measure the operators, then each cell's steps. A step that fails costs only its own trace.

    Raises:
        SlrBenchError: there is no GPU, or the operators could not be measured.
    """
    operators = jobs.operators(lambda title: on_progress(f"operators: {title}"))
    traces: dict[str, GoldenTrace] = {}
    notes = []
    name = card_name(operators["facts"]["gpu"], operators["facts"]["capacity_bytes"], known_devices())
    for number, cell in enumerate(cells):
        on_progress(f"steps {number + 1} of {len(cells)}: {cell.arm}")
        identity = {"workload": cell.spec.name, "arm": cell.arm, "cell_id": cell.cell_id}
        try:
            trace = GoldenTrace.from_steps({**identity, "setting": cell.public_setting}, jobs.steps(cell))
        except SlrBenchError as error:
            notes.append(f"no trace of {cell.arm} ({cell.cell_id}): {error}")
            continue
        traces[_file_name(name, trace)] = trace
        differences = golden_differences(trace)
        notes += [f"{cell.arm} ({cell.cell_id}) is not replayed to the byte: {text}" for text in differences]
    entry = device_entry(operators, list(traces.values()))
    return Calibration(name, entry, traces, [*notes, *_surprises(operators["operators"]), *entry["not_measured"]])


def device_entry(operators: Measurements, traces: Sequence[GoldenTrace]) -> Mapping[str, Any]:
    """Make the content of ``devices/<name>.json``. A null keeps its rule, and ``not_measured`` has the reason."""
    facts, rows = operators["facts"], operators["operators"]
    not_measured: list[str] = []

    def or_note(value: Any, reason: str) -> Any:
        if value is None:
            not_measured.append(reason)
        return value

    readings = [trace.context for trace in traces]
    failure = next((reading["reason"] for reading in readings if reading["reason"]), f"{len(readings)} steps ended")
    versions = (f"torch {facts['torch']}", f"CUDA {facts.get('cuda')}", f"driver {facts.get('driver')}")
    return {
        "title": facts["gpu"],
        "capacity_bytes": facts["capacity_bytes"],
        "compute_capability": facts["compute_capability"],
        "measured_on": ", ".join((facts["gpu"], *versions)),
        "facts": facts,
        "cublas_workspace_bytes": or_note(_cublas_bytes(rows), "cuBLAS's workspace: no product could be called"),
        "context_bytes": or_note(
            _context([reading["bytes"] for reading in readings if reading["bytes"] is not None]),
            f"context: fewer than {MIN_READINGS} readings ({failure})",
        ),
        "context_first_call": operators["first_call"],
        "context_readings": readings,
        "shares": or_note(_shares(rows), f"operators: fewer than {MIN_READINGS} of a kind could be called"),
        "operators": rows,
        "not_measured": not_measured,
    }


def card_name(title: str, capacity_bytes: int, known: Mapping[str, Device]) -> str:
    """Return the listed name of a card with this title and capacity, or a name made from the title."""
    for name, card in known.items():
        is_as_large = card.capacity_bytes is not None and (
            abs(card.capacity_bytes - capacity_bytes) <= _SAME_CAPACITY * capacity_bytes
        )
        if is_as_large and _model(card.title) == _model(title):
            return name
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("nvidia", "")).strip("-")


def _model(title: str) -> str:
    """``NVIDIA A100-SXM4-80GB`` -> ``a100``."""
    return re.sub(r"[^a-z0-9]", "", _NOT_PART_OF_THE_MODEL.sub("", title.lower()))


def _cublas_bytes(rows: Sequence[Measurements]) -> int | None:
    """Return what all products keep together. If that is nothing (torch 2.15), return the most that one takes."""
    products = [row for row in rows if row["is_product"] and row["kept_bytes"] is not None]
    if not products:
        return None
    kept = sum(int(row["kept_bytes"]) for row in products)
    return kept or max(int(row["workspace_bytes"]) for row in products)


def _context(readings: Sequence[int]) -> Mapping[str, int] | None:
    """Return the median and an interval beyond the outermost readings, as wide as for evenly spread values."""
    if len(readings) < MIN_READINGS:
        return None
    low, high = min(readings), max(readings)
    beyond = round((high - low) / (len(readings) - 1))
    return {"median": round(median(readings)), "low": max(0, low - beyond), "high": high + beyond}


def _shares(rows: Sequence[Measurements]) -> Mapping[str, Any] | None:
    large = [row for row in rows if row["workspace_bytes"] is not None and row["most_bytes"] > SMALL_WORKSPACE_BYTES]
    sure = [row for row in large if row["expected_bytes"] == row["most_bytes"]]
    possible = [row for row in large if row["expected_bytes"] < row["most_bytes"]]
    if min(len(sure), len(possible)) < MIN_READINGS:
        return None
    return {"sure": _share(sure), "possible": _share(possible)}


def _share(rows: Sequence[Measurements]) -> Mapping[str, float]:
    parts = [row["workspace_bytes"] / row["most_bytes"] for row in rows]
    total = sum(row["workspace_bytes"] for row in rows) / sum(row["most_bytes"] for row in rows)
    return {"value": total, "low": min(parts), "high": max(parts)}


def _surprises(rows: Sequence[Measurements]) -> list[str]:
    """Describe operators that exceeded their rule's bound, or that keep memory without being products."""
    notes = []
    for row in rows:
        title = ", ".join(part for part in (row["operator"], row["precision"], row["layout"]) if part)
        if row["reason"] is not None:
            notes.append(f"{title}: not measured, {row['reason']}")
            continue
        if not row["is_product"] and row["workspace_bytes"] > row["most_bytes"]:
            notes.append(f"{title}: {row['workspace_bytes']} bytes, the rule's bound is {row['most_bytes']}")
        if not row["is_product"] and row["kept_bytes"]:
            notes.append(f"{title}: keeps {row['kept_bytes']} bytes, which no rule describes")
    return notes


def _file_name(card: str, trace: GoldenTrace) -> str:
    facts = trace.facts
    settings = facts.get("PYTORCH_ALLOC_CONF") or facts.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    conf = re.sub(r"[^a-z0-9]+", "-", settings.lower())
    parts = (card, facts["torch"].partition("+")[0], trace.setting["cell_id"], conf)
    return "_".join(part for part in parts if part) + SUFFIX


@contextmanager
def gpu_processes(cells: Sequence[Cell]) -> Iterator[GpuProcesses]:
    """Run a fork server that imports what the cells' workloads need."""
    with temporary_driver(preload_of([CalibrateSteps, MeasureCell], cells), device="cuda") as driver:
        yield GpuProcesses(driver)


class GpuProcesses:
    """Runs each measurement in a process of its own on the GPU."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def operators(self, on_progress: OnProgress) -> Measurements:
        """Measure the operators (``worker.calibrate.measured_operators``).

        Raises:
            NothingMeasuredError: there is no GPU.
            UnsupportedSettingError, CellCrashedError: the process failed otherwise.
        """
        on_message = on_phase(on_progress)
        return _measurements(self._driver.run(CalibrateOperators(), _OPERATORS_TIMEOUT_S, on_message=on_message))

    def steps(self, cell: Cell) -> Measurements:
        """Record a cell's steps (``worker.calibrate.recorded_steps``).

        Raises:
            NothingMeasuredError, UnsupportedSettingError, CellCrashedError: as for the operators.
        """
        task = CalibrateSteps(work_of(cell), cell.part.warmup_steps)
        return _measurements(self._driver.run(task, cell.part.timeout_s))

    def is_out_of_memory(self, cell: Cell, limit_bytes: int) -> bool:
        """Return whether the cell's steps run out of memory if torch's allocator may reserve ``limit_bytes``.

        Raises:
            NothingMeasuredError, UnsupportedSettingError, CellCrashedError: the process failed otherwise.
        """
        work, warmup_steps = work_of(cell), cell.part.warmup_steps
        task = MeasureCell(work, warmup_steps, timed_steps=1, sample_hz=1, gpu_limit_bytes=limit_bytes)
        ending = self._driver.run(task, cell.part.timeout_s)
        if ending.outcome not in (Outcome.OK, Outcome.OOM_GPU):
            raise _failure(ending)
        return ending.outcome is Outcome.OOM_GPU


def _measurements(ending: Ending) -> Measurements:
    if ending.outcome is not Outcome.OK or ending.result is None or ending.result.report is None:
        raise _failure(ending)
    return ending.result.report


def _failure(ending: Ending) -> NothingMeasuredError | UnsupportedSettingError | CellCrashedError:
    if ending.reason == NO_CUDA:
        return NothingMeasuredError(NO_GPU)
    if ending.outcome is Outcome.UNSUPPORTED:
        return UnsupportedSettingError(str(ending.reason))
    return CellCrashedError(f"the process ended as {ending.outcome}: {ending.reason}")
