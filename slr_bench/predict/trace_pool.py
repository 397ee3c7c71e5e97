"""The parent of the traces behind a prediction: cells in, traced steps out. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import Final, NamedTuple, Self

from slr_bench.execute.job import Ending, JsonObject, PhaseEntered, StepToTrace, StepTraced, TraceSteps, Work
from slr_bench.execute.local import LocalExecutor
from slr_bench.files import flatten, nest
from slr_bench.grid.cells import Cell
from slr_bench.record import without_paths
from slr_bench.run.driver import Driver, thread_environment

_TRACED_MICRO_BATCHES: Final = 2
_TRACES_A_PROCESS: Final = 4
"""Fewer are not worth another process, which imports torch for itself."""
_STEP_TIMEOUT_S: Final = 120.0
_PRELOAD: Final = ("slr_bench.trace.fake.lazy_dynamo", "slr_bench.worker.trace_for_prediction")
"""What a workload needs besides its first trace imports, in the one child that all of a share's traces run in."""
_WHOLE: Final = "workload {} is a whole training; what can be predicted is a step: name one of steps with --workload"

Foreseen = JsonObject


class Asked(NamedTuple):
    """A cell, and what a child is told of it."""

    cell: Cell
    step: StepToTrace


Server = tuple[LocalExecutor, Path]
Seen = Callable[[Cell, Foreseen | str], None]
"""Told of each cell as it is done: the traced step, or why there is none."""


