"""The parent of the traces behind a prediction: cells in, traced steps out. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from slr_bench.grid.cells import Cell, flatten, nest
from slr_bench.run.executors.local import Ending, LocalExecutor
from slr_bench.run.lane import thread_environment
from slr_bench.run.outcome import without_paths

_TRACED_MICRO_BATCHES: Final = 2
_CELLS_A_PROCESS: Final = 4
"""Fewer are not worth another process, which imports torch for itself."""
_TIMEOUT_S: Final = 600.0
_WHOLE: Final = "workload {} is a whole training; what can be predicted is a step: name one of steps with --workload"

Foreseen = Mapping[str, Any]
Seen = Callable[[Cell, Foreseen | str], None]
"""Told of each cell as it is done: the traced step, or why there is none."""


def foresee(cells: Sequence[Cell], cuda_rules: bool, seen: Seen = lambda cell, found: None) -> list[Foreseen | str]:
    """The traced step of each cell, or why it cannot be traced; in the cells' order.

    Cells that differ in nothing that a trace sees are traced once.
    """
    steps = [_step(cell) for cell in cells]
    found: list[Foreseen | str] = [_WHOLE.format(cell.spec.name) for cell in cells]
    places: dict[str, list[int]] = {}
    for place, (cell, step) in enumerate(zip(cells, steps, strict=True)):
        if cell.spec.kind == "step":
            places.setdefault(repr(step), []).append(place)
        else:
            seen(cell, found[place])
    groups = list(places.values())
    if not groups:
        return found
    processes = max(1, min(os.cpu_count() or 1, len(groups) // _CELLS_A_PROCESS))
    done: SimpleQueue[tuple[list[int], Foreseen | str] | None] = SimpleQueue()
    with ThreadPoolExecutor(processes) as pool:
        shares = [groups[start::processes] for start in range(processes)]
        for share in shares:
            pool.submit(_trace, [cells[group[0]] for group in share], share, steps, cuda_rules, done.put)
        waiting = processes
        while waiting:
            message = done.get()
            if message is None:
                waiting -= 1
                continue
            for place in message[0]:
                found[place] = message[1]
                seen(cells[place], message[1])
    return found


def _step(cell: Cell) -> dict[str, Any]:
    """What the child is told of a cell: its setting, with no more micro-batches than are traced."""
    setting = flatten(cell.settings.model_dump(mode="json"))
    more = 0
    key = cell.spec.micro_batches
    if key is not None:
        more = max(0, int(setting[key]) - _TRACED_MICRO_BATCHES)
        setting[key] = min(int(setting[key]), _TRACED_MICRO_BATCHES)
    return {"workload": cell.spec.name, "setting": nest(setting), "more_micro_batches": more}


def _trace(
    cells: Sequence[Cell],
    groups: Sequence[list[int]],
    steps: Sequence[dict[str, Any]],
    cuda_rules: bool,
    told: Callable[[tuple[list[int], Foreseen | str] | None], None],
) -> None:
    """One server's share. A child that dies loses the cell it was at; the rest goes to another child."""
    left = list(range(len(groups)))
    try:
        with _server(cells) as (executor, log):
            while left:
                asked = list(left)

                def heard(message: dict[str, Any], asked: list[int] = asked) -> None:
                    if "number" in message:
                        place = asked[message["number"]]
                        left.remove(place)
                        why = without_paths(message.get("refused", ""), cells[place].settings.model_dump_json())
                        told((groups[place], message.get("foreseen", why)))

                job = {
                    "op": "foresee",
                    "log_path": str(log),
                    "isolation": "fork",
                    "device": "cpu",
                    "ram_limit_bytes": None,
                    "fake": True,
                    "cuda_rules": cuda_rules,
                    "steps": [steps[groups[place][0]] for place in asked],
                }
                ending = executor.run(job, _TIMEOUT_S, heard, lambda _: None, _TIMEOUT_S)
                if left:
                    told((groups[left.pop(0)], f"the trace broke: {_why(ending)}"))
    except Exception as error:  # noqa: BLE001 - told in the place of what is missing
        for place in left:
            told((groups[place], f"the trace broke: {error}"))
    finally:
        told(None)


def _why(ending: Ending) -> str:
    """Why a child told less than it was asked."""
    if ending.timed_out:
        return f"it took more than {_TIMEOUT_S:g} s"
    if ending.result is not None and ending.result["reason"]:
        return str(ending.result["reason"])
    return f"the process ended {f'by signal {ending.signal}' if ending.signal else f'with status {ending.code}'}"


@contextmanager
def _server(cells: Sequence[Cell]) -> Iterator[tuple[LocalExecutor, Path]]:
    preload = sorted({"slr_bench.run.foreseen_cell", *(name for cell in cells for name in cell.spec.preload)})
    with (
        tempfile.TemporaryDirectory(prefix="slr-bench-") as place,
        LocalExecutor(preload, thread_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}) as executor,
    ):
        yield executor, Path(place) / "trace.log"
