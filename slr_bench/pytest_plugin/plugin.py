"""The pytest plugin: options, and ``memory_benchmark``. Loaded with every pytest: imports nothing heavy."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from slr_bench.pytest_plugin.fixture import Measurement, MemoryBenchmark
    from slr_bench.pytest_plugin.limits import ByteLimit

_MEASURED = pytest.StashKey["Measurement"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Beside pytest-benchmark's own."""
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
        "gone, and if times with a limit (--benchmark-compare-fail) are of another machine.",
    )
    group.addoption(
        "--benchmark-compare-allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="Benchmarks (of pytest's name, with * and ?) that may be missing: in the saved run, or since. Repeatable.",
    )
    group.addoption(
        "--benchmark-rss",
        action="store_true",
        help="memory_benchmark also measures rss_over_start_bytes, the kernel's high-water mark of a further call.",
    )


def _limit(text: str) -> ByteLimit:
    from slr_bench.errors import ConfigError
    from slr_bench.pytest_plugin.limits import parse_byte_limit

    try:
        return parse_byte_limit(text)
    except ConfigError as error:
        raise ArgumentTypeError(str(error)) from error


def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark's, which loads the saved run."""
    config.addinivalue_line(
        "markers",
        "memory_benchmark(rss=False, device='cpu'): what memory_benchmark measures beside the traced bytes, and where",
    )
    from slr_bench.pytest_plugin.collected import Collected

    collected = Collected(config)
    config.pluginmanager.register(collected, "slr_bench.collected")
    if not hasattr(config, "workerinput"):  # xdist's processes collect and measure, the one above them compares
        from slr_bench.pytest_plugin.session import MemorySession

        config.pluginmanager.register(MemorySession(config, collected), "slr_bench.memory_session")


@pytest.fixture
def memory_benchmark(request: pytest.FixtureRequest) -> MemoryBenchmark:
    """pytest-benchmark's ``benchmark``, and the peak bytes of one more call in ``extra_info["metrics"]``."""
    from slr_bench.pytest_plugin.fixture import MemoryBenchmark

    if not request.config.pluginmanager.hasplugin("pytest-benchmark"):
        pytest.fail("memory_benchmark needs pytest-benchmark; install it: pip install pytest-benchmark", pytrace=False)
    device, with_rss = _asked(request)
    stash = request.node.stash

    def keep(measured: Measurement) -> None:
        stash[_MEASURED] = measured

    return MemoryBenchmark(request.getfixturevalue("benchmark"), keep, device, with_rss)


def _asked(request: pytest.FixtureRequest) -> tuple[str, bool]:
    marker = request.node.get_closest_marker("memory_benchmark")
    asked = {"rss": request.config.getoption("benchmark_rss"), "device": "cpu"}
    if marker is not None:
        unknown = [repr(name) for name in (*marker.args, *(marker.kwargs.keys() - asked.keys()))]
        if unknown:
            pytest.fail(f"memory_benchmark mark: {', '.join(unknown)} is neither rss= nor device=", pytrace=False)
        asked |= marker.kwargs
    return str(asked["device"]), bool(asked["rss"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """The measurement rides on the report of the call: xdist sends reports home, and nothing else."""
    report = yield
    if report.when == "call" and _MEASURED in item.stash:
        report.memory_benchmark = item.stash[_MEASURED]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """To pytest-benchmark (``--benchmark-only``, ``--benchmark-skip``) a test with our fixture is a benchmark."""
    for item in items if config.pluginmanager.hasplugin("pytest-benchmark") else ():
        names = getattr(item, "fixturenames", [])
        if "memory_benchmark" in names and "benchmark" not in names:
            names.append("benchmark")
