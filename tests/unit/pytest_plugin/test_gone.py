"""A benchmark of the saved run that no longer exists fails; one that this run only leaves out does not."""

import pytest
from plugin_project import GATE, GONE, SAVE, TENSOR, TWO

# A run inside this process drops the modules that it imports first, so import them here.
import slr_bench.pytest_plugin.check
import slr_bench.pytest_plugin.collected
import slr_bench.pytest_plugin.fixture
import slr_bench.pytest_plugin.session
import slr_bench.worker.context  # noqa: F401

pytest_plugins = ["pytester"]
# pytest-benchmark only warns of another machine and of a missing baseline.
pytestmark = pytest.mark.filterwarnings("ignore::pytest_benchmark.logger.PytestBenchmarkWarning")


def test_benchmark_that_is_gone_fails_by_name_unless_allowed(project):
    project.write(TWO)
    project.write(TENSOR.replace("test_tensor", "test_third"), "test_more")
    project.run(SAVE)
    project.write(TENSOR)
    result = project.run(*GATE)
    assert result.ret == 1
    cure = "gone: bring it back, save a new baseline without it (--benchmark-save), or allow it with *"
    result.stdout.fnmatch_lines([GONE.format("test_own.py::test_second", ""), "2 equal, 1 not", cure])
    assert project.run(*GATE, "--benchmark-compare-allow-missing=*second").ret == 0

    project.remove("test_more")  # a whole file
    project.write(TWO)
    result = project.run(*GATE)
    assert result.ret == 1
    result.stdout.fnmatch_lines([GONE.format("test_more.py::test_third", "")])
    project.write(TENSOR.replace("test_tensor", "test_third"), "test_moved")
    result = project.run(*GATE)
    result.stdout.fnmatch_lines([GONE.format("test_more.py::test_third", "; there is test_moved.py::test_third")])


def test_benchmark_whose_test_no_longer_measures_fails(project):
    project.write(TWO)
    project.run(SAVE)
    project.write(TENSOR + "\ndef test_second():\n    pass\n")
    for options in ((), ("--benchmark-disable",)):
        result = project.run(*GATE, *options)
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["FAILED test_own.py::test_second: in the baseline, but the test no longer measures*"]
        )


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "tensor"),
        ("-m", "not slow"),
        ("--deselect", "test_own.py::test_second"),
        ("test_own.py::test_tensor",),
        ("--ignore", "test_more.py", "--deselect", "test_own.py::test_second"),
        ("--lf",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("exists", [True, False], ids=["exists", "is gone"])
def test_benchmark_that_a_run_leaves_out_is_not_gone(project, options, exists):
    mark = "import pytest\n\n@pytest.mark.slow"
    project.write(TWO.replace("\ndef test_second", f"\n{mark}\ndef test_second"))
    project.write(TENSOR.replace("test_tensor", "test_third"), "test_more")
    project.run(SAVE, "-W", "ignore")
    if not exists:
        project.write(TENSOR)
    if "--lf" in options:  # collects only the failed tests of the failed file
        project.write(TWO + "\ndef test_broken(memory_benchmark):\n    memory_benchmark(int)\n    assert not 1\n")
        project.run()
        project.write(TWO + "\ndef test_broken(memory_benchmark):\n    memory_benchmark(int)\n")
    allowed = "--benchmark-compare-allow-missing=*broken"
    result = project.run(*GATE, *options, allowed, "-W", "ignore")
    assert result.ret == 0
    assert "FAILED" not in result.stdout.str()
    result.stdout.fnmatch_lines(["in the baseline and not run: *"])


def test_run_of_one_file_finds_gone_benchmarks_of_that_file_alone(project):
    project.write(TWO)
    project.write(TENSOR.replace("test_tensor", "test_third"), "test_more")
    project.run(SAVE)
    project.write(TENSOR)
    project.remove("test_more")
    result = project.run(*GATE, "test_own.py")
    assert result.ret == 1
    result.stdout.fnmatch_lines([GONE.format("test_own.py::test_second", "")])
    assert "no such test now" not in "".join(line for line in result.outlines if "test_third" in line)
    result.stdout.fnmatch_lines(["in the baseline and not run: 1 (test_more.py::test_third)"])


@pytest.mark.parametrize("text", ["import no_such_module", "import pytest\npytest.skip('x', allow_module_level=True)"])
def test_benchmarks_of_a_file_that_was_not_collected_are_not_gone(project, text):
    project.write(TENSOR)
    project.write(TENSOR.replace("test_tensor", "test_third"), "test_more")
    project.run(SAVE)
    project.write(text, "test_more")
    result = project.run(*GATE, "--continue-on-collection-errors")
    assert "no such test now" not in result.stdout.str()
    result.stdout.fnmatch_lines(["in the baseline and not run: 1 (test_more.py::test_third)"])
