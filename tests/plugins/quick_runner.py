"""``python -m quick_runner DIRECTORY``: the real runner and store over ``quick_server``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import faulty_workload
from kill_point import guarded

from slr_bench import files
from slr_bench.errors import SlrBenchError
from slr_bench.execute import local
from slr_bench.grid.cells import Cell, cell_id
from slr_bench.grid.config import GridConfig
from slr_bench.run import store
from slr_bench.run.runner import Runner

SIZES = (1, 2, 3)
REPEATS = 2
SIDES = 2


class Teller:
    """Writes the name of each run whose record is durable."""

    def scheduled(self, runs: Any, finished: int, note: str | None) -> None:
        pass

    def started(self, run: Any) -> None:
        pass

    def progressed(self, run: Any, phase: str) -> None:
        pass

    def finished(self, run: Any, record: Any) -> None:
        os.write(1, f"{run.name}\n".encode())


def cells(grid: GridConfig) -> list[Cell]:
    """Three settings of the faulty workload, made without the entry points: their look-up takes longer than the run."""
    spec = faulty_workload.faulty
    settings = [faulty_workload.FaultySettings(fault={"size": size}) for size in SIZES]
    return [
        Cell(cell_id(spec, one), "default", spec, grid, one, {"fault.size": one.fault.size}, is_own=False)
        for one in settings
    ]


def _write_half(path: Path, text: str, *, durable: bool = True) -> None:
    path.with_name(f".{path.name}.tmp").write_text(text[: len(text) // 2])


def main() -> int:
    local.SERVER = "quick_server"
    os.fsync = guarded("runner", "fsync", os.fsync)
    Path.replace = guarded("runner", "replace", Path.replace)
    files.replace_file = guarded("runner", "write", files.replace_file, _write_half)
    grid = GridConfig(workload="faulty", repeats=REPEATS, sides=SIDES, invalid_reruns=0)
    try:
        Runner(grid, cells(grid), store.Store(Path(sys.argv[1])), fake=False, command="x", retry=True).run(Teller())
    except SlrBenchError as error:
        sys.stderr.write(f"slr-bench: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
