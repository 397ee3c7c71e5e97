"""The plugin in another project: pytest runs on a directory that does not know this repository."""

import re
from pathlib import Path

import pytest
from plugin_project import GATE, GONE, NUMBERS, PLUGIN, SAVE, TENSOR

# A run inside this process drops the modules that it imports first, so import them here.
import slr_bench.pytest_plugin.check
import slr_bench.pytest_plugin.collected
import slr_bench.pytest_plugin.fixture
import slr_bench.pytest_plugin.session
import slr_bench.worker.context  # noqa: F401

pytest_plugins = ["pytester"]
# pytest-benchmark only warns of another machine and of a missing baseline.
pytestmark = pytest.mark.filterwarnings("ignore::pytest_benchmark.logger.PytestBenchmarkWarning")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "pytest_plugin.md"


def test_bytes_are_saved_with_the_times(project):
    project.write(TENSOR)
    result = project.run(SAVE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*memory of a call*", "test_own.py::test_tensor: peak_tensor_bytes 15.6 KiB"])
    (benchmark,) = project.saved()
    assert benchmark["extra_info"]["metrics"] == {
        "peak_tensor_bytes": {
            "value": NUMBERS * 8, "unit": "bytes", "source": "cpu-real", "quality": "exact", "reason": None,
        }
    }  # fmt: skip
    assert {"torch", "torchvision", "trace_rules"} <= benchmark["extra_info"]["environment"].keys()
    assert benchmark["stats"]["rounds"] >= 1


def test_equal_passes_growth_fails_and_less_asks_for_a_new_baseline(project):
    project.write(TENSOR)
    project.run(SAVE)
    result = project.run(*GATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*against *0001_base.json*", "1 equal, 0 not"])

    project.write(TENSOR, numbers=NUMBERS * 1005 // 1000)
    result = project.run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED test_own.py::test_tensor: peak_tensor_bytes 15.6 KiB -> 15.7 KiB (+80 bytes*"])
    assert project.run("--benchmark-compare", "--benchmark-compare-fail-bytes=peak_tensor_bytes:80B").ret == 0
    assert project.run("--benchmark-compare", "--benchmark-compare-fail-bytes=peak_tensor_bytes:79B").ret == 1

    project.write(TENSOR, numbers=NUMBERS - 1)
    result = project.run(*GATE)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["less than the baseline: save a new one*"])


def test_benchmark_that_the_baseline_lacks_fails_unless_allowed(project):
    project.write(TENSOR)
    project.run(SAVE)
    project.write(TENSOR.replace("test_tensor", "test_new"), "test_more")
    result = project.run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED test_more.py::test_new: not in the baseline", "*--benchmark-compare-allow-*"])
    assert project.run(*GATE, "--benchmark-compare-allow-missing=test_more.py::*").ret == 0
    result = project.run(*GATE, "test_own.py", "-k", "nothing")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["in the baseline and not run: 1 (test_own.py::test_tensor)"])


def test_verdict_is_the_last_block_and_the_last_line_counts_it(project):
    project.write(TENSOR)
    project.run(SAVE)
    project.write(TENSOR, numbers=NUMBERS + 1)
    result = project.run(*GATE, "-rA")
    assert result.ret == 1
    lines = result.outlines
    verdict = next(place for place, line in enumerate(lines) if line.startswith("FAILED"))
    others = [place for place, line in enumerate(lines) if "benchmark: 2 tests" in line or line.startswith("PASSED")]
    assert len(others) == 2
    assert max(others) < verdict
    assert re.search(r"1 passed(, 1 warning)?, 1 benchmark comparison failed", lines[-1])
    # Slower than pytest-benchmark allows: it raises in the middle of the summary.
    project.write(TENSOR)
    result = project.run(*GATE, "--benchmark-compare-fail=min:0.000000000001")
    result.stdout.fnmatch_lines(["1 equal, 0 not"])


@pytest.mark.parametrize("key", ["torch", "torchvision", "trace_rules"])
def test_other_versions_are_not_comparable_and_fail(project, key):
    def age(run):
        run["benchmarks"][0]["extra_info"]["environment"][key] = "0.1"

    project.write(TENSOR)
    project.run(SAVE)
    project.change_saved(age)
    result = project.run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"FAILED *traced values need the same {key}, got 0.1 against *", "not comparable: *"])


def test_limit_without_a_saved_run_is_a_usage_error(project):
    project.write(TENSOR)
    for options in (GATE, GATE[1:], ("--benchmark-compare-strict",)):
        result = project.run(*options)
        assert result.ret == 4
        result.stderr.fnmatch_lines(["*ERROR: --benchmark-compare-* needs a saved run, and there is none: save one *"])
        assert "Traceback" not in result.stderr.str()


def test_malformed_limit_is_a_usage_error(project):
    project.write(TENSOR)
    result = project.run("--benchmark-compare-fail-bytes=peak_tensor_bytes:5")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*write it like peak_tensor_bytes:0% or peak_tensor_bytes:1MiB*"])


