"""The house stands: imports go down, heavy libraries stay in the rooms that need them."""

import ast
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from slr_bench.grid.project_file import find_project

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    "units",
    "errors",
    "startup",
    "record",
    "files",
    "oom",
    "untraced",
    "untraced_formulas",
    "live_bytes",
    "grid",
    "probes",
    "trace",
    "execute",
    "worker",
    "run",
    "predict",
    "compare",
    "report",
    "options",
    "results",
    "api",
    "doctor",
    "pytest_plugin",
    "cli",
]
"""From the ground up: a room may import from those before it."""


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Dotted names of everything a module imports: at its top, in functions, and only for type checking."""
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(path: Path) -> set[str]:
    """Rooms of ``slr_bench`` that a module imports from."""
    return {parts[1] for name in imports_of(path) if (parts := name.split("."))[0] == "slr_bench" and len(parts) > 1}


def loaded_after(code: str) -> set[str]:
    """Modules in a fresh interpreter after ``code``."""
    command = [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"]
    return set(json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout))


def test_the_walk_sees_lazy_relative_and_type_checking_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "slr_bench" / "grid" / "cells.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import slr_bench.cli\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from slr_bench.run.store import Store\n"
        "def f():\n    from ..report import html\n    from . import config\n    from slr_bench import predict\n"
    )
    assert rooms_of(path) == {"cli", "run", "report", "grid", "predict"}


@pytest.mark.parametrize("path", sources("slr_bench"), ids=module_name)
def test_imports_go_strictly_down(path):
    parts = module_name(path).split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        assert rooms_of(path) <= {"cli", "startup"}
        return
    own = FLOORS.index(parts[1])
    above = {room for room in rooms_of(path) if room != parts[1] and FLOORS.index(room) >= own}
    assert not above, f"{module_name(path)} imports from {above}, above {parts[1]}"


def test_every_room_has_a_floor():
    rooms = {module_name(path).split(".")[1] for path in sources("slr_bench") if path.parent != ROOT / "slr_bench"}
    assert rooms <= {*FLOORS}


@pytest.mark.parametrize("path", sources("slr_bench"), ids=module_name)
def test_the_bench_knows_neither_models_nor_benchmarks(path):
    assert not {name.partition(".")[0] for name in imports_of(path)} & {"models", "benchmarks", "tests"}


@pytest.mark.parametrize("path", sources("models"), ids=module_name)
def test_models_import_only_ground_rooms_and_probes(path):
    """And of grid the one module that reads YAML files."""
    names = {name for name in imports_of(path) if not name.startswith("slr_bench.grid.yaml_files")}
    rooms = {parts[1] for name in names if (parts := name.split("."))[0] == "slr_bench" and len(parts) > 1}
    assert rooms <= {"units", "errors", "startup", "record", "files", "oom", "live_bytes", "probes"}
    assert "benchmarks" not in {name.partition(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize(
    ("library", "home"), [("pynvml", "slr_bench.probes.nvml"), ("psutil", "slr_bench.probes.host")]
)
def test_one_module_knows_a_vendors_library(library, home):
    users = {
        module_name(path)
        for path in sources("slr_bench", "models", "benchmarks")
        if library in {name.partition(".")[0] for name in imports_of(path)}
    }
    assert users == {home}


def test_the_runner_reaches_the_worker_only_as_a_process():
    loaded = loaded_after("import slr_bench.run.runner, slr_bench.report.views.run_progress")
    assert "slr_bench.execute.local" in loaded
    assert not loaded & {"slr_bench.worker.main", "slr_bench.worker.measure", "torch", "pynvml"}
    named = {name for path in sources("slr_bench/run", "slr_bench/execute") for name in imports_of(path)}
    named = {
        name for name in named if not name.startswith("slr_bench.worker.old_names")
    }  # a table, no part of the child
    assert not [name for name in named if name.startswith(("slr_bench.worker", "torch"))]


PARENTS = ("grid", "execute", "run", "compare", "report", "cli")


@pytest.mark.parametrize("room", PARENTS)
def test_rooms_of_the_parent_never_import_torch(room):
    modules = [module_name(path) for path in sources(f"slr_bench/{room}")]
    loaded = loaded_after("\n".join(f"import {name}" for name in modules if not name.endswith("__main__")))
    assert set(modules) <= loaded
    assert "torch" not in loaded


def test_the_python_interface_does_not_import_torch_at_once():
    modules = [name for name in ("slr_bench", "slr_bench.api") if (ROOT / name.replace(".", "/")).exists()]
    assert modules
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in modules))


def test_no_package_and_no_workload_spec_imports_torch():
    packages = [
        module_name(path) for path in sources("slr_bench", "models", "benchmarks") if path.name == "__init__.py"
    ]
    project = find_project(ROOT)
    assert project is not None
    specs = {value.partition(":")[0] for value in project.workloads.values()}
    assert specs == {"benchmarks.workloads"}
    loaded = loaded_after("\n".join(f"import {name}" for name in [*packages, *specs, "models.config"]))
    assert {*packages, *specs} <= loaded
    assert "torch" not in loaded


def test_no_pytest_plugin_imports_torch():
    """What pytest loads before the first test."""
    plugins = {point.value.partition(":")[0] for point in entry_points(group="pytest11")}
    plugins.add("slr_bench.pytest_plugin.plugin")  # also where the installed list is older than it
    loaded = loaded_after("\n".join(f"import {name}" for name in sorted(plugins)))
    assert plugins <= loaded
    assert "torch" not in loaded
