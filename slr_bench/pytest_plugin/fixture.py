"""``memory_benchmark``: pytest-benchmark's fixture, with the bytes of a call beside its times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pydantic import JsonValue

METRICS, ENVIRONMENT = "metrics", "environment"
"""Keys of ``extra_info``."""


class Measurement(TypedDict):
    """What a test measured, as JSON values: it goes into ``extra_info`` and from process to process."""

    fullname: str
    metrics: dict[str, dict[str, JsonValue]]
    environment: dict[str, JsonValue]


class MemoryBenchmark:
    """Called as pytest-benchmark's ``benchmark``; the target is called once more, apart from the timed rounds.

    What it measured is in ``extra_info["metrics"]``: name -> value, unit, source, quality, and where the value is None
    the reason.
    """

    def __init__(self, benchmark: Any, keep: Callable[[Measurement], None], device: str, with_rss: bool) -> None:
        self._benchmark = benchmark
        self._keep = keep
        self._device, self._with_rss = device, with_rss

    def __call__(self, function_to_benchmark: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time the function as pytest-benchmark does, then measure the bytes of one more call; its result."""
        result = self._benchmark(function_to_benchmark, *args, **kwargs)
        self._measure(function_to_benchmark, lambda: (args, kwargs))
        return result

    def pedantic(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        setup: Callable[..., Any] | None = None,
        teardown: Callable[..., Any] | None = None,
        **rounds: int,
    ) -> Any:
        """The same with the rounds in the caller's hands; ``setup`` and ``teardown`` are of the further call, too."""
        result = self._benchmark.pedantic(target, args, kwargs, setup=setup, teardown=teardown, **rounds)

        def arguments() -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (setup() if setup else None) or (args, kwargs or {})

        self._measure(target, arguments, teardown)
        return result

    def _measure(
        self,
        target: Callable[..., Any],
        arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        teardown: Callable[..., Any] | None = None,
    ) -> None:
        import torch

        from slr_bench.pytest_plugin.call_bytes import call_metrics
        from slr_bench.worker.environment import collect_environment

        @contextmanager
        def prepared() -> Iterator[Callable[[], object]]:
            args, kwargs = arguments()
            yield partial(target, *args, **kwargs)
            if teardown is not None:
                teardown(*args, **kwargs)

        metrics = call_metrics(prepared, torch.device(self._device), self._with_rss)
        found: Measurement = {
            "fullname": self._benchmark.fullname,
            "metrics": {name: metric.model_dump(mode="json") for name, metric in metrics.items()},
            "environment": collect_environment(self._device, "pytest"),
        }
        self._benchmark.extra_info |= {METRICS: found["metrics"], ENVIRONMENT: found["environment"]}
        self._keep(found)

    @property
    def extra_info(self) -> dict[str, Any]:
        """Goes into pytest-benchmark's JSON."""
        info: dict[str, Any] = self._benchmark.extra_info
        return info

    @property
    def group(self) -> str | None:
        """Of pytest-benchmark's table."""
        name: str | None = self._benchmark.group
        return name

    @group.setter
    def group(self, name: str | None) -> None:
        self._benchmark.group = name

    @property
    def stats(self) -> Any:
        """Times; None where pytest-benchmark is disabled."""
        return self._benchmark.stats

    @property
    def enabled(self) -> bool:
        """Whether times are measured. Bytes always are."""
        return bool(self._benchmark.enabled)

    @property
    def disabled(self) -> bool:
        """Whether the target is only run once and not timed."""
        return bool(self._benchmark.disabled)


def measurement_of(benchmark: Mapping[str, Any]) -> Measurement:
    """What a benchmark of a saved JSON holds of it; without metrics if ``memory_benchmark`` did not make it."""
    extra = benchmark.get("extra_info", {})
    return {
        "fullname": benchmark["fullname"],
        "metrics": extra.get(METRICS, {}),
        "environment": extra.get(ENVIRONMENT, {}),
    }
