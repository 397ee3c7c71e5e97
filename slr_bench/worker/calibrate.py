"""Calibrates a GPU: measures operators one by one, and records the allocator's history over steps.

``Gpu`` is the seam: ``TorchGpu`` is the real GPU, and tests have one made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import torch

from slr_bench.errors import ProbeUnavailableError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, CalibrateOperators, CalibrateSteps, Job, JsonObject, PhaseEntered, Send
from slr_bench.grid.workload import StepWork
from slr_bench.probes import nvml
from slr_bench.probes.nvml import GpuReading
from slr_bench.probes.visible import open_device
from slr_bench.worker.context import collect_environment, open_work
from slr_bench.worker.operator_cases import CASES, OperatorCase, made_bytes, prepared, rule_of
from slr_bench.worker.traced_step import no_collection

HISTORY_ENTRIES: Final = 10_000_000
KINDS: Final = ("requested", "allocated", "reserved")


class Counters(NamedTuple):
    """Counters of torch's caching allocator: now, and the peaks since the start or the last reset."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int


class Call(Protocol):
    """An operator with its inputs in place."""

    def run(self) -> int:
        """Call the operator and wait; return the bytes of its results, which stay until ``drop``."""

    def drop(self) -> None:
        """Release the results."""


class Gpu(Protocol):
    """One GPU, and this process on it."""

    def facts(self) -> JsonObject:
        """Return ``gpu``, ``capacity_bytes``, versions and allocator settings."""

    def reading(self) -> GpuReading:
        """Return what the driver reports now; a value is None if ``reason`` says why."""

    def reason(self) -> str:
        """Return why the driver did not report a value."""

    def others(self) -> tuple[int, ...] | None:
        """Return other processes on the GPU, or None if the driver does not report them."""

    def begin(self) -> None:
        """Make the first CUDA call of this process."""

    def counters(self) -> Counters:
        """Return the allocator's counters."""

    def reset_peaks(self) -> None:
        """Set the peaks to what is allocated now."""

    def call(self, case: OperatorCase) -> Call:
        """Return an operator with its inputs in place."""

    def record_history(self) -> None:
        """Let the allocator keep every event from now on."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return the snapshot of ``torch.cuda.memory._snapshot``."""


