"""Predictions of memory: what a traced step takes on a GPU. Imports no torch.

The figures of a step are requested, allocated and reserved bytes, and what NVML shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from slr_bench.execute.job import JsonObject
from slr_bench.predict.allocator.caching import Block, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings
from slr_bench.predict.device import Bound, Device, Estimate, Fit, known_devices
from slr_bench.predict.trace_pool import StepProfile
from slr_bench.trace.requests import ALLOCATE, FREE, STEADY, TRANSIENT, UNMODELLED, Requests


class Peaks(NamedTuple):
    """Peaks of one replay, in bytes, over the steady step. ``reserved_bytes`` never falls by itself between steps."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    retries: int
    """Number of times that the steady step had to give cached memory back to make room."""
    failure: str | None
    """The out-of-memory message; None if the step ran through."""


@dataclass(frozen=True)
class Prediction:
    """The memory that a setting's step needs on a device. If the step fits, the figures respect its capacity."""

    device: Device
    requested: Estimate
    allocated: Estimate
    reserved: Estimate
    nvml: Estimate
    """The process as NVML reports it: context and reserved memory."""
    step: StepProfile
    fit: Fit
    is_tight: bool
    """The high end fits only because the allocator gives cached memory back, which waits for the GPU."""
    retries: int | None
    """Number of times that a steady step gives cached memory back at the high end; None if that does not fit."""

    @property
    def incompatibility(self) -> str | None:
        """Why the card cannot compute the step as its setting says."""
        return self.device.incompatibility(self.step)

    @property
    def context(self) -> Estimate:
        """Memory outside torch's allocator, which NVML counts too."""
        return self.device.context_of(self.step)

    @property
    def spare_bytes(self) -> int | None:
        """Capacity minus the likely NVML value, negative if memory is missing; None if no card is meant."""
        capacity = self.device.capacity_bytes
        return None if capacity is None else capacity - self.nvml.value

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict``, without the setting."""
        step = self.step
        return {
            "device": self.device.name,
            "device_title": self.device.title,
            "calibrated": self.device.is_calibrated,
            "calibration": self.device.calibration,
            "source": step.source,
            "cuda_rules": step.cuda_rules,
            "told_from_micro_batches": step.interpolated_from,
            "peak_tensor_bytes": step.peak_tensor_bytes,
            "floor_bytes": step.floor_bytes,
            "requested_bytes": self.requested.to_dict(),
            "allocated_bytes": self.allocated.to_dict(),
            "reserved_bytes": self.reserved.to_dict(),
            "nvml_bytes": self.nvml.to_dict(),
            "context_bytes": self.context.to_dict(),
            "libraries": list(step.libraries),
            "by_category": step.by_category,
            "by_module": [module._asdict() for module in step.by_module],
            "unmodelled": [operator._asdict() for operator in step.unmodelled],
            "lacks": self.incompatibility,
            "capacity_bytes": self.device.capacity_bytes,
            "spare_bytes": self.spare_bytes,
            "fits": self.fit.json_value,
            "tight": self.is_tight,
            "retries_per_step": self.retries,
        }


def predict_step(step: StepProfile, device: Device, settings: AllocatorSettings = DEFAULT_SETTINGS) -> Prediction:
    """Predict the peaks of a traced step on ``device``, and whether it fits.

    Some operators' inner memory is the choice of a library. The low end assumes that they take none, the high end that
    they take the most they may want.

    A step that would reserve more than the device has may still run, because the allocator gives back what it caches.
    The figures then describe that run. If it fails all the same, they describe a device without a limit.
    """
    outcomes = [_outcome(step, device, bound, settings) for bound in Bound]
    peaks = [outcome.peaks for outcome in outcomes]
    likely, high = outcomes[Bound.LIKELY], outcomes[Bound.HIGH]

    def interval(values: Sequence[int]) -> Estimate:
        return Estimate.around(values[Bound.LIKELY], values)

    return Prediction(
        device,
        interval([peak.requested_bytes for peak in peaks]),
        interval([peak.allocated_bytes for peak in peaks]),
        interval([peak.reserved_bytes for peak in peaks]),
        interval([outcome.peaks.reserved_bytes + outcome.context_bytes for outcome in outcomes]),
        step,
        _judge(step, device, lambda bound: (high if bound is Bound.HIGH else likely).fits),
        high.fits and high.is_limited,
        high.peaks.retries if high.fits else None,
    )


def predict_fit(step: StepProfile, device: Device, settings: AllocatorSettings = DEFAULT_SETTINGS) -> Fit:
    """Return ``predict_step(...).fit`` in fewer replays."""

    def fits(bound: Bound) -> bool:
        return _replay_within(step, device, bound, settings).failure is None

    return _judge(step, device, fits)


class CardFit(NamedTuple):
    """The fit of a traced step on one card."""

    device: Device
    fit: Fit
    incompatibility: str | None
    """Why the card cannot compute the step at all."""

    def to_dict(self) -> JsonObject:
        """The JSON object of one card."""
        return {
            "capacity_bytes": self.device.capacity_bytes,
            "fits": self.fit.json_value,
            "lacks": self.incompatibility,
        }


def predict_fit_per_card(step: StepProfile, settings: AllocatorSettings = DEFAULT_SETTINGS) -> dict[str, CardFit]:
    """Judge the step on every known card, the smallest first."""
    cards = sorted(known_devices().values(), key=lambda card: (card.capacity_bytes or 0, card.name))
    return {
        card.name: CardFit(card, predict_fit(step, card, settings=settings), card.incompatibility(step))
        for card in cards
    }


def _judge(step: StepProfile, device: Device, fits: Callable[[Bound], bool]) -> Fit:
    if device.incompatibility(step) is not None:
        return Fit.NO
    if device.capacity_bytes is None:
        return Fit.NO_CARD
    if fits(Bound.HIGH):
        return Fit.YES
    return Fit.MAYBE if fits(Bound.LIKELY) else Fit.NO


class _Outcome(NamedTuple):
    """A replay at one bound of the interval."""

    peaks: Peaks
    context_bytes: int
    fits: bool
    """False, too, if the device has no capacity to fit."""
    is_limited: bool
    """More would have been reserved on a larger device."""


def _outcome(step: StepProfile, device: Device, bound: Bound, settings: AllocatorSettings) -> _Outcome:
    context = device.context_of(step).bound(bound)
    unlimited = replay_requests(step.requests, device, bound, settings)
    if device.capacity_bytes is None:
        return _Outcome(unlimited, context, fits=False, is_limited=False)
    if unlimited.reserved_bytes + context <= device.capacity_bytes:
        return _Outcome(unlimited, context, fits=True, is_limited=False)
    limited = _replay_within(step, device, bound, settings)
    if limited.failure is not None:
        return _Outcome(unlimited, context, fits=False, is_limited=False)
    return _Outcome(limited, context, fits=True, is_limited=True)


def _replay_within(step: StepProfile, device: Device, bound: Bound, settings: AllocatorSettings) -> Peaks:
    """Replay in the memory that the device's context leaves."""
    assert device.capacity_bytes is not None
    room = max(0, device.capacity_bytes - device.context_of(step).bound(bound))
    return replay_requests(step.requests, device, bound, replace(settings, capacity_bytes=room))


