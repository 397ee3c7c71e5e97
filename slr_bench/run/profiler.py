"""The parent of ``slr-bench profile``: profiles one setting in a process of its own. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable

from slr_bench.errors import CellCrashedError, NothingMeasuredError
from slr_bench.execute.job import Ending, JsonObject, ProfileStep
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome, without_paths
from slr_bench.run.driver import on_phase, preload_of, prepare, temporary_driver, work_of
from slr_bench.units import parse_bytes

_SHOWN_LOG_LINES = 8


def profile(
    grid: GridConfig, cell: Cell, fake: bool, on_progress: Callable[[str], None], *, cuda_rules: bool = False
) -> JsonObject:
    """Return the JSON object of ``slr-bench profile`` for one cell.

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
    return head | report


def _checked(ending: Ending, cell: Cell, log_lines: list[str]) -> JsonObject:
    if ending.result is not None and ending.result.report is not None:
        return ending.result.report
    text = f"{ending.outcome}: {without_paths(ending.reason or '', cell.settings.model_dump_json())}"
    if ending.outcome in (Outcome.CRASH, Outcome.TIMEOUT):
        raise CellCrashedError("\n  ".join([text, *log_lines[-_SHOWN_LOG_LINES:]]))
    raise NothingMeasuredError(text)
