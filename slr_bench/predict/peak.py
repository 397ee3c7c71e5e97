"""From a traced step to what a device will hold: requested, allocated, reserved, and what NVML shows. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from slr_bench.predict.allocator.caching import Block, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import make_allocator
from slr_bench.predict.allocator.rules import AllocatorRules, AllocatorSettings
from slr_bench.predict.device import Device, Estimate, known_devices
from slr_bench.trace.request_kinds import ALLOCATE, FREE, STEADY, TRANSIENT, UNMODELLED, Requests

_LOW, _EXPECTED, _HIGH = range(3)


class Peaks(NamedTuple):
    """Of one replay, bytes: of the steady step; ``reserved_bytes`` of both, since it never falls by itself."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    retries: int
    """Times in the steady step that cached memory had to be given back to make room."""
    failure: str | None
    """Why it did not fit."""


@dataclass(frozen=True)
class Prediction:
    """What a setting's step needs on a device; within the device's memory where it runs there."""

    device: Device
    requested: Estimate
    allocated: Estimate
    reserved: Estimate
    nvml: Estimate
    """The process as NVML sees it: context and reserved."""
    foreseen: Mapping[str, Any]
    """The traced step (``run.foreseen_cell``)."""
    fits: bool | None
    """True if the upper end does, False if the likely value does not, or the card cannot compute the step at all; None
    in between, or where no card is meant."""
    is_tight: bool
    """At the upper end it fits only where the allocator gives cached memory back, which waits for the GPU."""
    retries: int | None
    """Times a steady step has to, at the upper end; None where that does not fit."""

    @property
    def lacks(self) -> str | None:
        """Why the card cannot compute the step as its setting says."""
        return self.device.lacks(self.foreseen)

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
            "lacks": self.lacks,
            "capacity_bytes": self.device.capacity_bytes,
            "spare_bytes": self.spare_bytes,
            "fits": self.fits,
            "tight": self.is_tight,
            "retries_per_step": self.retries,
        }


def predicted(
    foreseen: Mapping[str, Any],
    device: Device,
    rules: AllocatorRules | None = None,
    settings: AllocatorSettings | None = None,
) -> Prediction:
    """Peaks of a traced step on ``device``, and whether it fits.

    The interval runs from no memory for operators whose need is a library's choice to the most they may want. A step
    that would reserve more than the device has may still run: under pressure the allocator gives back what it caches.
    Then the figures are those of that run; where it fails all the same, those of a device without limit.
    """
    requests = foreseen["requests"]
    ends = [_at_an_end(requests, device, which, rules, settings) for which in (_LOW, _EXPECTED, _HIGH)]

    def estimate(name: str) -> Estimate:
        return _between([getattr(end.peaks, name) for end in ends])

    return Prediction(
        device,
        estimate("requested_bytes"),
        estimate("allocated_bytes"),
        estimate("reserved_bytes"),
        _between([end.peaks.reserved_bytes + end.context_bytes for end in ends]),
        foreseen,
        _verdict(ends[_HIGH].fits, lambda: ends[_EXPECTED].fits) if device.lacks(foreseen) is None else False,
        bool(ends[_HIGH].fits and ends[_HIGH].is_limited),
        ends[_HIGH].peaks.retries if ends[_HIGH].fits else None,
    )


def fits_in(
    foreseen: Mapping[str, Any],
    device: Device,
    rules: AllocatorRules | None = None,
    settings: AllocatorSettings | None = None,
) -> bool | None:
    """As ``predicted(...).fits``, in fewer replays."""
    if device.capacity_bytes is None:
        return None
    if device.lacks(foreseen) is not None:
        return False

    def fits(which: int) -> bool:
        return _limited(foreseen["requests"], device, which, rules, settings).failure is None

    return _verdict(fits(_HIGH), lambda: fits(_EXPECTED))


class Verdict(NamedTuple):
    """Of a card on a traced step."""

    device: Device
    fits: bool | None
    lacks: str | None
    """Why the card cannot compute it at all."""

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {"capacity_bytes": self.device.capacity_bytes, "fits": self.fits, "lacks": self.lacks}


def verdicts(foreseen: Mapping[str, Any], settings: AllocatorSettings | None = None) -> dict[str, Verdict]:
    """By name, of every card that is known, the smallest first."""
    cards = sorted(known_devices().values(), key=lambda card: (card.capacity_bytes or 0, card.name))
    return {
        card.name: Verdict(card, fits_in(foreseen, card, settings=settings), card.lacks(foreseen)) for card in cards
    }


class _End(NamedTuple):
    """Of an interval."""

    peaks: Peaks
    context_bytes: int
    fits: bool | None
    is_limited: bool = False
    """More would have been reserved if there were more."""


def _at_an_end(
    requests: Requests,
    device: Device,
    which: int,
    rules: AllocatorRules | None,
    settings: AllocatorSettings | None,
) -> _End:
    context = _of(device.context, which)
    free = replayed(requests, device, which, rules, settings)
    if device.capacity_bytes is None:
        return _End(free, context, None)
    if free.reserved_bytes + context <= device.capacity_bytes:
        return _End(free, context, True)
    limited = _limited(requests, device, which, rules, settings)
    return _End(free, context, False) if limited.failure else _End(limited, context, True, True)


def _limited(
    requests: Requests,
    device: Device,
    which: int,
    rules: AllocatorRules | None,
    settings: AllocatorSettings | None,
) -> Peaks:
    """A replay in what the device's context leaves."""
    assert device.capacity_bytes is not None
    room = max(0, device.capacity_bytes - _of(device.context, which))
    limits = replace(settings or AllocatorSettings(), capacity_bytes=room)
    return replayed(requests, device, which, rules, limits)


def _verdict(most_fits: bool | None, likely_fits: Callable[[], bool | None]) -> bool | None:
    if most_fits is not False:
        return most_fits
    return None if likely_fits() else False


def _between(ends: Sequence[int]) -> Estimate:
    return Estimate(ends[_EXPECTED], min(ends), max(ends))


def _of(estimate: Estimate, which: int) -> int:
    return (estimate.low, estimate.value, estimate.high)[which]


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
    retries = 0
    failure = None
    try:
        for kind, first, second in requests:
            if kind == ALLOCATE:
                held[first] = allocator.allocate(second)
            elif kind == FREE:
                allocator.free(held.pop(first))
            elif kind in (TRANSIENT, UNMODELLED):
                if shares is not None and kind == TRANSIENT:  # what was measured tells nothing of other operators
                    size = shares.bytes_of(first, second, which)
                else:
                    size = (0, first, second)[which]
                if size:
                    allocator.free(allocator.allocate(size))
            elif kind == STEADY:
                allocator.reset_peaks()
                retries = allocator.retries
            elif first not in threads:
                threads.add(first)
                allocator.allocate(_of(device.cublas, which))
    except OutOfDeviceMemoryError as error:
        failure = str(error)
    peaks = allocator.peak_requested_bytes, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes
    return Peaks(*peaks, allocator.retries - retries, failure)
