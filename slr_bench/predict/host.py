"""A step on the CPU: from traced tensors to what the kernel will say the process took. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slr_bench.predict.device import CPU, Estimate
from slr_bench.predict.glibc_heap import high_water_bytes
from slr_bench.trace.request_kinds import ALLOCATE
from slr_bench.units import MIB

_BASE_BYTES: Final = 100 * MIB
"""What a first step brings in beside tensors: oneDNN's compiled kernels, code pages, Python objects."""
_TIMES_THE_LARGEST: Final = 2
"""Tensors of the largest one's size that libraries and holes in the heap take besides."""
START_BYTES: Final = 700 * MIB
"""A process that has imported torch, torchvision and PyAV and done nothing: 620 to 910 MiB."""
_LEAST_SPREAD_BYTES: Final = 100 * MIB


@dataclass(frozen=True)
class HostPrediction:
    """What a setting's step needs on the CPU."""

    foreseen: Mapping[str, Any]
    rss_over_start: Estimate
    """High-water mark of the process over what it had before the workload was built."""
    fits: bool | None
    capacity_bytes: int | None
    """Of the whole process."""

    def as_json(self) -> dict[str, Any]:
        """As ``predict``'s object; what only a GPU has is null."""
        traced = self.foreseen
        exact = traced["peak_tensor_bytes"]
        return {
            "device": CPU,
            "source": traced["source"],
            "told_from_micro_batches": traced.get("told_from_samples"),
            "peak_tensor_bytes": exact,
            "floor_bytes": traced["floor_bytes"],
            "requested_bytes": Estimate(exact, exact, exact).as_json(),
            "allocated_bytes": None,
            "reserved_bytes": None,
            "nvml_bytes": None,
            "rss_over_start_bytes": self.rss_over_start.as_json(),
            "by_category": traced["by_category"],
            "by_module": traced["by_module"],
            "unmodelled": [],
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
        }


def predicted_host(foreseen: Mapping[str, Any], capacity_bytes: int | None = None) -> HostPrediction:
    """The high-water mark: the heap under the step's tensors and oneDNN's copies, twice the largest tensor, a base.

    The constants were fitted to six settings; ``python -m benchmarks.proofs.predict_proof --part host`` holds them
    against others. ``capacity_bytes`` is the whole process's, imports included.
    """
    requests = foreseen["requests"]
    largest = max((size for kind, _, size in requests if kind == ALLOCATE), default=0)
    value = _BASE_BYTES + _TIMES_THE_LARGEST * largest + high_water_bytes(requests)
    spread = max(value // 10, _LEAST_SPREAD_BYTES)
    estimate = Estimate(value, max(foreseen["peak_tensor_bytes"], value - spread), value + spread)
    fits = None
    if capacity_bytes is not None:
        room = capacity_bytes - START_BYTES
        fits = True if estimate.high <= room else False if value > room else None
    return HostPrediction(foreseen, estimate, fits, capacity_bytes)
