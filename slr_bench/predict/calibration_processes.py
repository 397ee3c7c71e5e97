"""The processes in which a GPU is calibrated, and steps are run under a limit of its memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from slr_bench.errors import CellCrashedError, NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, CalibrateOperators, CalibrateSteps, Ending, MeasureCell
from slr_bench.grid.cells import Cell
from slr_bench.record import Outcome
from slr_bench.run.driver import on_phase, preload_of, temporary_driver, work_of

NO_GPU: Final = (
    "torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi` lists, with torch's CUDA build, and "
    "commit the files that it writes"
)
_OPERATORS_TIMEOUT_S: Final = 300.0


class GpuChildren:
    """One fork server; every job a process of its own. ``calibrate.Children``."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """``cells``: of what workloads."""
        self._preload = preload_of([CalibrateSteps, MeasureCell], cells)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._driver = stack.enter_context(temporary_driver(self._preload, device="cuda"))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def operators(self, told: Callable[[str], None]) -> Mapping[str, Any]:
        """As ``run.calibration_cell.measured_operators``.

        Raises:
            NothingMeasuredError: there is no GPU.
            UnsupportedSettingError, CellCrashedError: the process ended otherwise.
        """
        return _report(self._driver.run(CalibrateOperators(), _OPERATORS_TIMEOUT_S, on_message=on_phase(told)))

    def steps(self, cell: Cell) -> Mapping[str, Any]:
        """As ``run.calibration_cell.recorded_steps``.

        Raises:
            UnsupportedSettingError, CellCrashedError: as above.
        """
        return _report(self._driver.run(CalibrateSteps(work_of(cell), cell.part.warmup_steps), cell.part.timeout_s))

    def is_out_of_memory(self, cell: Cell, limit_bytes: int) -> bool:
        """Whether the cell's steps run out of memory where torch's allocator may reserve ``limit_bytes``.

        Raises:
            UnsupportedSettingError, CellCrashedError: it ended neither so nor well.
        """
        task = MeasureCell(
            work_of(cell), cell.part.warmup_steps, timed_steps=1, sample_hz=1, gpu_limit_bytes=limit_bytes
        )
        ending = self._driver.run(task, cell.part.timeout_s)
        if ending.outcome not in (Outcome.OK, Outcome.OOM_GPU):
            raise _failure(ending)
        return ending.outcome is Outcome.OOM_GPU


def _report(ending: Ending) -> Mapping[str, Any]:
    if ending.outcome is not Outcome.OK or ending.result is None or ending.result.report is None:
        raise _failure(ending)
    return ending.result.report


def _failure(ending: Ending) -> NothingMeasuredError | UnsupportedSettingError | CellCrashedError:
    if ending.reason == NO_CUDA:
        return NothingMeasuredError(NO_GPU)
    if ending.outcome is Outcome.UNSUPPORTED:
        return UnsupportedSettingError(str(ending.reason))
    return CellCrashedError(f"the process ended as {ending.outcome}: {ending.reason}")
