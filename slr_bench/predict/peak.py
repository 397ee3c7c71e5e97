"""From a traced step to what a device will hold: requested, allocated, reserved, and what NVML shows. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from slr_bench.predict.allocator import Block, CachingAllocator, OutOfDeviceMemoryError
from slr_bench.predict.allocator_rules import AllocatorRules, AllocatorSettings
from slr_bench.predict.device import Device, Estimate
from slr_bench.predict.expandable import make_allocator

ALLOCATE, FREE, TRANSIENT, LIBRARY, STEADY = range(5)
"""As ``trace.requests`` writes them."""

Requests = Sequence[Sequence[int]]
_LOW, _EXPECTED, _HIGH = range(3)


class Peaks(NamedTuple):
    """Of one replay, bytes: of the steady step; ``reserved_bytes`` of both, since it never falls by itself."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    failure: str | None
    """Why it did not fit."""


@dataclass(frozen=True)
class Prediction:
    """What a setting's step needs on a device."""

    device: Device
    requested: Estimate
    allocated: Estimate
    reserved: Estimate
    foreseen: Mapping[str, Any]
    """The traced step (``run.foreseen_cell``)."""
    fits: bool | None
    """True if the upper end does, False if the likely value does not; None in between, or where no card is meant."""

    @property
    def nvml(self) -> Estimate:
        """The process as NVML sees it: context and reserved."""
        return self.reserved + self.device.context

    @property
    def spare_bytes(self) -> int | None:
        """Capacity less what NVML will show; negative: missing. None where no card is meant."""
        capacity = self.device.capacity_bytes
        return None if capacity is None else capacity - self.nvml.value

    def as_json(self) -> dict[str, Any]:
        """DESIGN's object of ``predict``, without the setting."""
        traced = self.foreseen
        return {
            "device": self.device.name,
            "device_title": self.device.title,
            "calibrated": self.device.is_calibrated,
            "calibration": self.device.calibration,
            "source": traced["source"],
            "cuda_rules": traced["cuda_rules"],
            "told_from_micro_batches": traced.get("told_from_samples"),
            "peak_tensor_bytes": traced["peak_tensor_bytes"],
            "floor_bytes": traced["floor_bytes"],
            "requested_bytes": self.requested.as_json(),
            "allocated_bytes": self.allocated.as_json(),
            "reserved_bytes": self.reserved.as_json(),
            "nvml_bytes": self.nvml.as_json(),
            "by_category": traced["by_category"],
            "by_module": traced["by_module"],
            "unmodelled": traced["unmodelled"],
            "capacity_bytes": self.device.capacity_bytes,
            "spare_bytes": self.spare_bytes,
            "fits": self.fits,
        }


def predicted(
    foreseen: Mapping[str, Any],
    device: Device,
    rules: AllocatorRules | None = None,
    settings: AllocatorSettings | None = None,
) -> Prediction:
    """Peaks of a traced step on ``device``, and whether it fits.

    The interval runs from no memory for operators whose need is a library's choice to the most they may want.
    """
    requests = foreseen["requests"]
    settings = settings or AllocatorSettings()
    device = _as_measured_for(foreseen, device)
    low, value, high = (replayed(requests, device, which, rules, settings) for which in (_LOW, _EXPECTED, _HIGH))

    def estimate(name: str) -> Estimate:
        ends = [getattr(peaks, name) for peaks in (low, value, high)]
        return Estimate(ends[1], min(ends), max(ends))

    return Prediction(
        device,
        estimate("requested_bytes"),
        estimate("allocated_bytes"),
        estimate("reserved_bytes"),
        foreseen,
        None if device.capacity_bytes is None else fits_in(foreseen, device, device.capacity_bytes, rules, settings),
    )


def fits_in(
    foreseen: Mapping[str, Any],
    device: Device,
    capacity_bytes: int,
    rules: AllocatorRules | None = None,
    settings: AllocatorSettings | None = None,
) -> bool | None:
    """Whether the step runs in ``capacity_bytes``, context included; None where it depends on what is not known.

    A step that reserved more before may still fit: under pressure the allocator gives back what it caches.
    """
    settings = settings or AllocatorSettings()
    device = _as_measured_for(foreseen, device)
    for which, room, verdict in (
        (_HIGH, capacity_bytes - device.context.high, True),
        (_EXPECTED, capacity_bytes - device.context.value, None),
    ):
        limited = replace(settings, capacity_bytes=max(0, room))
        if replayed(foreseen["requests"], device, which, rules, limited).failure is None:
            return verdict
    return False


def _as_measured_for(foreseen: Mapping[str, Any], device: Device) -> Device:
    """Shares that were measured say nothing of operators that no rule knows: with such, bounds are the rules'."""
    return replace(device, shares=None) if device.shares and foreseen["unmodelled"] else device


def replayed(
    requests: Requests,
    device: Device,
    which: int,
    rules: AllocatorRules | None = None,
    settings: AllocatorSettings | None = None,
) -> Peaks:
    """One replay through the simulated allocator. ``which``: 0 the least, 1 the expected, 2 the most workspace."""
    allocator = make_allocator(rules, settings)
    held: dict[int, Block] = {}
    threads: set[int] = set()
    shares = device.shares
    library = (device.cublas.low, device.cublas.value, device.cublas.high)[which]
    try:
        for kind, first, second in requests:
            if kind == ALLOCATE:
                held[first] = allocator.allocate(second)
            elif kind == FREE:
                allocator.free(held.pop(first))
            elif kind == TRANSIENT:
                size = (0, first, second)[which] if shares is None else shares.bytes_of(first, second, which)
                if size:
                    allocator.free(allocator.allocate(size))
            elif kind == STEADY:
                allocator.reset_peaks()
            elif first not in threads:
                threads.add(first)
                allocator.allocate(library)
    except OutOfDeviceMemoryError as error:
        return _peaks(allocator, str(error))
    return _peaks(allocator, None)


def _peaks(allocator: CachingAllocator, failure: str | None) -> Peaks:
    return Peaks(allocator.peak_requested_bytes, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes, failure)
