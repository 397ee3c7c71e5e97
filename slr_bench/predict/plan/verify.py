"""Settings run for real on this machine, to calibrate and to verify a plan. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from slr_bench.errors import NothingMeasuredError
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig, with_device
from slr_bench.predict.plan.search import Probed
from slr_bench.record import Outcome, Record
from slr_bench.run.runner import Runner
from slr_bench.run.schedule import Run
from slr_bench.run.store import Store

_MEMORY = ("nvml_process_peak_bytes", "peak_reserved_bytes")


def measured(grid: GridConfig, cells: Sequence[Cell], progressed: Callable[[str], None]) -> list[Probed]:
    """Each cell once, in a process of its own, on the GPU; nothing is kept.

    Raises:
        NothingMeasuredError: a cell ended otherwise than measured or out of memory, as without a GPU.
    """
    grid = with_device(grid, "cuda")
    with tempfile.TemporaryDirectory(prefix="slr-bench-") as place:
        runner = Runner(grid, _once(cells), Store(Path(place)), fake=False, command="slr-bench plan", skip=False)
        totals = runner.run(_Teller(progressed))
    records = {record.cell_id: record for record in totals.records}
    return [probed(records[cell.cell_id]) for cell in cells]


def probed(record: Record) -> Probed:
    """What a run says of memory and time.

    Raises:
        NothingMeasuredError: it failed otherwise than out of memory.
    """
    if record.outcome is Outcome.OOM_GPU:
        return Probed(None, None)
    if record.outcome is not Outcome.OK:
        raise NothingMeasuredError(f"the setting ended as {record.outcome}: {record.reason}")
    values = {name: metric.value for name, metric in record.metrics.items()}
    memory = next((values[name] for name in _MEMORY if values.get(name) is not None), None)
    if memory is None:
        raise NothingMeasuredError(
            "the setting ran, but neither NVML nor torch told its GPU memory; see slr-bench doctor"
        )
    seconds = values.get("step_time_s")
    return Probed(int(memory), None if seconds is None else float(seconds))


def _once(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.cell_id: cell for cell in cells}.values())


class _Teller:
    def __init__(self, progressed: Callable[[str], None]) -> None:
        self._progressed = progressed

    def planned(self, runs: Sequence[Run], finished: int, note: str | None) -> None:
        self._progressed(f"measuring {len(runs)} settings")

    def started(self, run: Run) -> None:
        self._progressed(f"measuring {run.name}")

    def progressed(self, run: Run, phase: str) -> None:
        self._progressed(f"measuring {run.name}: {phase}")

    def finished(self, run: Run, record: Record) -> None:
        self._progressed(f"measured {run.name}: {record.outcome}")
