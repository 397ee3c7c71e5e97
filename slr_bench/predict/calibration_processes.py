"""The processes in which a GPU is calibrated, and steps are run under a limit of its memory. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from slr_bench.errors import CellCrashedError, NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.local import LocalExecutor
from slr_bench.execute.outcome import classify
from slr_bench.grid.cells import Cell
from slr_bench.record import Outcome
from slr_bench.run.preflight import NO_CUDA
from slr_bench.run.session import thread_environment

NO_GPU: Final = (
    "torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi` lists, with torch's CUDA build, and "
    "commit the files that it writes"
)
_OPERATORS_TIMEOUT_S: Final = 300.0
_MODULES: Final = ("slr_bench.worker.calibrate", "slr_bench.worker.measure")


class GpuChildren:
    """One fork server; every job a process of its own. ``calibrate.Children``."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """``cells``: of what workloads."""
        self._preload = sorted({*_MODULES, *(name for cell in cells for name in cell.spec.preload)})

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="slr-bench-"))
            self._log = Path(place) / "gpu.log"
            self._executor = stack.enter_context(LocalExecutor(self._preload, thread_environment()))
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
        outcome, reason, result = self._run({"op": "calibrate"}, _OPERATORS_TIMEOUT_S, told)
        return _calibration(outcome, reason, result)

    def steps(self, cell: Cell) -> Mapping[str, Any]:
        """As ``run.calibration_cell.recorded_steps``.

        Raises:
            UnsupportedSettingError, CellCrashedError: as above.
        """
        job = {"op": "calibrate", **_setting(cell), "warmup_steps": cell.part.warmup_steps}
        return _calibration(*self._run(job, cell.part.timeout_s))

    def is_out_of_memory(self, cell: Cell, limit_bytes: int) -> bool:
        """Whether the cell's steps run out of memory where torch's allocator may reserve ``limit_bytes``.

        Raises:
            UnsupportedSettingError, CellCrashedError: it ended neither so nor well.
        """
        job = {
            "op": "measure",
            **_setting(cell),
            "gpu_limit_bytes": limit_bytes,
            "sample_hz": 1,
            "warmup_steps": cell.part.warmup_steps,
            "timed_steps": 1,
            "sampler_check_pairs": 0,
        }
        outcome, reason, _ = self._run(job, cell.part.timeout_s)
        if outcome not in (Outcome.OK, Outcome.OOM_GPU):
            raise _failure(outcome, reason)
        return outcome is Outcome.OOM_GPU

    def _run(
        self, job: Mapping[str, Any], timeout_s: float, told: Callable[[str], None] = lambda phase: None
    ) -> tuple[Outcome, str | None, Mapping[str, Any]]:
        def heard(message: dict[str, Any]) -> None:
            if "phase" in message:
                told(message["phase"])

        whole = {"log_path": str(self._log), "isolation": "fork", "device": "cuda", "ram_limit_bytes": None}
        ending = self._executor.run({**whole, "fake": False, **job}, timeout_s, heard, lambda pid: None, timeout_s)
        outcome, reason = classify(ending, timeout_s, None)
        return outcome, reason, ending.result or {}


def _setting(cell: Cell) -> dict[str, Any]:
    return {"workload": cell.spec.name, "setting": cell.settings.model_dump(mode="json")}


def _calibration(outcome: Outcome, reason: str | None, result: Mapping[str, Any]) -> Mapping[str, Any]:
    if outcome is not Outcome.OK:
        raise _failure(outcome, reason)
    found: Mapping[str, Any] = result["calibration"]
    return found


def _failure(outcome: Outcome, reason: str | None) -> NothingMeasuredError | UnsupportedSettingError | CellCrashedError:
    if reason == NO_CUDA:
        return NothingMeasuredError(NO_GPU)
    if outcome is Outcome.UNSUPPORTED:
        return UnsupportedSettingError(str(reason))
    return CellCrashedError(f"the process ended as {outcome}: {reason}")
