"""Opens a workload with its context: its device, its phases, and where its modules are placed.

`collect_environment` describes what a figure depends on besides the setting, without user, host name or path.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, JsonValue
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, Work
from slr_bench.grid.workload import WorkloadSpec, find_workload
from slr_bench.live_bytes import storages_alive
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, cuda_routes
from slr_bench.trace.fake.tensors import CpuFakeMode, swap_for_fake


class Context:
    """The context of a workload: its device, its phases, and the real or fake placement of its modules."""

    def __init__(self, device: torch.device, fake_mode: FakeTensorMode | None) -> None:
        def synchronize() -> None:
            if device.type == "cuda" and fake_mode is None:
                torch.cuda.synchronize(device)

        self.device = device
        self.fake_mode = fake_mode
        self.synchronize = synchronize
        self.phase = PhaseClock(synchronize)
        self.others = storages_alive(self.is_fake)
        """Storages that existed before the workload was built and are no part of its memory."""

    @property
    def is_fake(self) -> bool:
        """True if tensors have shapes but no contents."""
        return self.fake_mode is not None

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, or replace its tensors by fake ones."""
        return swap_for_fake(module, self.fake_mode) if self.fake_mode else module.to(self.device)

    @property
    def cuda_rules(self) -> CudaFakeMode | None:
        """The mode in which fake tensors represent those of a GPU; None in any other mode."""
        return self.fake_mode if isinstance(self.fake_mode, CudaFakeMode) else None

    @property
    def source(self) -> str:
        """The kind of trace: figures of different sources are never compared."""
        if self.cuda_rules is not None:
            return "cuda-rules"
        return f"{self.device.type}-{'fake' if self.is_fake else 'real'}"

    @contextlib.contextmanager
    def tensors(self) -> Iterator[None]:
        """Enter the mode in which steps run."""
        with cuda_routes() if self.cuda_rules else contextlib.nullcontext(), self.fake_mode or contextlib.nullcontext():
            yield


class OpenWork(NamedTuple):
    """A workload, its settings and its context; nothing is built yet."""

    spec: WorkloadSpec
    settings: BaseModel
    context: Context


def open_work(work: Work, device_name: str) -> OpenWork:
    """Find a workload and make its context.

    Raises:
        UnsupportedSettingError: The device is CUDA and torch sees none.
    """
    device = torch.device("cpu" if work.fake else resolve_device(device_name))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedSettingError(NO_CUDA)
    torch.manual_seed(0)
    spec = find_workload(work.workload)
    for name in spec.preload:  # a fork has imported them already; their constants are not the workload's memory
        with contextlib.suppress(ImportError):  # building the workload reports it
            importlib.import_module(name)
    fake_mode = (CudaFakeMode() if work.cuda_rules else CpuFakeMode()) if work.fake else None
    return OpenWork(spec, spec.settings.model_validate(work.setting), Context(device, fake_mode))


TRACE_RULES = 3
"""Version of the rules by which bytes are traced.

1 - storages at the dispatcher. 2 - corrected fake kernels (``trace.fake.tensors``): norm statistics, the gradient of
group norm, the workspace of LSTM. A constant lifted under fake tensors counts once. What the last step left and the
random states that recomputation keeps count too. 3 - the operators that run untraced (``slr_bench.untraced``): autograd
writes into its own tensors. A reduced loss has the storage of an unreduced one, as on real tensors."""

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "MALLOC_ARENA_MAX")


def resolve_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` if torch sees a CUDA device, else ``cpu``; any other name as it is."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def collect_environment(device: str, isolation: str) -> dict[str, JsonValue]:
    """Return the versions, processor, GPU and thread settings of this process."""
    environment: dict[str, JsonValue] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of its own, which not every serializer takes
        **_torchvision(),
        "trace_rules": TRACE_RULES,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "isolation": isolation,
        "device": device,
    }
    environment |= {name: os.environ[name] for name in _ALLOCATOR_VARIABLES if name in os.environ}
    if device == "cuda" and torch.cuda.is_available():  # without one, the parent reports it
        properties = torch.cuda.get_device_properties(0)
        environment |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver_version(),
        }
    return environment


def _torchvision() -> dict[str, JsonValue]:
    """Return the version of torchvision; empty if it is not installed: only workloads with images need it."""
    try:
        return {"torchvision": version("torchvision")}
    except PackageNotFoundError:
        return {}


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    try:
        words = proc.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)


class Span(NamedTuple):
    """One interval in a phase, in seconds since the clock was created."""

    name: str
    start_s: float
    end_s: float


class PhaseClock:
    """Record a span for each ``with clock("forward"): ...``, and pass its name on to a listener (the tracer).

    On a GPU the end of a phase means little unless ``synchronize`` waits for the device. The clock is therefore off
    while steps are timed, and on in a separate step.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize or (lambda: None)
        self._start_s = time.perf_counter()
        self.enabled = True
        self.listener: Callable[[str], AbstractContextManager[None]] | None = None
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with self.listener(name) if self.listener else nullcontext():
            if not self.enabled:
                yield
                return
            self._synchronize()
            start_s = self.now_s()
            try:
                yield
            finally:
                self._synchronize()
                self.spans.append(Span(name, start_s, self.now_s()))

    @contextmanager
    def listening(self, listener: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
        """Pass every phase to ``listener`` while open, instead of to the previous one."""
        before, self.listener = self.listener, listener
        try:
            yield
        finally:
            self.listener = before

    def now_s(self) -> float:
        """Return the seconds since the clock was created."""
        return time.perf_counter() - self._start_s

    def total_s(self, name: str) -> float:
        """Return the total time in a phase."""
        return sum(span.end_s - span.start_s for span in self.spans if span.name == name)
