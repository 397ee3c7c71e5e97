"""The parent of ``slr-bench profile``: one setting in a process of its own. Imports no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slr_bench.errors import CellCrashedError, NothingMeasuredError
from slr_bench.execute.local import LocalExecutor
from slr_bench.execute.oom_kills import read_oom_kills, rose
from slr_bench.execute.outcome import classify, without_paths
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.record import Outcome
from slr_bench.run.preflight import prepare
from slr_bench.run.session import thread_environment
from slr_bench.units import parse_bytes

_TICK_S = 1.0


def profile(
    grid: GridConfig, cell: Cell, fake: bool, progressed: Callable[[str], None], *, cuda_rules: bool = False
) -> dict[str, Any]:
    """The JSON object of ``slr-bench profile`` for one cell; ``progressed`` is told where the child is.

    ``cuda_rules``: fake tensors stand for a GPU's.

    Raises:
        NothingMeasuredError: it ran out of memory or cannot run here.
        CellCrashedError: it crashed or timed out.
    """
    if not fake:
        prepare([cell], grid.device)
    with tempfile.TemporaryDirectory(prefix="slr-bench-") as place:
        log = Path(place) / "profile.log"
        job = {
            "op": "profile",
            "log_path": str(log),
            "isolation": "fork",
            "device": "cpu" if fake else grid.device,
            "ram_limit_bytes": parse_bytes(grid.ram_limit) if grid.ram_limit else None,
            "workload": cell.spec.name,
            "setting": cell.settings.model_dump(mode="json"),
            "fake": fake,
            "cuda_rules": cuda_rules,
            "warmup_steps": cell.part.warmup_steps,
        }
        kills = read_oom_kills()
        preload = sorted({"slr_bench.worker.profile", *cell.spec.preload})
        with LocalExecutor(preload, thread_environment()) as executor:
            ending = executor.run(
                job, cell.part.timeout_s, lambda message: progressed(message.get("phase", "")), lambda _: None, _TICK_S
            )
        outcome, reason = classify(ending, cell.part.timeout_s, rose(kills, read_oom_kills()))
        if outcome in (Outcome.CRASH, Outcome.TIMEOUT):
            said = log.read_text(errors="replace").strip() if log.is_file() else ""
            tail = "".join(f"\n  {line}" for line in said.splitlines()[-8:])
            raise CellCrashedError(f"{outcome}: {_clean(reason, cell)}{tail}")
        if outcome is not Outcome.OK or ending.result is None:
            raise NothingMeasuredError(f"{outcome}: {_clean(reason, cell)}")
    found: dict[str, Any] = ending.result["profile"]
    head = {"arm": cell.arm, "workload": cell.spec.name, "cell_id": cell.cell_id, "setting": cell.public_setting}
    return head | found


def _clean(reason: str | None, cell: Cell) -> str:
    return without_paths(reason or "", cell.settings.model_dump_json())
