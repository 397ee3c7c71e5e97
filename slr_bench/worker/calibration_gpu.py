"""The GPU as calibration sees it: what the driver books, what the allocator counts, an operator, a history.

``Gpu`` is the seam: ``TorchGpu`` is the card, tests have one made by hand. Imports torch: used in the child only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import torch

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes import nvml
from slr_bench.probes.nvml import GpuReading
from slr_bench.probes.visible import open_device
from slr_bench.worker.environment import collect_environment
from slr_bench.worker.operator_cases import OperatorCase, made_bytes, prepared

HISTORY_ENTRIES: Final = 10_000_000
KINDS: Final = ("requested", "allocated", "reserved")


class Counters(NamedTuple):
    """Of torch's caching allocator: now, and the most since the start or the last reset."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int


class Call(Protocol):
    """An operator with its inputs in place."""

    def run(self) -> int:
        """Call it and wait; bytes of what it made, which stays until ``drop``."""

    def drop(self) -> None:
        """Let go of what it made."""


class Gpu(Protocol):
    """One card, and this process on it."""

    def facts(self) -> dict[str, Any]:
        """``gpu``, ``capacity_bytes``, versions, allocator settings."""

    def reading(self) -> GpuReading:
        """What the driver says now; None where it does not, and ``why`` has the reason."""

    def why(self) -> str:
        """Why the driver did not say."""

    def others(self) -> tuple[int, ...] | None:
        """Other processes on it; None where that is not told."""

    def begin(self) -> None:
        """The first CUDA call of this process."""

    def counters(self) -> Counters:
        """The allocator's."""

    def reset_peaks(self) -> None:
        """Peaks begin anew from what there is now."""

    def call(self, case: OperatorCase) -> Call:
        """An operator, its inputs made."""

    def record_history(self) -> None:
        """From here on the allocator keeps every event."""

    def snapshot(self) -> Mapping[str, Any]:
        """As ``torch.cuda.memory._snapshot``."""


class TorchGpu:
    """``cuda:0`` of this process. Made before the first CUDA call, so that the device is still idle."""

    def __init__(self) -> None:
        self._device = torch.device("cuda", 0)
        self._why = ""
        self._nvml: nvml.Nvml | None = None
        try:
            self._nvml = open_device(nvml.load_library())
        except ProbeUnavailableError as error:
            self._why = str(error)

    def facts(self) -> dict[str, Any]:
        """As the environment of a record, and the capability."""
        found: dict[str, Any] = collect_environment("cuda", "fork")
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
        """Of NVML."""
        return GpuReading(None, None, None) if self._nvml is None else self._nvml.read()

    def why(self) -> str:
        """NVML's own words."""
        return self._why if self._nvml is None else self._nvml.why("process_bytes")

    def others(self) -> tuple[int, ...] | None:
        """By NVML."""
        return None if self._nvml is None else self._nvml.other_pids()

    def begin(self) -> None:
        """Make the context, and a tensor in it."""
        torch.zeros(1, device=self._device)
        torch.cuda.synchronize(self._device)

    def counters(self) -> Counters:
        """Of ``torch.cuda.memory_stats``."""
        stats = torch.cuda.memory_stats(self._device)
        return Counters(*(int(stats[f"{kind}_bytes.all.{when}"]) for when in ("current", "peak") for kind in KINDS))

    def reset_peaks(self) -> None:
        """Of ``torch.cuda``."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def call(self, case: OperatorCase) -> Call:
        """Inputs on the card."""
        return _TorchCall(case, self._device)

    def record_history(self) -> None:
        """Without stacks: what is kept of it are sizes and addresses."""
        torch.cuda.init()  # type: ignore[no-untyped-call]  # an allocator that does not exist yet keeps no history
        torch.cuda.memory._record_memory_history(context=None, stacks="python", max_entries=HISTORY_ENTRIES)

    def snapshot(self) -> Mapping[str, Any]:
        """And the history ends."""
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


def plain_history(snapshot: Mapping[str, Any], device: int = 0) -> dict[str, Any]:
    """Of a snapshot what a replay needs, as JSON values in the same places: one device, no stacks."""
    trace: Iterable[Mapping[str, Any]] = snapshot["device_traces"][device]
    keep = ("action", "addr", "size", "stream")
    return {
        "segments": [
            {"device": 0, "total_size": one["total_size"], "allocated_size": one["allocated_size"]}
            for one in snapshot["segments"]
            if one["device"] == device
        ],
        "device_traces": [[{name: entry[name] for name in keep if name in entry} for entry in trace]],
        "allocator_settings": dict(snapshot.get("allocator_settings", {})),
    }