class Foresight:
    """Traces cells, in up to one process a core; open while asked several times."""

    def __init__(self, cuda_rules: bool) -> None:
        self._cuda_rules = cuda_rules
        self._servers: list[Server] = []
        self._known: dict[str, Foreseen | str] = {}

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._open.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def begin(self) -> None:
        """Start the first process: it imports torch while the caller reads what is to be traced."""
        place = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="slr-bench-")))
        executor = LocalExecutor(_PRELOAD, thread_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
        executor.start()
        self._open.push(executor)
        self._servers.append((executor, place / "trace.log"))

    def foresee(self, cells: Sequence[Cell], seen: Seen = lambda cell, found: None) -> list[Foreseen | str]:
        """The traced step of each cell, or why it cannot be traced; in the cells' order.

        Cells that differ in nothing that a trace sees are traced once.
        """
        steps = [_step(cell, self._cuda_rules) for cell in cells]
        names = [repr(step) for step in steps]
        asked: dict[str, list[Cell]] = {}
        new: dict[str, Asked] = {}
        for name, cell, step in zip(names, cells, steps, strict=True):
            asked.setdefault(name, []).append(cell)
            if name not in self._known:
                new.setdefault(name, Asked(cell, step))
        for name, found in self._traced(new):
            self._known[name] = found
            for cell in asked[name]:
                seen(cell, found)
        return [self._known[name] for name in names]

    def _traced(self, new: Mapping[str, Asked]) -> Iterator[tuple[str, Foreseen | str]]:
        for name, one in new.items():
            if one.cell.spec.kind != "step":
                yield name, _WHOLE.format(one.cell.spec.name)
        steps = {name: one for name, one in new.items() if one.cell.spec.kind == "step"}
        if not steps:
            return
        families = _families(steps)
        count = max(1, min(os.cpu_count() or 1, -(-sum(map(_traces, families)) // _TRACES_A_PROCESS)))
        done: SimpleQueue[tuple[str, Foreseen | str] | None] = SimpleQueue()
        stop = Event()
        while len(self._servers) < count:
            self.begin()
        for executor, _ in self._servers:
            executor.wait_ready()
        with ThreadPoolExecutor(max_workers=count) as pool:
            for server, share in zip(self._servers, _shares(families, count), strict=False):
                pool.submit(_trace, server, share, done.put, stop)
            waiting = count
            try:
                while waiting:
                    message = done.get()
                    if message is None:
                        waiting -= 1
                    else:
                        yield message
            finally:  # Ctrl-C: the pool waits for its threads
                stop.set()


def foresee(cells: Sequence[Cell], cuda_rules: bool, seen: Seen = lambda cell, found: None) -> list[Foreseen | str]:
    """As :meth:`Foresight.foresee`, once."""
    with Foresight(cuda_rules) as foresight:
        return foresight.foresee(cells, seen)


def _step(cell: Cell, cuda_rules: bool) -> StepToTrace:
    """What the child is told of a cell: its setting, with no more micro-batches than are traced; the size of one, and
    what it shares with cells that differ in that only (None: nothing).
    """
    setting = flatten(cell.settings.model_dump(mode="json"))
    more = 0
    key = cell.spec.micro_batches
    if key is not None:
        more = max(0, int(setting[key]) - _TRACED_MICRO_BATCHES)
        setting[key] = min(int(setting[key]), _TRACED_MICRO_BATCHES)
    samples = None if cell.spec.micro_batch is None else int(setting[cell.spec.micro_batch])
    rest = {name: value for name, value in setting.items() if name != cell.spec.micro_batch}
    family = None if samples is None else repr((cell.spec.name, rest))
    work = Work(cell.spec.name, nest(setting), fake=True, cuda_rules=cuda_rules)
    return StepToTrace(work, more, samples, family)


Family = list[tuple[str, Asked]]


def _families(steps: Mapping[str, Asked]) -> list[Family]:
    """Cells that differ in the size of a micro-batch only: the smallest, the largest, then those between."""
    alike: dict[str, Family] = {}
    for name, one in steps.items():
        alike.setdefault(one.step.family or name, []).append((name, one))
    families = []
    for family in alike.values():
        by_size = sorted(family, key=lambda named: named[1].step.samples or 0)
        families.append([*by_size[:1], *by_size[-1:][: len(by_size) - 1], *by_size[1:-1]])
    return families


def _traces(family: Family) -> int:
    """How many of them are traced, as a rule."""
    return min(2, len(family))


def _shares(families: Sequence[Family], count: int) -> list[dict[str, Asked]]:
    """The families over ``count`` processes, about the same number of traces each."""
    shares: list[list[Family]] = [[] for _ in range(count)]
    for family in families:
        min(shares, key=lambda share: sum(map(_traces, share))).append(family)
    return [dict(one for family in share for one in family) for share in shares]


def _trace(
    server: Server,
    share: Mapping[str, Asked],
    told: Callable[[tuple[str, Foreseen | str] | None], None],
    stop: Event,
) -> None:
    """Tell each step of the share, then None. A child that dies loses the step it was at, no other.

    When ``stop`` is set nobody waits for the one that runs.
    """
    executor, log = server
    driver = Driver(executor, log.parent, device="cpu")
    left = dict(share)
    try:
        while left and not stop.is_set():
            names = list(left)

            def heard(message: PhaseEntered | StepTraced, names: list[str] = names) -> None:
                if isinstance(message, StepTraced):
                    name = names[message.number]
                    cell = left.pop(name).cell
                    refusal = without_paths(message.refusal or "", cell.settings.model_dump_json())
                    told((name, refusal if message.step is None else message.step))

            task = TraceSteps(tuple(one.step for one in left.values()))
            timeout_s = _STEP_TIMEOUT_S * len(left)
            ending = driver.run(task, timeout_s, "trace", on_message=heard, is_cancelled=stop.is_set)
            if left:
                name = next(iter(left))
                del left[name]
                told((name, f"the trace broke: {_why(ending)}"))
    except Exception as error:  # noqa: BLE001 - told in the place of what is missing
        for name in left:
            told((name, f"the trace broke: {error}"))
    finally:
        told(None)


def _why(ending: Ending) -> str:
    """Why a child told less than it was asked."""
    if ending.timed_out:
        return f"it took more than {ending.timeout_s:g} s"
    if ending.result is not None and ending.result.reason:
        return str(ending.result.reason)
    return f"the process ended {f'by signal {ending.signal}' if ending.signal else f'with status {ending.code}'}"
