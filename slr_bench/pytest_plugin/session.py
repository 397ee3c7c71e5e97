"""What a session of tests measured, and its verdict against the saved run that pytest-benchmark compares with."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from slr_bench.pytest_plugin.check import Finding
    from slr_bench.pytest_plugin.collected import Collected
    from slr_bench.pytest_plugin.fixture import Measurement
    from slr_bench.pytest_plugin.limits import ByteLimit

REPORTED: Final = "memory_benchmark"
"""Attribute of a test's report that carries its measurement, also out of xdist's processes."""
_SHOWN_NAMES: Final = 3


class MemorySession:
    """Collects measurements; at the end compares, tells, and fails the session that has grown."""

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
        """pytest-benchmark's session; None without it."""
        return self._config.pluginmanager.get_plugin("pytest-benchmark")

    @property
    def _baselines(self) -> Mapping[Path, Mapping[str, Any]]:
        baselines: Mapping[Path, Mapping[str, Any]] = self._benchmarks.compared_mapping if self._benchmarks else {}
        return baselines

    def pytest_sessionstart(self) -> None:
        """Refuse limits that have nothing to be held against."""
        if self._is_strict and not self._baselines:
            option = "--benchmark-compare-fail-bytes" if self._limits else "--benchmark-compare-strict"
            raise pytest.UsageError(
                f"{option} needs a saved run, and there is none: save one with --benchmark-save=NAME, "
                "then name its file with --benchmark-compare=FILE (without FILE the last one saved here)"
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_compare_machine_info(
        self, machine_info: Mapping[str, Any], compared_benchmark: Mapping[str, Any]
    ) -> None:
        """Times of two machines do not compare; pytest-benchmark only warns."""
        from slr_bench.pytest_plugin.check import different_machine

        difference = different_machine(machine_info, compared_benchmark["machine_info"])
        if difference is not None:
            self._other_machines.append(difference)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test measured, in this process or in another."""
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        measured: Measurement | None = getattr(report, REPORTED, None)
        if measured is not None:
            self._measured[measured["fullname"]] = measured

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Compare; what is broken makes an otherwise good session fail."""
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
        """Whether the saved benchmark would have left a trace here: without times only bytes do."""
        from slr_bench.pytest_plugin.fixture import measurement_of

        return not self._benchmarks.disabled or bool(measurement_of(saved)["metrics"])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None]:
        """Bytes, and beside a saved run what became of them: the last that is read, below pytest-benchmark's tables and
        pytest's own summaries, whatever they end with."""
        try:
            yield
        finally:
            if self._measured and not self._config.getoption("benchmark_quiet", False):
                terminalreporter.section("memory of a call")
                for line in _table(self._measured.values()):
                    terminalreporter.write_line(line)
            if self._is_strict:
                self._tell(terminalreporter)

    def _tell(self, terminalreporter: Any) -> None:
        from slr_bench.pytest_plugin.check import told

        broken = [finding for finding in self._findings if finding.is_broken]
        if broken:  # pytest's last line counts them beside "2 passed"
            what = "benchmark comparison failed" if len(broken) == 1 else "benchmark comparisons failed"
            terminalreporter.stats[what] = broken
        terminalreporter.section(f"against {', '.join(str(path) for path in self._baselines)}")
        said = {*self._tests, *(finding.test for finding in self._findings)}
        rest = [test for baseline in self._baselines.values() for test in baseline if test not in said]
        if rest:
            names = ", ".join(rest[:_SHOWN_NAMES]) + (" ..." if len(rest) > _SHOWN_NAMES else "")
            terminalreporter.write_line(f"in the baseline and not run: {len(rest)} ({names})")
        for line, is_broken in told(self._findings):
            terminalreporter.write_line(line, red=is_broken)


def _table(measured: Any) -> Iterator[str]:
    from slr_bench.units import format_bytes

    for one in measured:
        texts = [
            f"{name} {format_bytes(values['value'])}" + (f" ({values['reason']})" if values["value"] is None else "")
            for name, values in one["metrics"].items()
        ]
        yield f"{one['fullname']}: {', '.join(texts)}"