def replay_requests(
    requests: Requests, device: Device, bound: Bound, settings: AllocatorSettings = DEFAULT_SETTINGS
) -> Peaks:
    """Run the requests through the simulated allocator, with the workspaces of one bound."""
    allocator = ALLOCATORS[settings.expandable_segments](settings)
    blocks: dict[int, Block] = {}
    threads: set[int] = set()
    shares = device.shares
    retries = 0
    failure = None
    try:
        for kind, first, second in requests:
            if kind == ALLOCATE:
                blocks[first] = allocator.allocate(second)
            elif kind == FREE:
                allocator.free(blocks.pop(first))
            elif kind in (TRANSIENT, UNMODELLED):
                if shares is not None and kind == TRANSIENT:  # the measured fractions do not cover other operators
                    size = shares.workspace_bytes(first, second, bound)
                else:
                    size = (0, first, second)[bound]
                if size:
                    allocator.free(allocator.allocate(size))
            elif kind == STEADY:
                allocator.reset_peaks()
                retries = allocator.retries
            elif first not in threads:
                threads.add(first)
                allocator.allocate(device.cublas.bound(bound))
    except OutOfDeviceMemoryError as error:
        failure = str(error)
    return Peaks(*allocator.peaks_bytes, allocator.retries - retries, failure)
