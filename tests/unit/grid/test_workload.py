"""Workloads are found only by their registered name."""

from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel, ConfigDict

from slr_bench.errors import ConfigError
from slr_bench.grid import workload
from slr_bench.grid.project_file import VARIABLE
from slr_bench.grid.workload import GROUP, WorkloadSpec, find_workload


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    values = {
        "good": "benchmarks.workloads:train_step",
        "no_module": "no_such_module:spec",
        "no_attribute": "benchmarks.workloads:absent",
        "no_spec": "json:loads",
    }
    points = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    points += [EntryPoint("good", values["good"], GROUP)]  # twice, as from an installed checkout
    points += [EntryPoint("twice", f"{owner}.bench:spec", GROUP) for owner in ("mine", "theirs")]
    monkeypatch.setattr(workload, "entry_points", lambda group: points if group == GROUP else [])
    monkeypatch.setenv(VARIABLE, "")


def test_registered_workload_is_loaded():
    assert find_workload("good").name == "train_step"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("godo", "no workload 'godo' is registered; did you mean 'good'"),
        ("zzzzzz", "no workload 'zzzzzz' is registered; known: good, no_attribute, no_module, no_spec, twice"),
        ("no_module", "'no_module' does not load from no_such_module:spec: No module named 'no_such_module'"),
        ("no_attribute", "'no_attribute' does not load from benchmarks.workloads:absent: .*absent"),
        ("no_spec", "json:loads is a function, not a WorkloadSpec"),
        ("twice", "'twice' is registered twice, as mine.bench:spec and theirs.bench:spec; give one"),
    ],
)
def test_every_failure_to_load_is_a_config_error(name, message):
    with pytest.raises(ConfigError, match=message):
        find_workload(name)


def test_message_is_complete_without_any_registration(monkeypatch):
    monkeypatch.setattr(workload, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="no workload 'good' is registered"):
        find_workload("good")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 1


class Lax(BaseModel):
    size: int = 1


class LaxInside(Strict):
    part: Lax | None = None


class Demanding(Strict):
    depth: int


@pytest.fixture
def registered(monkeypatch):
    """``registered(Settings)`` -> the spec of a workload that the package ``toy_bench`` registers."""

    def find(settings, **fields):
        spec = WorkloadSpec("toy", settings, print, **fields)
        point = EntryPoint("toy", "toy_bench.inner:spec", GROUP)
        monkeypatch.setattr(EntryPoint, "load", lambda self: spec)
        monkeypatch.setattr(workload, "entry_points", lambda group: [point])
        return find_workload("toy")

    return find


def test_package_that_registers_a_workload_is_the_default_source(registered):
    """Otherwise the records of an old model would be used for a changed one."""
    assert registered(Strict).packages == ("toy_bench",)
    assert registered(Strict, packages=("a", "b")).packages == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Lax, "'toy': Lax ignores unknown keys; give it ConfigDict"),
        (LaxInside, "'toy': LaxInside has the section Lax, which ignores unknown keys"),
        (Demanding, "'toy': Demanding has no default for depth; .* give every key one"),
    ],
)
def test_settings_models_that_hide_mistakes_are_refused(registered, settings, message):
    with pytest.raises(ConfigError, match=message):
        registered(settings)
