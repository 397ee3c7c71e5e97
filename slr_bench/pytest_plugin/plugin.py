"""The pytest plugin: its options and the fixture ``memory_benchmark``. Every pytest loads it, so it imports little."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from slr_bench.pytest_plugin.check import ByteLimit, Measurement
    from slr_bench.pytest_plugin.fixture import MemoryBenchmark

_MEASURED = pytest.StashKey["Measurement"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options to those of pytest-benchmark."""
    group = parser.getgroup("benchmark")
    group.addoption(
        "--benchmark-compare-fail-bytes",
        action="append",
        default=[],
        type=_limit,
        metavar="METRIC:LIMIT",
        help="With --benchmark-compare, fail if a metric of memory_benchmark has grown by more: "
        "peak_tensor_bytes:0%%, rss_over_start_bytes:10MiB. Repeatable. Implies --benchmark-compare-strict.",
    )
    group.addoption(
        "--benchmark-compare-strict",
        action="store_true",
        help="With --benchmark-compare, fail also if there is no saved run, if it lacks a benchmark or has one that is "
        "gone, and if times with a limit (--benchmark-compare-fail) come from another machine.",
    )
    group.addoption(
        "--benchmark-compare-allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="Benchmarks (pytest's names, with * and ?) that the saved run or this run may lack. Repeatable.",
    )
    group.addoption(
        "--benchmark-rss",
        action="store_true",
        help="memory_benchmark also measures rss_over_start_bytes, the kernel's high-water mark of a further call.",
    )


def _limit(text: str) -> ByteLimit:
    from slr_bench.errors import ConfigError
    from slr_bench.pytest_plugin.check import parse_byte_limit

    try:
        return parse_byte_limit(text)
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from error


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin's parts before pytest-benchmark loads the saved run."""
    config.addinivalue_line(
        "markers",
        "memory_benchmark(rss=False, device='cpu'): whether memory_benchmark also measures RSS, and its device",
    )
    from slr_bench.pytest_plugin.collected import Collected

    collected = Collected(config)
    config.pluginmanager.register(collected, "slr_bench.collected")
    if not hasattr(config, "workerinput"):  # xdist's workers collect and measure; their controller compares
        from slr_bench.pytest_plugin.session import MemorySession

        config.pluginmanager.register(MemorySession(config, collected), "slr_bench.memory_session")


@pytest.fixture
def memory_benchmark(request: pytest.FixtureRequest) -> MemoryBenchmark:
    """Return a ``benchmark`` that also puts the peak bytes of one more call into ``extra_info["metrics"]``."""
    from slr_bench.pytest_plugin.fixture import MemoryBenchmark

    if not request.config.pluginmanager.hasplugin("pytest-benchmark"):
        pytest.fail("memory_benchmark needs pytest-benchmark; install it: pip install pytest-benchmark", pytrace=False)
    device, with_rss = _options(request)
    stash = request.node.stash

    def on_measured(measurement: Measurement) -> None:
        stash[_MEASURED] = measurement

    return MemoryBenchmark(request.getfixturevalue("benchmark"), on_measured, device, with_rss)


def _options(request: pytest.FixtureRequest) -> tuple[str, bool]:
    marker = request.node.get_closest_marker("memory_benchmark")
    options = {"rss": request.config.getoption("benchmark_rss"), "device": "cpu"}
    if marker is not None:
        unknown = [repr(name) for name in (*marker.args, *(marker.kwargs.keys() - options.keys()))]
        if unknown:
            pytest.fail(f"memory_benchmark mark: {', '.join(unknown)} is neither rss= nor device=", pytrace=False)
        options |= marker.kwargs
    return str(options["device"]), bool(options["rss"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Attach the measurement to the report of the call, because xdist's workers send only reports."""
    report = yield
    if report.when == "call" and _MEASURED in item.stash:
        report.memory_benchmark = item.stash[_MEASURED]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make every test with the fixture a benchmark for ``--benchmark-only`` and ``--benchmark-skip``."""
    for item in items if config.pluginmanager.hasplugin("pytest-benchmark") else ():
        names = getattr(item, "fixturenames", [])
        if "memory_benchmark" in names and "benchmark" not in names:
            names.append("benchmark")
