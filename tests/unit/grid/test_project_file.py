"""Workloads that a project names in its own ``pyproject.toml``."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from slr_bench.errors import ConfigError
from slr_bench.grid import workload
from slr_bench.grid.config import load_grid
from slr_bench.grid.project_file import VARIABLE, find_project, projects, use_projects_of
from slr_bench.grid.workload import GROUP, Registration, find_workload, registrations

BENCH = """
from pydantic import BaseModel, ConfigDict
from slr_bench.grid.workload import WorkloadSpec

class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

spec = WorkloadSpec(name="own", settings=Settings, build=print)
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restore the import path and the environment after each test."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(workload, "entry_points", lambda group: [])


@pytest.fixture
def write_project(tmp_path):
    """``write_project("here", own="bench:spec")`` -> the directory of a project with these workloads."""

    def write(place, **workloads):
        root = tmp_path / place
        root.mkdir(parents=True, exist_ok=True)
        lines = ["[tool.slr-bench.workloads]", *(f'{name} = "{value}"' for name, value in workloads.items())]
        (root / "pyproject.toml").write_text("\n".join(lines) + "\n")
        return root

    return write


def test_nearest_file_with_a_table_is_the_project(write_project, tmp_path):
    outer, inner = write_project("outer", own="a:b"), write_project("outer/x/inner", own="c:d")
    (tmp_path / "outer" / "x" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    (inner / "grids").mkdir()
    assert find_project(inner / "grids").workloads == {"own": "c:d"}
    assert find_project(tmp_path / "outer" / "x").root == outer


def test_project_of_the_grid_precedes_that_of_the_working_directory(write_project, monkeypatch):
    near, far = write_project("near", own="near:spec"), write_project("far", own="far:spec", other="far:other")
    monkeypatch.chdir(far)
    (near / "grid.yml").write_text("workload: own\n")
    load_grid(near / "grid.yml")
    assert [project.root for project in projects()] == [near, far]
    names = [(one.name, one.value) for one in registrations()]
    assert names == [("own", "near:spec"), ("other", "far:other")]


def test_project_of_the_working_directory_is_used_without_a_grid(write_project, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.chdir(write_project("here", own="bench:spec"))
    assert [one.name for one in registrations()] == ["own"]


def test_project_file_hides_installed_names_and_duplicates_count_once(write_project, monkeypatch):
    root = write_project("here", own="bench:spec")
    points = [EntryPoint("own", value, GROUP) for value in ("bench:spec", "installed:spec")]
    points += [EntryPoint("twice", "installed:spec", GROUP)] * 2
    monkeypatch.setattr(workload, "entry_points", lambda group: points)
    use_projects_of(root)
    assert registrations()[:1] == [Registration("own", "bench:spec", find_project(root))]
    assert [(one.name, one.value) for one in registrations()[1:] if one.project is None] == [
        ("twice", "installed:spec")
    ]


def test_modules_of_the_project_can_be_imported_also_in_child_processes(write_project, tmp_path, monkeypatch):
    root = write_project("here", own="bench_of_a_project:spec")
    (root / "bench_of_a_project.py").write_text(BENCH)
    (root / "grid.yml").write_text("workload: own\n")
    monkeypatch.chdir(tmp_path)
    load_grid(root / "grid.yml")
    assert find_workload("own").packages == ("bench_of_a_project",)
    code = "import bench_of_a_project as bench; from slr_bench.grid.workload import find_workload as find; "
    code += "print(find('own').settings is bench.Settings)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")
    find_workload("own")
    assert sys.path.count(str(root)) == os.environ["PYTHONPATH"].split(os.pathsep).count(str(root)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.slr-bench.workloads]\nown = 3\n", r"\[tool\.slr-bench\]: workloads\.own: .*; got 3"),
        ("[tool.slr-bench.workloads]\nown = 'bench'\n", r"workloads\.own: .*; got 'bench'"),
        ("[tool.slr-bench.workload]\nown = 'a:b'\n", "unknown key 'workload'; did you mean 'workloads'?"),
        ("[tool.slr-bench\n", r"pyproject\.toml is not valid TOML: .*line 1.*; correct the file"),
        (b"\xff", r"cannot read .*pyproject\.toml: it is not text; check the file"),
    ],
)
def test_mistake_in_the_file_is_reported_in_one_line(tmp_path, text, message):
    (tmp_path / "pyproject.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        find_project(tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_module_is_reported_with_the_file_that_names_it(write_project):
    root = write_project("here", own="no_such_module:spec")
    use_projects_of(root)
    with pytest.raises(ConfigError, match=r"'own' does not load from no_such_module:spec: No module named .*named in"):
        find_workload("own")
    with pytest.raises(ConfigError, match=r"no workload 'owm' is registered; did you mean 'own'.*pyproject\.toml"):
        find_workload("owm")


def test_changed_file_is_read_again(write_project):
    root = write_project("here", own="a:b")
    assert find_project(root).workloads == {"own": "a:b"}
    write_project("here", own="c:d")
    os.utime(root / "pyproject.toml", ns=(1, 1))
    assert find_project(root).workloads == {"own": "c:d"}
