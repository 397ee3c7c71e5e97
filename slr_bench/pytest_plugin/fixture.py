"""``memory_benchmark``: pytest-benchmark's fixture, which also measures the bytes of one more call.

Imports torch, so it is imported with the first test that uses the fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final

import torch

from slr_bench.live_bytes import LiveBytes, StorageReferences, storages_alive
from slr_bench.probes.host import HostProbe, give_heap_back
from slr_bench.pytest_plugin.check import ENVIRONMENT, METRICS, Measurement
from slr_bench.record import Metric
from slr_bench.worker.context import collect_environment
from slr_bench.worker.traced_step import no_collection

PreparedCall = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Prepares a call that can be made once, and clears up after it."""
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of a call."""
_FORWARDED: Final = ("extra_info", "stats", "enabled", "disabled")
"""Attributes of pytest-benchmark's fixture that can be read. Bytes are measured even if it is disabled."""


class MemoryBenchmark:
    """Called like pytest-benchmark's ``benchmark``; it calls the target once more, outside the timed rounds.

    The bytes are in ``extra_info["metrics"]``: name -> value, unit, source, quality, and a reason if the value is None.
    """

    __slots__ = ("_benchmark", "_device", "_on_measured", "_with_rss")

    def __init__(self, benchmark: Any, on_measured: Callable[[Measurement], None], device: str, with_rss: bool) -> None:
        self._benchmark = benchmark
        self._on_measured = on_measured
        self._device, self._with_rss = device, with_rss

    def __call__(self, function_to_benchmark: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time the function as pytest-benchmark does, measure the bytes of one more call, and return its result."""
        result = self._benchmark(function_to_benchmark, *args, **kwargs)
        self._measure(function_to_benchmark, lambda: (args, kwargs))
        return result

    def pedantic(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[..., Any] | None = None,
        teardown: Callable[..., Any] | None = None,
        **rounds: int,
    ) -> Any:
        """Do the same with a chosen number of rounds. ``setup`` and ``teardown`` also surround the further call."""
        result = self._benchmark.pedantic(target, args, kwargs, setup=setup, teardown=teardown, **rounds)

        def arguments() -> Arguments:
            return (setup() if setup else None) or (args, kwargs or {})

        self._measure(target, arguments, teardown)
        return result

    def _measure(
        self,
        target: Callable[..., Any],
        arguments: Callable[[], Arguments],
        teardown: Callable[..., Any] | None = None,
    ) -> None:
        @contextmanager
        def prepared() -> Iterator[Callable[[], object]]:
            args, kwargs = arguments()
            yield partial(target, *args, **kwargs)
            if teardown is not None:
                teardown(*args, **kwargs)

        metrics = call_metrics(prepared, torch.device(self._device), self._with_rss)
        measurement: Measurement = {
            "fullname": self._benchmark.fullname,
            "metrics": {name: metric.model_dump(mode="json") for name, metric in metrics.items()},
            "environment": collect_environment(self._device, "pytest"),
        }
        self._benchmark.extra_info |= {METRICS: measurement["metrics"], ENVIRONMENT: measurement["environment"]}
        self._on_measured(measurement)

    def __getattr__(self, name: str) -> Any:
        if name not in _FORWARDED:
            raise AttributeError(f"memory_benchmark has no attribute {name!r}")
        return getattr(self._benchmark, name)

    @property
    def group(self) -> str | None:
        """Group of the test in pytest-benchmark's table."""
        name: str | None = self._benchmark.group
        return name

    @group.setter
    def group(self, name: str | None) -> None:
        self._benchmark.group = name


class CallBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """Counts the storages that a call makes, and, from its start on, the earlier storages that it uses.

    Tensors of other tests and modules that the call does not use do not count. So a single test and a whole suite
    give the same number.
    """

    def __init__(self, device: torch.device, earlier: StorageReferences) -> None:
        super().__init__(device, {})
        alive = ((storage(), storage) for storage in earlier)
        self._earlier = {storage._cdata: reference for storage, reference in alive if storage is not None}
        self._first_uses: list[tuple[int, int]] = []
        """Length of the timeline at the first use of each earlier storage, and the size of the storage."""

    @property
    def call_peak_bytes(self) -> int:
        """Most bytes at one time. Valid after the call."""
        uses = list(self._first_uses)
        peak, used_later = sum(size for _, size in uses), 0  # all of them are alive at the start
        for position in range(len(self.timeline) - 1, -1, -1):
            while uses and uses[-1][0] > position:
                used_later += uses.pop()[1]
            peak = max(peak, self.timeline[position][0] + used_later)
        return peak

    def _born(self, key: int, tensor: torch.Tensor, size: int, category: str | None) -> None:
        # A new storage may have the address of an old one, but a dead reference never becomes valid again.
        reference = self._earlier.get(key)
        if reference is not None and reference() is not None:
            self._first_uses.append((len(self.timeline), size))


def call_metrics(prepared: PreparedCall, device: torch.device, with_rss: bool) -> dict[str, Metric]:
    """Return ``peak_tensor_bytes`` of one call and, if requested, ``rss_over_start_bytes`` of another call."""
    metrics = {"peak_tensor_bytes": _traced_peak(prepared, device)}
    if with_rss:
        metrics["rss_over_start_bytes"] = _rss_over_start(prepared)
    return metrics


def _traced_peak(prepared: PreparedCall, device: torch.device) -> Metric:
    with prepared() as call, no_collection():
        tracer = CallBytes(device, storages_alive())
        with tracer:
            result: object = call()
            del result
    source = f"{device.type}-real"
    return Metric(value=tracer.call_peak_bytes, unit="bytes", source=source, quality="exact")


def _rss_over_start(prepared: PreparedCall) -> Metric:
    """Measure the RSS of a call without the tracer, whose lists would count.

    The free memory of the C library is first returned to the kernel, because its use would not raise the RSS.
    """
    with prepared() as call, no_collection():
        give_heap_back()
        probe = HostProbe()
        with probe:
            result: object = call()
            del result
    return probe.readings()["rss_over_start_bytes"]
