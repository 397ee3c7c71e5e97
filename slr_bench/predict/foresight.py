"""The parent of the traces behind a prediction: cells in, traced steps out. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from slr_bench.grid.cells import Cell, flatten, nest
from slr_bench.run.executors.local import LocalExecutor
from slr_bench.run.lane import thread_environment
from slr_bench.run.outcome import without_paths

_TRACED_MICRO_BATCHES: Final = 2
_CELLS_A_PROCESS: Final = 4
"""Fewer are not worth another process, which imports torch for itself."""
_STEP_TIMEOUT_S: Final = 120.0

Foreseen = Mapping[str, Any]
Step = dict[str, Any]
"""What a child is told of a cell."""
Seen = Callable[[Cell, Foreseen | str], None]
"""Told of each cell as it is done: the traced step, or why there is none."""


class Foresight:
    """Traces cells of the workloads that ``like`` have, in up to one process a core; open while asked several times."""

    def __init__(self, like: Sequence[Cell], cuda_rules: bool, most: int | None = None) -> None:
        """``most``: processes at most."""
        self._cuda_rules = cuda_rules
        self._preload = sorted({"slr_bench.run.foreseen_cell", *(name for cell in like for name in cell.spec.preload)})
        self._most = most or os.cpu_count() or 1
        self._servers: list[_Server] = []
        self._known: dict[str, Foreseen | str] = {}

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._open.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def foresee(self, cells: Sequence[Cell], seen: Seen = lambda cell, found: None) -> list[Foreseen | str]:
        """The traced step of each cell, or why it cannot be traced; in the cells' order.

        Cells that differ in nothing that a trace sees are traced once.
        """
        steps = [_step(cell) for cell in cells]
        new: dict[str, tuple[Cell, Step]] = {}
        for cell, step in zip(cells, steps, strict=True):
            if repr(step) not in self._known:
                new.setdefault(repr(step), (cell, step))
        count = max(1, min(self._most, -(-len(new) // _CELLS_A_PROCESS)))
        missing = [_Server(self._preload) for _ in range(count - len(self._servers))] if new else []
        with ThreadPoolExecutor(max_workers=count) as pool:  # each imports torch: at the same time
            self._servers += pool.map(self._open.enter_context, missing)
        done: SimpleQueue[tuple[str, Foreseen | str] | None] = SimpleQueue()
        with ThreadPoolExecutor(max_workers=count) as pool:
            for place, server in enumerate(self._servers[:count] if new else ()):
                share = dict(list(new.items())[place::count])
                pool.submit(server.trace, share, self._cuda_rules, done.put)
            waiting = len(self._servers[:count]) if new else 0
            while waiting:
                message = done.get()
                if message is None:
                    waiting -= 1
                    continue
                self._known[message[0]] = message[1]
                seen(new[message[0]][0], message[1])
        return [self._known[repr(step)] for step in steps]


def foresee(cells: Sequence[Cell], cuda_rules: bool, seen: Seen = lambda cell, found: None) -> list[Foreseen | str]:
    """As :meth:`Foresight.foresee`, once."""
    with Foresight(cells, cuda_rules) as foresight:
        return foresight.foresee(cells, seen)


def _step(cell: Cell) -> Step:
    """What the child is told of a cell: its setting, with no more micro-batches than are traced."""
    setting = flatten(cell.settings.model_dump(mode="json"))
    more = 0
    key = cell.spec.micro_batches
    if key is not None:
        more = max(0, int(setting[key]) - _TRACED_MICRO_BATCHES)
        setting[key] = min(int(setting[key]), _TRACED_MICRO_BATCHES)
    return {"workload": cell.spec.name, "setting": nest(setting), "more_micro_batches": more}


class _Server:
    """A fork server and its log."""

    def __init__(self, preload: Sequence[str]) -> None:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._executor = LocalExecutor(preload, thread_environment() | threads)

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._log = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="slr-bench-"))) / "trace.log"
        self._open.enter_context(self._executor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def trace(
        self,
        share: Mapping[str, tuple[Cell, Step]],
        cuda_rules: bool,
        told: Callable[[tuple[str, Foreseen | str] | None], None],
    ) -> None:
        """Tell each step of the share, then None. A child that dies loses the step it was at, no other."""
        left = dict(share)
        try:
            while left:
                names = list(left)

                def heard(message: dict[str, Any], names: list[str] = names) -> None:
                    if "number" in message:
                        name = names[message["number"]]
                        cell, _ = left.pop(name)
                        why = without_paths(message.get("refused", ""), cell.settings.model_dump_json())
                        told((name, message.get("foreseen", why)))

                job = {
                    "op": "foresee",
                    "log_path": str(self._log),
                    "isolation": "fork",
                    "device": "cpu",
                    "ram_limit_bytes": None,
                    "fake": True,
                    "cuda_rules": cuda_rules,
                    "steps": [step for _, step in left.values()],
                }
                timeout_s = _STEP_TIMEOUT_S * len(left)
                ending = self._executor.run(job, timeout_s, heard, lambda _: None, timeout_s)
                if left:
                    why = "it took too long" if ending.timed_out else f"the process ended with signal {ending.signal}"
                    told((next(iter(left)), f"the trace broke: {why}"))
                    del left[next(iter(left))]
        except Exception as error:  # noqa: BLE001 - told in the place of what is missing
            for name in left:
                told((name, f"the trace broke: {error}"))
        finally:
            told(None)