def test_limit_without_any_measurement_fails(project):
    project.write("def test_plain(benchmark):\n    benchmark(int)\n")
    project.run(SAVE)
    result = project.run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED no test: used memory_benchmark: no bytes were measured"])


def test_bytes_are_measured_and_compared_without_times(project):
    project.write(TENSOR)
    project.run(SAVE)
    assert project.run(*GATE, "--benchmark-disable").ret == 0
    project.write(TENSOR, numbers=NUMBERS + 1)
    result = project.run(*GATE, "--benchmark-disable")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED *(+8 bytes*"])


def test_times_of_another_machine_fail_if_they_have_a_limit(project):
    def move(run):
        run["machine_info"]["cpu"]["brand_raw"] = "y"

    project.write(TENSOR)
    project.run(SAVE)
    project.change_saved(move)
    limit = "--benchmark-compare-fail=mean:100000%"
    strict = ("--benchmark-compare", "--benchmark-compare-strict")
    assert project.run(*GATE).ret == 0
    result = project.run(*strict, limit)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED times: were measured on another machine: cpu.brand_raw 'x' against 'y'"])
    assert project.run("--benchmark-compare", limit).ret == 0


def test_strict_option_applies_to_plain_benchmarks(project):
    project.write("def test_plain(benchmark):\n    benchmark(int)\n")
    project.run(SAVE)
    strict = ("--benchmark-compare", "--benchmark-compare-strict")
    assert project.run(*strict).ret == 0
    project.write("def test_other(benchmark):\n    benchmark(int)\n", "test_more")
    assert project.run("--benchmark-compare").ret == 0
    assert project.run(*strict).ret == 1


def test_pedantic_calls_setup_and_teardown_for_the_further_call(project):
    project.write("""
        import torch

        calls = []

        def test_pedantic(memory_benchmark):
            def setup():
                calls.append("setup")
                return (torch.zeros(1024),), {"n": 3}

            def target(x, n):
                calls.append(n)
                return x.repeat(n)

            made = memory_benchmark.pedantic(
                target, setup=setup, teardown=lambda x, n: calls.append("teardown"), rounds=2, warmup_rounds=1
            )
            assert made.numel() == 3 * 1024
            assert calls == ["setup", 3, "teardown"] * 4
            assert memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"] == 4 * 4096
            assert memory_benchmark.stats.stats.rounds == 2

        def test_arguments(memory_benchmark):
            assert memory_benchmark.pedantic(torch.add, args=(torch.ones(8), 1), kwargs={"alpha": 2})[0] == 3
    """)
    project.run().assert_outcomes(passed=2)


def test_mark_adds_rss_and_a_misspelt_mark_fails(project):
    project.write("""
        import pytest

        @pytest.mark.memory_benchmark(rss=True)
        def test_marked(memory_benchmark):
            memory_benchmark(bytearray, 2**26)
            assert abs(memory_benchmark.extra_info["metrics"]["rss_over_start_bytes"]["value"] - 2**26) < 2**21
            assert memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"] == 0

        @pytest.mark.memory_benchmark(rrs=True)
        def test_mistyped(memory_benchmark):
            pass
    """)
    result = project.run("--strict-markers")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*memory_benchmark mark: 'rrs' is neither rss= nor device=*"])


def test_test_with_the_fixture_is_a_benchmark_for_pytest_benchmark(project):
    project.write(TENSOR + "\ndef test_no_benchmark():\n    pass\n")
    project.run("--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    project.run("--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_missing_pytest_benchmark_is_reported_with_the_cure(pytester):
    pytester.makepyfile(TENSOR)
    result = pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:benchmark", "-p", "no:hypothesispytest")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*memory_benchmark needs pytest-benchmark; install it*"])


def test_workers_of_xdist_measure_and_the_controller_compares(project):
    """The saved run comes from another kind of process and is equal to the byte."""
    project.write(TENSOR)
    project.run(SAVE)
    quiet = ("-W", "ignore")  # pytest-benchmark warns that it does not time here
    result = project.run(*GATE, *quiet, "-n1", process=True)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["1 equal, 0 not"])

    project.write("def test_other():\n    pass\n")
    result = project.run(*GATE, *quiet, "-n1", process=True)
    assert result.ret == 1
    result.stdout.fnmatch_lines([GONE.format("test_own.py::test_tensor", "")])


def test_example_of_the_documentation_runs_as_it_stands(project):
    section = PAGE.read_text().partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^pytest (.*?) *(?:#.*)?$", section, re.MULTILINE)
    assert len(example.splitlines()) <= 10
    project.write(example, "test_memory")
    results = [project.run(*command.split()) for command in commands]
    assert [result.ret for result in results] == [0, 0]
    assert "--benchmark-compare-fail-bytes" in commands[1]
    results[1].stdout.fnmatch_lines(["1 equal, 0 not"])
