"""The functions of the package and their results, which equal the JSON of the commands."""

import json

import pytest

import slr_bench as package
from slr_bench import api

HOSTILE = "<b>arm</b>"
FAULTY = {"workload": "faulty", "repeats": 1, "device": "cpu", "arms": {HOSTILE: {}}}


@pytest.fixture
def results(monkeypatch):
    """``results("profile")`` -> list that receives the results of this function when a command calls it."""

    def record(name):
        function, received = getattr(api, name), []

        def call(*arguments, **options):
            received.append(function(*arguments, **options))
            return received[-1]

        monkeypatch.setattr(api, name, call)
        return received

    return record


def check_result(done, received):
    """Check one result against the output of the command that computed it."""
    assert done.returncode == 0, done.stderr
    (result,) = received
    assert json.loads(json.dumps(result.to_dict())) == json.loads(done.stdout)
    html = result._repr_html_()
    assert "<table" in html or "<pre" in html
    assert HOSTILE not in html
    return html


@pytest.mark.parametrize(
    ("command", "options"),
    [("profile", ["--fake"]), ("predict", []), ("predict", ["--grid"]), ("plan", ["--gpu-memory", "6GiB"])],
)
def test_results_for_settings_equal_the_json_of_the_commands(
    slr_bench, results, write_grid, tiny_setting, command, options
):
    received = results(command)
    grid = write_grid({"workload": "train_step", "set": tiny_setting, "device": "cpu", "arms": {HOSTILE: {}}})
    html = check_result(slr_bench(command, grid, *options, "--json"), received)
    assert "MiB" in html


def test_results_of_runs_equal_the_json_of_the_commands(slr_bench, results, write_grid, quick_server):
    received = results("run")
    check_result(slr_bench("run", write_grid(FAULTY), "--out", "one", "--json"), received)
    assert slr_bench("run", write_grid(FAULTY), "--out", "two").returncode == 0
    received = results("compare")
    html = check_result(slr_bench("compare", "one", "two", "--json"), received)
    assert "&lt;b&gt;arm&lt;/b&gt;" in html


@pytest.mark.parametrize("name", ["run", "predict", "compare", "plan", "profile", "gate", "watch"])
def test_package_offers_the_functions_of_the_interface(monkeypatch, name):
    monkeypatch.setattr(api, name, lambda *arguments: (name, *arguments))
    assert getattr(package, name)("grid.yml") == (name, "grid.yml")
    assert name in dir(package)
