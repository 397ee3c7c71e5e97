"""The seam between parent and child: jobs, what the child reports, how it ended, and the driver of all jobs.

A `Job` goes to an `Executor`, which runs it in a process of its own. That process sends messages and, last of all, a
`JobResult`. The executor returns an `Ending`. This module imports neither torch nor the worker: a task names the
worker's function as text.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter

from slr_bench.record import Metric, Outcome, Phase, RunEvent

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object that this package passes on without reading it."""

TIMED_PREFIX: Final = "step "
"""Begins the name of a phase in which a step is timed."""
TRACE_PHASE: Final = "trace"
OLD_NAMES_VARIABLE: Final = "SLR_BENCH_OLD_NAMES"
"""Variable in the environment of a process that imports an older source tree (``worker.old_names``)."""
NO_CUDA: Final = "device: cuda, but torch sees no CUDA device; use --device cpu or a machine with one"


@dataclass(frozen=True)
class Work:
    """A workload at one setting, on real or fake tensors."""

    workload: str
    setting: JsonObject
    fake: bool = False
    cuda_rules: bool = False
    """Fake tensors represent those of a GPU."""


@dataclass(frozen=True)
class DescribeEnvironment:
    """Report versions, processor and GPU."""

    entry: ClassVar[str] = "slr_bench.worker.main:describe_only"
    kind: Literal["environment"] = "environment"


@dataclass(frozen=True)
class MeasureCell:
    """Measure memory, time and, for a whole training, accuracy."""

    entry: ClassVar[str] = "slr_bench.worker.measure:measure"
    work: Work
    warmup_steps: int
    timed_steps: int
    sample_hz: float
    sampler_check_pairs: int = 0
    gpu_limit_bytes: int | None = None
    """Most bytes that torch's CUDA allocator may reserve."""
    kind: Literal["measure"] = "measure"


@dataclass(frozen=True)
class ProfileStep:
    """Attribute every byte at the peak of one step."""

    entry: ClassVar[str] = "slr_bench.worker.traced_step:profile_step"
    work: Work
    warmup_steps: int
    kind: Literal["profile"] = "profile"


@dataclass(frozen=True)
class StepToTrace:
    """One step for a prediction. The setting has the micro-batches that are traced; the others come on top."""

    work: Work
    more_micro_batches: int = 0
    samples: int | None = None
    """Samples per micro-batch, if the workload names the key."""
    family: str | None = None
    """Equal for steps that differ in ``samples`` only."""


@dataclass(frozen=True)
class TraceSteps:
    """Trace steps on fake tensors, one after the other; each is reported by a message of its own."""

    entry: ClassVar[str] = "slr_bench.worker.trace_for_prediction:trace_steps"
    steps: tuple[StepToTrace, ...]
    kind: Literal["trace"] = "trace"


@dataclass(frozen=True)
class CalibrateOperators:
    """Measure the GPU memory of operators, one by one."""

    entry: ClassVar[str] = "slr_bench.worker.calibrate:calibrate_operators"
    kind: Literal["calibrate_operators"] = "calibrate_operators"


@dataclass(frozen=True)
class CalibrateSteps:
    """Record the CUDA allocator's history over the steps of one setting."""

    entry: ClassVar[str] = "slr_bench.worker.calibrate:calibrate_steps"
    work: Work
    warmup_steps: int
    kind: Literal["calibrate_steps"] = "calibrate_steps"


Task: TypeAlias = Annotated[
    DescribeEnvironment | MeasureCell | ProfileStep | TraceSteps | CalibrateOperators | CalibrateSteps,
    Field(discriminator="kind"),
]
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Job(Generic[T_co]):
    """A task and the process in which it runs."""

    task: T_co
    device: str = "auto"
    log_path: str = ""
    """File for the output of the process."""
    timeout_s: float = 600.0
    isolation: Literal["fork", "spawn"] = "fork"
    ram_limit_bytes: int | None = None
    is_monitored: bool = False
    """If true, the executor samples the PSS of the process and looks for interference."""

    def to_json(self) -> bytes:
        """Return the job as one line of JSON."""
        return _JOBS.dump_json(self)

    @staticmethod
    def from_json(text: bytes | str) -> Job[Any]:
        """Return the job that :meth:`to_json` wrote."""
        return _JOBS.validate_json(text)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Job[Any]:
        """Return the job that a message holds."""
        return _JOBS.validate_python(values)


@dataclass(frozen=True)
class GpuFacts:
    """Observations of the GPU by the child, between the timed steps."""

    throttle_reasons: tuple[str, ...] = ()
    other_processes: int = 0


@dataclass(frozen=True)
class Measurement:
    """The payload of a measured cell."""

    metrics: dict[str, Metric]
    phases: dict[str, Phase] = field(default_factory=dict)
    samples: JsonObject | None = None
    """The contents of ``samples/<run>.json``."""
    gpu: GpuFacts = GpuFacts()
    work_s: float | None = None
    """Seconds between the first build and the last reading, if they are less than the whole job took."""
    events: tuple[RunEvent, ...] = ()
    """Changes that the work made to itself."""


