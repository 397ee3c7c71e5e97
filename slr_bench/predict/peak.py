"""Predictions of memory: what a traced step takes on a GPU. Imports no torch.

The figures of a step are requested, allocated and reserved bytes, and what NVML shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from slr_bench.execute.job import JsonObject
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings
from slr_bench.predict.device import Bound, Device, Estimate, Fit, known_devices
from slr_bench.predict.replays import Outcome, StepReplays
from slr_bench.predict.trace_pool import StepProfile


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

    Some operators' inner memory is the choice of a library. The ends of an interval are the least and the most that
    the step takes with any choice that ``predict.replays`` tries.

    A step that would reserve more than the device has may still run, because the allocator gives back what it caches.
    The figures then describe that run. If it fails all the same, they describe a device without a limit.
    """
    replays, context = StepReplays(step.requests, settings), device.context_of(step)
    low, (likely,), high = (
        list(replays.search(device, context, bound)) for bound in (Bound.LOW, Bound.LIKELY, Bound.HIGH)
    )

    def interval(size: Callable[[Outcome], int]) -> Estimate:
        return Estimate.around(size(likely), [size(outcome) for outcome in (*low, likely, *high)])

    fits = all(outcome.fits for outcome in high)
    return Prediction(
        device,
        interval(lambda outcome: outcome.peaks.requested_bytes),
        interval(lambda outcome: outcome.peaks.allocated_bytes),
        interval(lambda outcome: outcome.peaks.reserved_bytes),
        interval(lambda outcome: outcome.peaks.reserved_bytes + outcome.context_bytes),
        step,
        _judge(step, device, lambda bound: fits if bound is Bound.HIGH else likely.fits),
        fits and any(outcome.is_limited for outcome in high),
        max(outcome.peaks.retries for outcome in high) if fits else None,
    )


def predict_fit(
    step: StepProfile,
    device: Device,
    settings: AllocatorSettings = DEFAULT_SETTINGS,
    replays: StepReplays | None = None,
) -> Fit:
    """Return ``predict_step(...).fit`` in fewer replays. ``replays`` of the step may serve several devices."""
    replays = StepReplays(step.requests, settings) if replays is None else replays
    return _judge(step, device, functools.partial(replays.fits, device, device.context_of(step)))


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
    replays = StepReplays(step.requests, settings)
    return {
        card.name: CardFit(card, predict_fit(step, card, settings, replays), card.incompatibility(step))
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
