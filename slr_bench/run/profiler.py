"""The parent of ``slr-bench profile``: profiles one setting in a process of its own. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import TypeAdapter

from slr_bench.errors import CellCrashedError, NothingMeasuredError
from slr_bench.execute.job import Ending, JsonObject, ProfileStep
from slr_bench.execute.local import temporary_driver
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, without_paths
from slr_bench.run.cell_runner import on_phase, preload_of, prepare, work_of
from slr_bench.units import parse_bytes

_SHOWN_LOG_LINES: Final = 8


@dataclass(frozen=True)
class FloorOperator:
    """The operator that sets the operator floor."""

    operator: str | None
    module: str | None
    phase: str | None
    split_modules: tuple[str, ...]
    """Modules whose operators work on a part at a time."""


@dataclass(frozen=True)
class ModuleBytes:
    """The bytes at the peak that belong to one module."""

    module: str
    bytes: int
    by_category: dict[str, int]


@dataclass(frozen=True)
class PeakTensor:
    """One of the largest storages at the peak."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    category: str
    module: str
    origin: str | None
    """File and line that made it."""
    phase: str


@dataclass(frozen=True)
class LiveTimeline:
    """Live bytes after each operator of the step, or after a selection of them."""

    operators: int
    live_bytes: tuple[int, ...]
    phase: tuple[str, ...]
    by_category: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class OperatorBytes:
    """Bytes of one operator."""

    operator: str
    bytes: int


@dataclass(frozen=True)
class AllocatorCheck:
    """The peak as the allocator's own events show it, matched with the traced storages."""

    source: str
    peak_bytes: int
    operator: str | None
    by_category: dict[str, int]
    workspace: tuple[OperatorBytes, ...]
    unmatched_bytes: int
    unmatched: tuple[OperatorBytes, ...]
    missing_bytes: int
    loader_bytes: int
    named_ratio: float | None
    """Share of the peak whose owner is known."""
    disturbance_bytes: int | None = None
    """How much more the step allocates at its peak with the tracer than without."""


@dataclass(frozen=True)
class CudaPeaks:
    """Torch's own peaks over the step."""

    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int


@dataclass(frozen=True)
class Profile:
    """Every byte at the peak of one step of one setting."""

    arm: str
    workload: str
    cell_id: str
    setting: JsonObject
    device: str
    source: str
    """The kind of trace: ``cpu-real``, ``cpu-fake``, ``cuda-rules`` or ``cuda-real``."""
    peak_tensor_bytes: int
    floor_bytes: int
    floor: FloorOperator
    flops_per_step: int
    operators: int
    residual_bytes: int | None
    """Bytes at the allocator's peak that no traced storage explains."""
    residual_reason: str | None
    by_category: dict[str, int]
    by_module: tuple[ModuleBytes, ...]
    by_phase: dict[str, int]
    top: tuple[PeakTensor, ...]
    timeline: LiveTimeline
    allocator: AllocatorCheck | None
    cuda: CudaPeaks | None

    def to_dict(self) -> JsonObject:
        """Return the JSON object of ``slr-bench profile``."""
        return asdict(self)


_PROFILES: Final = TypeAdapter(Profile)


def profile(
    grid: GridConfig, cell: Cell, fake: bool, on_progress: Callable[[str], None], *, cuda_rules: bool = False
) -> Profile:
    """Profile one cell.

    ``on_progress`` receives each phase that the child enters. With ``cuda_rules`` the fake tensors represent those of a
    GPU.

    Raises:
        NothingMeasuredError: The cell ran out of memory or cannot run here.
        CellCrashedError: The cell crashed or timed out.
    """
    if not fake:
        prepare([cell], grid.device)
    task = ProfileStep(work_of(cell, fake=fake, cuda_rules=cuda_rules), cell.part.warmup_steps)
    device = "cpu" if fake else grid.device
    limit = parse_bytes(grid.ram_limit) if grid.ram_limit else None
    with temporary_driver(preload_of([ProfileStep], [cell]), device=device, ram_limit_bytes=limit) as driver:
        ending = driver.run(task, cell.part.timeout_s, on_message=on_phase(on_progress))
        log_lines = driver.log_lines()
    report = _checked(ending, cell, log_lines)
    head = {"arm": cell.arm, "workload": cell.spec.name, "cell_id": cell.cell_id, "setting": cell.public_setting}
    return _PROFILES.validate_python(head | report)


def _checked(ending: Ending, cell: Cell, log_lines: list[str]) -> JsonObject:
    if ending.result is not None and ending.result.report is not None:
        return ending.result.report
    text = f"{ending.outcome}: {without_paths(ending.reason or '', cell.settings.model_dump_json())}"
    if ending.outcome in (Outcome.CRASH, Outcome.TIMEOUT):
        raise CellCrashedError("\n  ".join([text, *log_lines[-_SHOWN_LOG_LINES:]]))
    raise NothingMeasuredError(text)
