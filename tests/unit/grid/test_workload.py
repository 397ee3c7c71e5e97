"""Workloads are found by their registered name and nothing else."""

from importlib.metadata import EntryPoint

import pytest

from slr_bench.errors import ConfigError
from slr_bench.grid import workload
from slr_bench.grid.workload import GROUP, find_workload


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    values = {
        "good": "benchmarks.workloads:train_step",
        "no_module": "no_such_module:spec",
        "no_attribute": "benchmarks.workloads:absent",
        "no_spec": "json:loads",
    }
    points = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    monkeypatch.setattr(workload, "entry_points", lambda group: points if group == GROUP else [])


def test_a_registered_workload_is_loaded():
    assert find_workload("good").name == "train_step"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("godo", "no workload 'godo' is registered; did you mean 'good'"),
        ("zzzzzz", "no workload 'zzzzzz' is registered; known: good, no_attribute, no_module, no_spec"),
        ("no_module", "'no_module' does not load from no_such_module:spec: No module named 'no_such_module'"),
        ("no_attribute", "'no_attribute' does not load from benchmarks.workloads:absent: .*absent"),
        ("no_spec", "json:loads is a function, not a WorkloadSpec"),
    ],
)
def test_every_way_it_can_fail_is_an_error_of_ours(name, message):
    with pytest.raises(ConfigError, match=message):
        find_workload(name)


def test_without_any_registration_the_message_stands(monkeypatch):
    monkeypatch.setattr(workload, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="no workload 'good' is registered"):
        find_workload("good")
