"""Predictions of memory: what a traced step takes on a GPU, and the results for the cells of a grid. Imports no torch.

The figures of a step are requested, allocated and reserved bytes, and what NVML shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.execute.job import JsonObject
from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.caching import Block, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings, settings_of
from slr_bench.predict.device import Bound, Device, Estimate, Fit, any_device, find_device, known_devices, means_cpu
from slr_bench.predict.host import HostPrediction, predict_step_on_cpu
from slr_bench.predict.trace_pool import OnTraced, Refusal, StepProfile, TracePool
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
    outcomes = [_outcome(step.requests, device, bound, settings) for bound in Bound]
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
        return _replay_within(device, step.requests, bound, settings).failure is None

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


def _outcome(requests: Requests, device: Device, bound: Bound, settings: AllocatorSettings) -> _Outcome:
    context = device.context.bound(bound)
    unlimited = replay_requests(requests, device, bound, settings)
    if device.capacity_bytes is None:
        return _Outcome(unlimited, context, fits=False, is_limited=False)
    if unlimited.reserved_bytes + context <= device.capacity_bytes:
        return _Outcome(unlimited, context, fits=True, is_limited=False)
    limited = _replay_within(device, requests, bound, settings)
    if limited.failure is not None:
        return _Outcome(unlimited, context, fits=False, is_limited=False)
    return _Outcome(limited, context, fits=True, is_limited=True)


def _replay_within(device: Device, requests: Requests, bound: Bound, settings: AllocatorSettings) -> Peaks:
    """Replay in the memory that the device's context leaves."""
    assert device.capacity_bytes is not None
    room = max(0, device.capacity_bytes - device.context.bound(bound))
    return replay_requests(requests, device, bound, replace(settings, capacity_bytes=room))


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


CellResult = Prediction | HostPrediction | Refusal


@dataclass(frozen=True)
class Target:
    """The device that the steps would run on."""

    card: Device | None
    """The GPU; None for the CPU."""
    settings: AllocatorSettings
    """Settings of the GPU's allocator."""
    ram_bytes: int | None = None
    """Memory that a process on the CPU may use."""

    @classmethod
    def from_options(cls, device: str | None, alloc_conf: str) -> Self:
        """Find the device of a command's options; without one, every GPU is meant.

        Raises:
            ConfigError: the device is unknown, or the allocator's settings are wrong or not for the CPU.
        """
        settings = settings_of(alloc_conf)
        if not means_cpu(device):
            return cls(any_device() if device is None else find_device(device), settings)
        if alloc_conf:
            raise ConfigError("--alloc-conf configures CUDA's allocator; leave it out with --device cpu")
        from slr_bench.probes.host import read_host_memory

        return cls(None, settings, read_host_memory().left_bytes)

    def predict_step(self, step: StepProfile) -> Prediction | HostPrediction:
        """Predict what a traced step needs there."""
        if self.card is None:
            return predict_step_on_cpu(step, self.ram_bytes)
        return predict_step(step, self.card, settings=self.settings)


@dataclass(frozen=True)
class SettingPrediction:
    """The prediction for one setting."""

    cell: Cell
    result: Prediction | HostPrediction
    cards: Mapping[str, CardFit]
    """The fit on each known card, if no device was named."""

    @property
    def does_not_fit(self) -> bool:
        """The command exits with code 6."""
        return self.result.fit is Fit.NO

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict``."""
        identity = {"arm": self.cell.arm, "workload": self.cell.spec.name, "setting": self.cell.public_setting}
        cards = {name: card.to_dict() for name, card in self.cards.items()}
        return identity | self.result.to_dict() | ({"cards": cards} if cards else {})


@dataclass(frozen=True)
class GridPrediction:
    """The predictions for all cells of a grid."""

    device: str | None
    """The device as it was given."""
    cells: Sequence[Cell]
    results: Sequence[CellResult]

    @property
    def does_not_fit(self) -> bool:
        """No cell fits; the command exits with code 6."""
        return all(isinstance(result, Refusal) or result.fit is Fit.NO for result in self.results)

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict --grid``."""
        return {
            "device": self.device,
            "cells": [self._entry(cell, result) for cell, result in zip(self.cells, self.results, strict=True)],
        }

    def _entry(self, cell: Cell, result: CellResult) -> Mapping[str, Any]:
        identity = {"cell_id": cell.cell_id, "arm": cell.arm, "workload": cell.spec.name}
        found = {"unsupported": result.reason} if isinstance(result, Refusal) else result.to_dict()
        return identity | {"coordinates": dict(cell.coordinates)} | found


def predict_setting(cell: Cell, target: Target, pool: TracePool) -> SettingPrediction:
    """Predict one cell.

    Raises:
        NothingMeasuredError: its step cannot be traced.
    """
    (step,) = pool.trace([cell], target.card is not None)
    if isinstance(step, Refusal):
        raise NothingMeasuredError(f"unsupported: {step.reason}")
    result = target.predict_step(step)
    is_any_card = isinstance(result, Prediction) and result.device.capacity_bytes is None
    cards = predict_fit_per_card(step, settings=target.settings) if is_any_card else {}
    return SettingPrediction(cell, result, cards)


def predict_grid(
    steps: Sequence[Cell],
    target: Target,
    pool: TracePool,
    device: str | None,
    on_traced: OnTraced = lambda cell, result: None,
) -> GridPrediction:
    """Predict the cells of a grid that run a step.

    Raises:
        NothingMeasuredError: no cell can be traced.
    """
    traced = pool.trace(steps, target.card is not None, on_traced)
    results = [step if isinstance(step, Refusal) else target.predict_step(step) for step in traced]
    if all(isinstance(result, Refusal) for result in results):
        reason = next((result.reason for result in results if isinstance(result, Refusal)), "no steps")
        raise NothingMeasuredError(f"no cell of {len(steps)} can be traced: {reason}")
    return GridPrediction(device, steps, results)
