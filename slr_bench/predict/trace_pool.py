"""The processes that trace steps for a prediction: cells go in, step profiles come out. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

from slr_bench.execute.job import Driver, Ending, PhaseEntered, StepToTrace, StepTraced, TraceSteps, Work
from slr_bench.execute.local import LocalExecutor, thread_environment
from slr_bench.files import flatten, nest
from slr_bench.record import without_paths
from slr_bench.trace.requests import Requests, UnmodelledOperator, requests_from_json
from slr_bench.trace.step_trace import TF32

if TYPE_CHECKING:  # it imports much, and the first process starts without it
    from slr_bench.grid.cells import Cell

_TRACED_MICRO_BATCHES: Final = 2
_TRACES_PER_PROCESS: Final = 4
"""Fewer traces are not worth another process, because each process imports torch for itself."""
_STEP_TIMEOUT_S: Final = 120.0
_PRELOAD: Final = ("slr_bench.worker.trace_for_prediction",)
"""The workload's own modules are imported by its first trace, in the one child that runs all traces of a share."""
_HALF: Final = ("float16", "bfloat16")
_NOT_A_STEP: Final = (
    "workload {} is a whole training; what can be predicted is a step: name one of steps with --workload"
)


class Refusal(NamedTuple):
    """A setting that cannot be traced or predicted."""

    reason: str


class ModuleBytes(NamedTuple):
    """Bytes of one module's tensors at the peak."""

    module: str
    bytes: int
    by_category: Mapping[str, int]


class StepWork(NamedTuple):
    """Work of one optimizer step, in the order of the rates."""

    fp32_flops: float
    tf32_flops: float
    half_flops: float
    touched_bytes: float
    operators: int


@dataclass(frozen=True)
class StepProfile:
    """A steady step traced on fake tensors (``worker.trace_for_prediction``)."""

    source: str
    peak_tensor_bytes: int
    floor_bytes: int
    """Operator floor: the least memory that the step's operators need."""
    by_category: Mapping[str, int]
    by_module: Sequence[ModuleBytes]
    requests: Requests
    """Requests of the first step and of a steady one to an allocator (``trace.requests``)."""
    flops_by_dtype: Mapping[str, int]
    touched_bytes_per_step: int
    operators: int
    samples_per_step: int
    """Units of data (clips, images, tokens) per step."""
    cuda_rules: int | None = None
    """Version of the CUDA rules; None for a step on the CPU."""
    unmodelled: Sequence[UnmodelledOperator] = ()
    libraries: Sequence[str] = ()
    """Libraries besides cuBLAS that the step loads on a GPU."""
    interpolated_from: Sequence[int] | None = None
    """The smaller and the larger micro-batch that were traced in its place; None if the step itself was traced."""

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Self:
        """Read what the tracing process sends about one step."""
        return cls(
            source=message["source"],
            peak_tensor_bytes=message["peak_tensor_bytes"],
            floor_bytes=message["floor_bytes"],
            by_category=message["by_category"],
            by_module=[ModuleBytes(**entry) for entry in message["by_module"]],
            requests=requests_from_json(message["requests"]),
            flops_by_dtype=message["flops_by_dtype"],
            touched_bytes_per_step=message["touched_bytes_per_step"],
            operators=message["operators"],
            samples_per_step=message["samples_per_step"],
            cuda_rules=message.get("cuda_rules"),
            unmodelled=[UnmodelledOperator(**entry) for entry in message.get("unmodelled", ())],
            libraries=message.get("libraries", ()),
            interpolated_from=message.get("told_from_samples"),
        )

    @property
    def work(self) -> StepWork:
        """The amounts that the step computes, moves and launches."""
        flops = self.flops_by_dtype
        half, tf32 = sum(flops.get(name, 0) for name in _HALF), flops.get(TF32, 0)
        return StepWork(sum(flops.values()) - half - tf32, tf32, half, self.touched_bytes_per_step, self.operators)


TraceResult = StepProfile | Refusal
OnTraced: TypeAlias = "Callable[[Cell, TraceResult], None]"
"""Receives each cell when it is done."""


class Request(NamedTuple):
    """A cell that waits for its trace."""

    cell: Cell
    step: StepToTrace


Family = list[tuple[str, Request]]