@dataclass(frozen=True)
class JobResult:
    """The result that the worker returns at the end of a job."""

    outcome: Outcome
    reason: str | None
    environment: JsonObject
    work_s: float = 0.0
    measurement: Measurement | None = None
    report: JsonObject | None = None
    """The payload of a profile or a calibration."""
    kind: Literal["result"] = "result"


@dataclass(frozen=True)
class PhaseEntered:
    """The child has entered a named phase of its job."""

    phase: str
    kind: Literal["phase"] = "phase"


@dataclass(frozen=True)
class StepTraced:
    """One step of `TraceSteps` is done: either ``step`` or the reason why it cannot be traced."""

    number: int
    step: JsonObject | None = None
    refusal: str | None = None
    kind: Literal["step"] = "step"


Message: TypeAlias = Annotated[PhaseEntered | StepTraced | JobResult, Field(discriminator="kind")]
Send: TypeAlias = Callable[[PhaseEntered | StepTraced], None]
OnMessage: TypeAlias = Callable[[PhaseEntered | StepTraced], None]
"""Receives each message but the result."""

_JOBS: Final[TypeAdapter[Job[Any]]] = TypeAdapter(Job[Task])
MESSAGES: Final[TypeAdapter[Any]] = TypeAdapter(Message)
"""Reads and writes the lines that a child sends."""


@dataclass(frozen=True)
class MachineReadings:
    """Readings that only the machine of the job can take. None means that a reading was not possible."""

    oom_counter: str | None = None
    """The counter of out-of-memory kills that rose while the job ran."""
    peak_pss_bytes: int | None = None
    executor_cpu_s: float = 0.0
    """CPU time of the executor's process while the job ran, without the reading of PSS."""
    foreign_cpu_share: float | None = None
    """Share of the cores that other processes took while steps were timed."""
    swapped_bytes: int = 0
    """Bytes that the machine moved in or out of swap."""
    tree_swap_bytes: int | None = None
    """Bytes of the job's processes that lay in swap after the timed steps."""
    clock_jump_s: float = 0.0
    """Seconds by which the wall clock moved against the monotonic clock."""


@dataclass(frozen=True)
class Ending:
    """The end of a job, as its executor observed it."""

    result: JobResult | None = None
    """None if the child died before it returned one."""
    signal: int | None = None
    code: int | None = None
    timed_out: bool = False
    duration_s: float = 0.0
    timeout_s: float = 0.0
    machine: MachineReadings = MachineReadings()

    @property
    def outcome(self) -> Outcome:
        """The typed outcome. SIGKILL means out-of-memory only if a counter of such kills rose meanwhile."""
        if self.timed_out:
            return Outcome.TIMEOUT
        if self.result is not None:
            return self.result.outcome
        was_oom = self.signal == signals.SIGKILL and self.machine.oom_counter is not None
        return Outcome.OOM_HOST if was_oom else Outcome.CRASH

    @property
    def reason(self) -> str | None:
        """Why the job did not end well, in one line; None if it did."""
        if self.timed_out:
            return (
                f"still running after {self.timeout_s:g} s, and was killed; raise timeout_s and run again with --retry"
            )
        if self.result is not None:
            return self.result.reason
        if self.signal is None:
            return f"the process ended with status {self.code} and no result; see its log in logs/"
        if self.outcome is Outcome.OOM_HOST:
            counter = self.machine.oom_counter
            return f"killed by the kernel for want of memory (SIGKILL, and {counter} oom_kill count rose)"
        return f"ended by {_signal_name(self.signal)}; see its log in logs/"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


class Handle(Protocol):
    """A job that was submitted."""

    def wait(self, on_message: OnMessage = ..., is_cancelled: Callable[[], bool] | None = None) -> Ending:
        """Wait for the end of the job.

        ``is_cancelled`` is called several times per second; once it returns true the job is killed.
        """


class Executor(Protocol):
    """A place where jobs run, one at a time. Entering starts it; leaving ends all that it started."""

    def submit(self, job: Job[Any]) -> Handle:
        """Start a job."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Driver:
    """Runs tasks on one executor, with what all their processes have in common."""

    executor: Executor
    logs: Path
    """Directory for the output of each process."""
    device: str = "auto"
    isolation: Literal["fork", "spawn"] = "fork"
    ram_limit_bytes: int | None = None

    def run(
        self,
        task: Any,
        timeout_s: float,
        name: str = "job",
        *,
        on_message: OnMessage = lambda message: None,
        is_cancelled: Callable[[], bool] | None = None,
        is_monitored: bool = False,
    ) -> Ending:
        """Run a task to its end, at most ``timeout_s``; ``name`` is the stem of its log."""
        job = Job(
            task,
            device=self.device,
            log_path=str(self.log_path(name)),
            timeout_s=timeout_s,
            isolation=self.isolation,
            ram_limit_bytes=self.ram_limit_bytes,
            is_monitored=is_monitored,
        )
        return self.executor.submit(job).wait(on_message, is_cancelled)

    def log_path(self, name: str = "job") -> Path:
        """Return the log of the process that ran under a name."""
        return self.logs / f"{name}.log"

    def log_lines(self, name: str = "job") -> list[str]:
        """Return the lines of a log; none if it cannot be read."""
        try:
            return self.log_path(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            return []
