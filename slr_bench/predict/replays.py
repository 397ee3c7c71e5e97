"""Replays of a step's requests in the simulated allocator, for every choice of workspaces that is tried. No torch.

Larger workspaces do not always reserve more: a block that a small workspace leaves over may serve no later request, and
one of a large workspace may. So the ends of an interval come from a search between the bounds of the workspaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from slr_bench.predict.allocator.caching import Block, OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings
from slr_bench.predict.device import Bound, Device, Estimate
from slr_bench.trace.requests import ALLOCATE, FREE, STEADY, TRANSIENT, UNMODELLED, Requests

SHARES: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Positions between the least and the most that all workspaces take, in the order of the search."""


class Peaks(NamedTuple):
    """Peaks of one replay, in bytes, over the steady step. ``reserved_bytes`` never falls by itself between steps."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    retries: int
    """Number of times that the steady step had to give cached memory back to make room."""
    failure: str | None
    """The out-of-memory message; None if the step ran through."""


class Outcome(NamedTuple):
    """A replay on a device, whose context takes a part of the memory."""

    peaks: Peaks
    context_bytes: int
    fits: bool
    """False, too, if the device has no capacity to fit."""
    is_limited: bool
    """More would have been reserved on a larger device."""


@dataclass(frozen=True)
class StepReplays:
    """The replays of one step. A replay without a limit is made once, and serves every card with equal workspaces."""

    requests: Requests
    settings: AllocatorSettings = DEFAULT_SETTINGS
    _unlimited: dict[object, Peaks] = field(default_factory=dict)

    def search(self, device: Device, context: Estimate, bound: Bound) -> Iterator[Outcome]:
        """Yield the outcomes that decide one bound of the interval: several at its ends, the expected one between."""
        kinds = {request[0] for request in self.requests}
        is_fixed = kinds.isdisjoint((TRANSIENT, UNMODELLED))
        for share in (None,) if bound is Bound.LIKELY else SHARES[:1] if is_fixed else SHARES:
            yield self._outcome(device, context.bound(bound), bound, share)

    def fits(self, device: Device, context: Estimate, bound: Bound) -> bool:
        """Return whether the step fits with each choice of workspaces at a bound."""
        return all(outcome.fits for outcome in self.search(device, context, bound))

    def _outcome(self, device: Device, context_bytes: int, bound: Bound, share: float | None) -> Outcome:
        key = device.cublas.bound(bound), device.shares, share
        if key not in self._unlimited:
            self._unlimited[key] = replay_requests(self.requests, device, bound, self.settings, share)
        unlimited = self._unlimited[key]
        if device.capacity_bytes is None:
            return Outcome(unlimited, context_bytes, fits=False, is_limited=False)
        room = max(0, device.capacity_bytes - context_bytes)
        if unlimited.reserved_bytes + context_bytes <= device.capacity_bytes:
            return Outcome(unlimited, context_bytes, fits=True, is_limited=False)
        if unlimited.requested_bytes > room:
            return Outcome(unlimited, context_bytes, fits=False, is_limited=False)
        limited = replay_requests(self.requests, device, bound, replace(self.settings, capacity_bytes=room), share)
        if limited.failure is not None:
            return Outcome(unlimited, context_bytes, fits=False, is_limited=False)
        return Outcome(limited, context_bytes, fits=True, is_limited=True)


def replay_requests(
    requests: Requests,
    device: Device,
    bound: Bound,
    settings: AllocatorSettings = DEFAULT_SETTINGS,
    share: float | None = None,
) -> Peaks:
    """Run the requests through the simulated allocator, with the workspaces of one bound or at a share between both."""
    allocator = ALLOCATORS[settings.expandable_segments](settings)
    blocks: dict[int, Block] = {}
    threads: set[int] = set()
    retries = 0
    failure = None
    try:
        for kind, first, second in requests:
            if kind == ALLOCATE:
                blocks[first] = allocator.allocate(second)
            elif kind == FREE:
                allocator.free(blocks.pop(first))
            elif kind in (TRANSIENT, UNMODELLED):
                workspace = _workspace(device, kind, first, second)
                size = workspace.bound(bound) if share is None else _between(workspace, share)
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


def _workspace(device: Device, kind: int, expected_bytes: int, most_bytes: int) -> Estimate:
    """Return the bounds of one call's workspace: measured ones if the device has them, or its rule's.

    A rule that expects less than the most is sure of that part. One that expects the most knows only a bound, as for
    an operator without a rule.
    """
    if device.shares is not None and kind == TRANSIENT:  # the measured fractions do not cover other operators
        low, likely, high = (device.shares.workspace_bytes(expected_bytes, most_bytes, bound) for bound in Bound)
        return Estimate(likely, low, high)
    is_sure = kind == TRANSIENT and expected_bytes < most_bytes
    return Estimate(expected_bytes, expected_bytes if is_sure else 0, most_bytes)


def _between(workspace: Estimate, share: float) -> int:
    return workspace.low + int((workspace.high - workspace.low) * share)