class TracePool:
    """Traces cells in up to one process per core. It starts processes when they are needed and ends them on exit."""

    def __init__(self, start_early: bool = False) -> None:
        """Prepare a pool.

        ``start_early`` starts the first process on entry, so that torch is imported while the caller reads what is to
        be traced.
        """
        self._start_early = start_early
        self._resources = ExitStack()
        self._servers: list[tuple[LocalExecutor, Driver]] = []
        self._results: dict[str, TraceResult] = {}

    def __enter__(self) -> Self:
        if self._start_early:
            self._start_server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def trace(
        self, cells: Sequence[Cell], cuda_rules: bool, on_traced: OnTraced = lambda cell, result: None
    ) -> list[TraceResult]:
        """Trace one step of each cell, as a GPU would run it if ``cuda_rules``; the results are in the cells' order.

        Cells that look alike to a trace are traced once.
        """
        steps = [_step_of(cell, cuda_rules) for cell in cells]
        names = [repr(step) for step in steps]
        cells_by_name: dict[str, list[Cell]] = {}
        new: dict[str, Request] = {}
        for name, cell, step in zip(names, cells, steps, strict=True):
            cells_by_name.setdefault(name, []).append(cell)
            if name not in self._results:
                new.setdefault(name, Request(cell, step))
        for name, result in self._trace_all(new):
            self._results[name] = result
            for cell in cells_by_name[name]:
                on_traced(cell, result)
        return [self._results[name] for name in names]

    def _start_server(self) -> None:
        directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="slr-bench-")))
        executor = LocalExecutor(_PRELOAD, thread_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
        executor.start()
        self._resources.push(executor)
        self._servers.append((executor, Driver(executor, directory, device="cpu")))

    def _trace_all(self, new: Mapping[str, Request]) -> Iterator[tuple[str, TraceResult]]:
        for name, request in new.items():
            if request.cell.spec.kind != "step":
                yield name, Refusal(_NOT_A_STEP.format(request.cell.spec.name))
        steps = {name: request for name, request in new.items() if request.cell.spec.kind == "step"}
        if not steps:
            return
        families = _families(steps)
        count = max(1, min(os.cpu_count() or 1, -(-sum(map(_trace_count, families)) // _TRACES_PER_PROCESS)))
        while len(self._servers) < count:
            self._start_server()
        for executor, _ in self._servers:
            executor.wait_ready()
        results: SimpleQueue[tuple[str, TraceResult] | None] = SimpleQueue()
        stop = Event()
        with ThreadPoolExecutor(max_workers=count) as threads:
            for (_, driver), share in zip(self._servers, _shares(families, count), strict=False):
                threads.submit(_trace_share, driver, share, results.put, stop)
            running = count
            try:
                while running:
                    result = results.get()
                    if result is None:
                        running -= 1
                    else:
                        yield result
            finally:  # after Ctrl-C the thread pool would wait for its threads
                stop.set()


def trace_steps(
    cells: Sequence[Cell], cuda_rules: bool, on_traced: OnTraced = lambda cell, result: None
) -> list[TraceResult]:
    """Trace cells in a pool that exists for this call only; see :meth:`TracePool.trace`."""
    with TracePool() as pool:
        return pool.trace(cells, cuda_rules, on_traced)


def _step_of(cell: Cell, cuda_rules: bool) -> StepToTrace:
    """Describe a cell to the tracing process, with no more micro-batches than are traced."""
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


def _families(steps: Mapping[str, Request]) -> list[Family]:
    """Group cells that differ in the size of a micro-batch only: the smallest, the largest, then those between."""
    groups: dict[str, Family] = {}
    for name, request in steps.items():
        groups.setdefault(request.step.family or name, []).append((name, request))
    families = []
    for group in groups.values():
        by_size = sorted(group, key=lambda named: named[1].step.samples or 0)
        families.append([*by_size[:1], *by_size[-1:][: len(by_size) - 1], *by_size[1:-1]])
    return families


def _trace_count(family: Family) -> int:
    """Return the number of cells of a family that are traced as a rule; the others are interpolated."""
    return min(2, len(family))


def _shares(families: Sequence[Family], count: int) -> list[dict[str, Request]]:
    """Distribute the families over ``count`` processes, with about the same number of traces each."""
    shares: list[list[Family]] = [[] for _ in range(count)]
    for family in families:
        min(shares, key=lambda share: sum(map(_trace_count, share))).append(family)
    return [dict(named for family in share for named in family) for share in shares]


def _trace_share(
    driver: Driver, share: Mapping[str, Request], put: Callable[[tuple[str, TraceResult] | None], None], stop: Event
) -> None:
    """Put the result of each step of the share, then None. A child that dies loses only the step that it was tracing.

    When ``stop`` is set, the running trace is abandoned.
    """
    left = dict(share)
    try:
        while left and not stop.is_set():
            names = list(left)

            def on_message(message: PhaseEntered | StepTraced, names: list[str] = names) -> None:
                if isinstance(message, StepTraced):
                    name = names[message.number]
                    put((name, _result(message, left[name].cell)))
                    del left[name]

            task = TraceSteps(tuple(request.step for request in left.values()))
            timeout_s = _STEP_TIMEOUT_S * len(left)
            ending = driver.run(task, timeout_s, "trace", on_message=on_message, is_cancelled=stop.is_set)
            if left:
                name = next(iter(left))
                del left[name]
                put((name, Refusal(f"the trace broke: {_why_incomplete(ending)}")))
    except Exception as error:  # noqa: BLE001 - reported in the place of each missing result
        for name in left:
            put((name, Refusal(f"the trace broke: {error}")))
    finally:
        put(None)


def _result(message: StepTraced, cell: Cell) -> TraceResult:
    if message.step is None:
        return Refusal(without_paths(message.refusal or "", cell.settings.model_dump_json()))
    return StepProfile.from_json(message.step)


def _why_incomplete(ending: Ending) -> str:
    """Why a child ended before it had traced all of its steps."""
    if ending.timed_out:
        return f"it took more than {ending.timeout_s:g} s"
    if ending.result is not None and ending.result.reason:
        return ending.result.reason
    return f"the process ended {f'by signal {ending.signal}' if ending.signal else f'with status {ending.code}'}"
