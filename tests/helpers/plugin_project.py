"""Another project with benchmarks, for the tests of the pytest plugin."""

from __future__ import annotations

import json

PLUGIN = "slr_bench.pytest_plugin.plugin"
SAVE = "--benchmark-save=base"
GATE = ("--benchmark-compare", "--benchmark-compare-fail-bytes=peak_tensor_bytes:0%")
CONFTEST = """
def pytest_benchmark_generate_machine_info():  # the real function takes a second
    return {"node": "here", "cpu": {"brand_raw": "x", "count": 2}}
"""
TENSOR = """
import torch

def test_tensor(memory_benchmark):
    assert memory_benchmark(torch.zeros, NUMBERS, dtype=torch.float64).sum() == 0
"""
NUMBERS = 2000
TWO = TENSOR + TENSOR.replace("test_tensor", "test_second").replace("import torch", "")
GONE = "FAILED {}: in the baseline, and there is no such test now{}"


class Project:
    def __init__(self, pytester):
        self._pytester = pytester
        pytester.makeconftest(CONFTEST)

    def write(self, text, name="test_own", numbers=NUMBERS):
        self._pytester.makepyfile(**{name: text.replace("NUMBERS", str(numbers))})

    def run(self, *options, process=False):
        run = self._pytester.runpytest_subprocess if process else self._pytester.runpytest_inprocess
        # Without this option every run imports hypothesis again.
        quick = ("--benchmark-max-time=0.001", "--benchmark-min-rounds=1", "-p", "no:hypothesispytest")
        return run("-p", PLUGIN, *quick, *options)

    def remove(self, name):
        (self._pytester.path / f"{name}.py").unlink()

    @property
    def saved_path(self):
        return sorted(self._pytester.path.glob(".benchmarks/*/*.json"))[-1]

    def saved(self):
        return json.loads(self.saved_path.read_text())["benchmarks"]

    def change_saved(self, change):
        run = json.loads(self.saved_path.read_text())
        change(run)
        self.saved_path.write_text(json.dumps(run))
