"""The bytes of one call, apart from whatever else the process of the tests holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from slr_bench.live_bytes import LiveBytes, StorageReferences, storages_alive
from slr_bench.probes.host import HostProbe, give_heap_back
from slr_bench.record import Metric
from slr_bench.worker.traced_step import no_collection

Prepared = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Makes a call ready, and clears up after it."""


class CallBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """Counts what a call makes, and from its start on what it uses of all that was there before.

    A process of tests holds tensors of other tests and modules, which ones depends on what ran before: what the call
    never touches does not count, so that the figure is the same alone and in a whole suite.
    """

    def __init__(self, device: torch.device, there_before: StorageReferences) -> None:
        super().__init__(device, {})
        alive = ((storage(), storage) for storage in there_before)
        self._there_before = {storage._cdata: reference for storage, reference in alive if storage is not None}
        self._first_uses: list[tuple[int, int]] = []
        """Length of the timeline when something that was there was first used, and its size."""

    @property
    def call_peak_bytes(self) -> int:
        """Most bytes at once. Valid after the call."""
        uses = list(self._first_uses)
        peak, used_later = sum(size for _, size in uses), 0  # at the start all of it is there already
        for position in range(len(self.timeline) - 1, -1, -1):
            while uses and uses[-1][0] > position:
                used_later += uses.pop()[1]
            peak = max(peak, self.timeline[position][0] + used_later)
        return peak

    def _born(self, key: int, tensor: torch.Tensor, size: int, category: str | None) -> None:
        # An address can be given anew, a dead reference never lives again.
        reference = self._there_before.get(key)
        if reference is not None and reference() is not None:
            self._first_uses.append((len(self.timeline), size))


def call_metrics(prepared: Prepared, device: torch.device, with_rss: bool) -> dict[str, Metric]:
    """``peak_tensor_bytes`` of one call, and of another one ``rss_over_start_bytes`` if asked for."""
    metrics = {"peak_tensor_bytes": _traced_peak(prepared, device)}
    if with_rss:
        metrics["rss_over_start_bytes"] = _rss_over_start(prepared)
    return metrics


def _traced_peak(prepared: Prepared, device: torch.device) -> Metric:
    with prepared() as call, no_collection():
        tracer = CallBytes(device, storages_alive())
        with tracer:
            _made: Any = call()
            del _made
    source = f"{device.type}-real"
    return Metric(value=tracer.call_peak_bytes, unit="bytes", source=source, quality="exact")


def _rss_over_start(prepared: Prepared) -> Metric:
    """Without the tracer, whose own lists would count. What the C library held free is given back before: the call
    would use it and leave no mark."""
    with prepared() as call, no_collection():
        give_heap_back()
        probe = HostProbe()
        with probe:
            _made: Any = call()
            del _made
    return probe.readings()["rss_over_start_bytes"]
