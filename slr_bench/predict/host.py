"""A step on the CPU: from traced tensors to what the kernel will say the process took. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slr_bench.predict.device import CPU, Estimate
from slr_bench.units import MIB

_BASE_BYTES: Final = 70 * MIB
"""Code and buffers that a first step brings in: oneDNN's compiled kernels, threads' stacks, Python objects."""
_LEAST_SPREAD_BYTES: Final = 100 * MIB


@dataclass(frozen=True)
class HostPrediction:
    """What a setting's step needs on the CPU."""

    foreseen: Mapping[str, Any]
    rss_over_start: Estimate
    """High-water mark of the process over what it had before the workload was built."""
    fits: bool | None
    capacity_bytes: int | None

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
    """The high-water mark: traced tensors, the clips that the loader holds, oneDNN's copies, and a base.

    oneDNN lays tensors out anew for its convolutions, and the C library keeps pages that it gave out once.
    """
    value = _BASE_BYTES + foreseen["loader_bytes"] + foreseen["peak_with_workspaces_bytes"]
    spread = max(value // 10, _LEAST_SPREAD_BYTES)
    estimate = Estimate(value, max(foreseen["peak_tensor_bytes"], value - spread), value + spread)
    fits = None
    if capacity_bytes is not None:
        fits = True if estimate.high <= capacity_bytes else False if value > capacity_bytes else None
    return HostPrediction(foreseen, estimate, fits, capacity_bytes)