class TorchGpu:
    """``cuda:0`` of this process. Create it before the first CUDA call, while the device is still idle."""

    def __init__(self) -> None:
        self._device = torch.device("cuda", 0)
        self._reason = ""
        self._nvml: nvml.Nvml | None = None
        try:
            self._nvml = open_device(nvml.load_library())
        except ProbeUnavailableError as error:
            self._reason = str(error)

    def facts(self) -> JsonObject:
        """Return the environment as a record has it, and the compute capability."""
        found: JsonObject = collect_environment("cuda", "fork")
        major, minor = torch.cuda.get_device_capability(self._device)
        names = ("gpu", "torch", "cuda", "cudnn", "driver", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
        return {
            **{name: found[name] for name in names if name in found},
            "capacity_bytes": found["gpu_memory_bytes"],
            "compute_capability": f"{major}.{minor}",
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }

    def reading(self) -> GpuReading:
        """Return NVML's readings."""
        return GpuReading(None, None, None) if self._nvml is None else self._nvml.read()

    def reason(self) -> str:
        """Return NVML's reason."""
        return self._reason if self._nvml is None else self._nvml.why("process_bytes")

    def others(self) -> tuple[int, ...] | None:
        """Return the processes that NVML lists."""
        return None if self._nvml is None else self._nvml.other_pids()

    def begin(self) -> None:
        """Create the CUDA context, and a tensor in it."""
        torch.zeros(1, device=self._device)
        torch.cuda.synchronize(self._device)

    def counters(self) -> Counters:
        """Return the counters of ``torch.cuda.memory_stats``."""
        stats = torch.cuda.memory_stats(self._device)
        return Counters(*(int(stats[f"{kind}_bytes.all.{when}"]) for when in ("current", "peak") for kind in KINDS))

    def reset_peaks(self) -> None:
        """Reset the peaks of ``torch.cuda``."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def call(self, case: OperatorCase) -> Call:
        """Return the operator with its inputs on the GPU."""
        return _TorchCall(case, self._device)

    def record_history(self) -> None:
        """Record events without stacks, because only sizes and addresses are kept."""
        torch.cuda.init()  # type: ignore[no-untyped-call]  # an allocator that does not exist yet keeps no history
        torch.cuda.memory._record_memory_history(context=None, stacks="python", max_entries=HISTORY_ENTRIES)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the snapshot and end the history."""
        torch.cuda.synchronize(self._device)
        found: Mapping[str, Any] = torch.cuda.memory._snapshot(self._device)
        torch.cuda.memory._record_memory_history(enabled=None)
        return found


class _TorchCall:
    def __init__(self, case: OperatorCase, device: torch.device) -> None:
        self._operator, self._arguments = prepared(case, device)
        self._made: Any = None
        torch.cuda.synchronize(device)

    def run(self) -> int:
        self._made = self._operator(**self._arguments)
        torch.cuda.synchronize()
        return made_bytes(self._made)

    def drop(self) -> None:
        self._made = None


def plain_history(snapshot: Mapping[str, Any], device: int = 0) -> JsonObject:
    """Return the part of a snapshot that a replay needs, under the same keys: one device, no stacks."""
    trace: Iterable[Mapping[str, Any]] = snapshot["device_traces"][device]
    of_entry = ("action", "addr", "size", "stream", "device_free", "pool_id")
    of_segment = ("address", "total_size", "stream", "segment_type", "segment_pool_id", "is_expandable")
    of_block = ("size", "requested_size", "state")

    def part(whole: Mapping[str, Any], names: Iterable[str]) -> JsonObject:
        return {name: whole[name] for name in names if name in whole}

    segments = [
        {**part(one, of_segment), "device": 0, "blocks": [part(block, of_block) for block in one["blocks"]]}
        for one in snapshot["segments"]
        if one["device"] == device
    ]
    return {
        "segments": segments,
        "device_traces": [[part(entry, of_entry) for entry in trace]],
        "allocator_settings": dict(snapshot.get("allocator_settings", {})),
    }


def calibrate_operators(job: Job[CalibrateOperators], send: Send) -> JsonObject:
    """Measure every operator case on this machine's GPU.

    Raises:
        UnsupportedSettingError: There is no GPU.
    """
    return measured_operators(_open_gpu(), CASES, lambda title: send(PhaseEntered(title)))


def calibrate_steps(job: Job[CalibrateSteps], send: Send) -> JsonObject:
    """Record the steps of one setting on this machine's GPU.

    Raises:
        UnsupportedSettingError: There is no GPU.
    """
    gpu = _open_gpu()
    spec, settings, context = open_work(job.task.work, job.device)
    return recorded_steps(gpu, lambda: spec.build(settings, context), job.task.warmup_steps)


def _open_gpu() -> TorchGpu:
    if not torch.cuda.is_available():
        raise UnsupportedSettingError(NO_CUDA)
    return TorchGpu()


def measured_operators(
    gpu: Gpu, cases: Sequence[OperatorCase], on_progress: Callable[[str], None] = lambda title: None
) -> JsonObject:
    """Measure what the first CUDA call takes, and each operator's memory beside its inputs and results."""
    idle = gpu.reading()
    gpu.begin()
    first = beside_the_allocator(gpu, idle)
    rows = []
    for case in cases:
        on_progress(case.title)
        rows.append(_measured(gpu, case))
    return {"facts": gpu.facts(), "first_call": first, "operators": rows}


def recorded_steps(gpu: Gpu, build: Callable[[], StepWork], warmup_steps: int) -> JsonObject:
    """Record the allocator's history from the first byte on, over the warm-up and one steady step, and the peaks."""
    idle = gpu.reading()
    gpu.record_history()
    work = build()
    work.load()
    with no_collection():
        for _ in range(warmup_steps):
            work.step()
    before = gpu.counters()
    gpu.reset_peaks()
    with no_collection():
        work.step()
    steady = gpu.counters()
    history = plain_history(gpu.snapshot())
    return {
        "facts": gpu.facts(),
        "history": history,
        "peaks": {name: max(before[place], steady[place]) for place, name in _PEAKS},
        "steady_peaks": {name: steady[place] for place, name in _PEAKS},
        "nvml_process_bytes": gpu.reading().process_bytes,
        "context": beside_the_allocator(gpu, idle),
    }


_PEAKS = [(Counters._fields.index(f"peak_{kind}_bytes"), f"peak_{kind}_bytes") for kind in KINDS]


def beside_the_allocator(gpu: Gpu, idle: GpuReading) -> JsonObject:
    """Return the bytes of the process beside what torch's allocator reserved: context, kernels and libraries.

    The result is ``{bytes, source, reason}``. It comes from the memory of the process if the driver reports that, and
    otherwise from the memory of the device minus that in the ``idle`` reading.
    """
    now, reserved = gpu.reading(), gpu.counters().reserved_bytes
    if now.process_bytes is not None and now.process_bytes >= reserved:
        return {"bytes": now.process_bytes - reserved, "source": "NVML process", "reason": None}
    others = gpu.others()
    if others:
        reason = f"the driver does not report this process's memory, and {len(others)} other processes are on the GPU"
    elif now.device_bytes is None or idle.device_bytes is None:
        reason = gpu.reason()
    elif now.device_bytes - idle.device_bytes < reserved:
        reason = "the device was not idle before: it holds less over that than torch's allocator"
    else:
        alone = "GPU exclusive" if others is not None else "GPU taken as exclusive: its other processes are unknown"
        size = now.device_bytes - idle.device_bytes - reserved
        return {"bytes": size, "source": f"NVML device over idle ({alone})", "reason": None}
    return {"bytes": None, "source": "NVML", "reason": reason}


def _measured(gpu: Gpu, case: OperatorCase) -> JsonObject:
    """Call an operator twice: what the first call leaves is kept, what the second needs on top is workspace."""
    rule = rule_of(case)
    row = {
        "operator": case.name,
        "precision": case.precision,
        "layout": case.layout,
        "is_product": case.is_product,
        "expected_bytes": rule.expected_bytes,
        "most_bytes": rule.most_bytes,
    }
    try:
        call = gpu.call(case)
        before = gpu.counters().requested_bytes
        made = call.run()
        kept = gpu.counters().requested_bytes - before - made
        call.drop()
        gpu.reset_peaks()
        before = gpu.counters().requested_bytes
        made = call.run()
        workspace = gpu.counters().peak_requested_bytes - before - made
    except (RuntimeError, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        return {**row, "kept_bytes": None, "workspace_bytes": None, "reason": reason}
    return {**row, "kept_bytes": kept, "workspace_bytes": workspace, "reason": None}
