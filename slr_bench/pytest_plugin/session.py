"""Collects the measurements of a test session, and compares them with the saved run of ``--benchmark-compare``."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from slr_bench.pytest_plugin.check import ByteLimit, Finding, Measurement
    from slr_bench.pytest_plugin.collected import Collected

REPORTED: Final = "memory_benchmark"
"""Attribute of a test's report that carries its measurement, also from xdist's workers."""
_SHOWN_NAMES: Final = 3


class MemorySession:
    """Collects measurements. At the end it compares them, prints the result, and fails the session if bytes grew."""

    def __init__(self, config: pytest.Config, collected: Collected) -> None:
        self._config, self._collected = config, collected
        self._limits: list[ByteLimit] = config.getoption("benchmark_compare_fail_bytes")
        self._allowed: list[str] = config.getoption("benchmark_compare_allow_missing")
        self._is_strict = bool(self._limits or config.getoption("benchmark_compare_strict"))
        self._is_strict &= not config.option.collectonly
        self._measured: dict[str, Measurement] = {}
        self._passed: set[str] = set()
        self._findings: list[Finding] = []
        self._other_machines: list[str] = []

    @property
    def _benchmarks(self) -> Any:
        """Session of pytest-benchmark; None without that plugin."""
        return self._config.pluginmanager.get_plugin("pytest-benchmark")

    @property
    def _baselines(self) -> Mapping[Path, Mapping[str, Any]]:
        baselines: Mapping[Path, Mapping[str, Any]] = self._benchmarks.compared_mapping if self._benchmarks else {}
        return baselines

    def pytest_sessionstart(self) -> None:
        """Refuse limits if there is no saved run to compare with."""
        if self._is_strict and not self._baselines:
            option = "--benchmark-compare-fail-bytes" if self._limits else "--benchmark-compare-strict"
            raise pytest.UsageError(
                f"{option} needs a saved run, and there is none: save one with --benchmark-save=NAME, "
                "then name its file with --benchmark-compare=FILE (without FILE, the last saved run is used)"
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_compare_machine_info(
        self, machine_info: Mapping[str, Any], compared_benchmark: Mapping[str, Any]
    ) -> None:
        """Record that the saved run is of another machine, for which pytest-benchmark only warns."""
        from slr_bench.pytest_plugin.check import different_machine

        difference = different_machine(machine_info, compared_benchmark["machine_info"])
        if difference is not None:
            self._other_machines.append(difference)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the measurement of a test, from this process or from a worker of xdist."""
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        measurement: Measurement | None = getattr(report, REPORTED, None)
        if measurement is not None:
            self._measured[measurement["fullname"]] = measurement

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare with the saved run; a broken limit makes an otherwise good session fail."""
        if self._is_strict:
            self._findings = list(self._compare())
        if session.exitstatus == pytest.ExitCode.OK and any(finding.is_broken for finding in self._findings):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def _tests(self) -> list[str]:
        """Benchmarks that ran: timed, measured, or both."""
        return list(dict.fromkeys([*(bench.fullname for bench in self._benchmarks.benchmarks), *self._measured]))

    def _compare(self) -> Iterator[Finding]:
        from slr_bench.pytest_plugin.check import Finding, check, check_gone

        tests = self._tests
        for baseline in self._baselines.values():
            yield from check(tests, self._measured, baseline, self._limits, self._allowed)
            rest = {test: saved for test, saved in baseline.items() if test not in tests}
            no_longer = [test for test, saved in rest.items() if test in self._passed and self._would_measure(saved)]
            yield from check_gone(self._collected.gone(rest), no_longer, tests, self._allowed)
        if self._limits and not self._measured:
            yield Finding("not comparable", "no test", "used memory_benchmark: no bytes were measured")
        if self._config.getoption("benchmark_compare_fail"):
            for difference in self._other_machines:
                yield Finding("not comparable", "times", f"were measured on another machine: {difference}")

    def _would_measure(self, saved: Mapping[str, Any]) -> bool:
        """Return whether the saved benchmark would have a result in this run. Without times, only bytes count."""
        from slr_bench.pytest_plugin.check import measurement_of

        return not self._benchmarks.disabled or bool(measurement_of(saved)["metrics"])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None]:
        """Print the bytes and the comparison below all other summaries, even if one of those raises an error."""
        try:
            yield
        finally:
            if self._measured and not self._config.getoption("benchmark_quiet", False):
                terminalreporter.section("memory of a call")
                for line in _byte_lines(self._measured.values()):
                    terminalreporter.write_line(line)
            if self._is_strict:
                self._print_findings(terminalreporter)

    def _print_findings(self, terminalreporter: Any) -> None:
        from slr_bench.pytest_plugin.check import finding_lines

        broken = [finding for finding in self._findings if finding.is_broken]
        if broken:  # pytest's last line counts them like "2 passed"
            title = "benchmark comparison failed" if len(broken) == 1 else "benchmark comparisons failed"
            terminalreporter.stats[title] = broken
        terminalreporter.section(f"against {', '.join(str(path) for path in self._baselines)}")
        reported = {*self._tests, *(finding.test for finding in self._findings)}
        rest = [test for baseline in self._baselines.values() for test in baseline if test not in reported]
        if rest:
            names = ", ".join(rest[:_SHOWN_NAMES]) + (" ..." if len(rest) > _SHOWN_NAMES else "")
            terminalreporter.write_line(f"in the baseline and not run: {len(rest)} ({names})")
        for line, is_broken in finding_lines(self._findings):
            terminalreporter.write_line(line, red=is_broken)


def _byte_lines(measurements: Iterable[Measurement]) -> Iterator[str]:
    from slr_bench.record import Metric
    from slr_bench.units import format_bytes

    for measurement in measurements:
        metrics = {name: Metric.model_validate(values) for name, values in measurement["metrics"].items()}
        texts = [
            f"{name} {format_bytes(metric.value)}" + ("" if metric.reason is None else f" ({metric.reason})")
            for name, metric in metrics.items()
        ]
        yield f"{measurement['fullname']}: {', '.join(texts)}"
