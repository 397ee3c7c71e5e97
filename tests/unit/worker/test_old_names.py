"""Older source trees find the names that they import from this package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from slr_bench.execute.job import OLD_NAMES_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
OLD_COMMIT = "55314e8"
STORED = Path(__file__).with_name("old_imports.json")
"""What the models and workloads of that commit import from this package, for clones without their history."""


def old_imports() -> dict[str, list[str]]:
    """The imports as the history has them, or else the stored list."""
    listed = git("ls-tree", "-r", "--name-only", OLD_COMMIT, "models", "benchmarks/workloads.py", "benchmarks/works.py")
    if listed is None:
        return json.loads(STORED.read_text())
    found: dict[str, set[str]] = {}
    for path in filter(lambda name: name.endswith(".py"), listed.splitlines()):
        for node in ast.walk(ast.parse(git("show", f"{OLD_COMMIT}:{path}"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "slr_bench":
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return {module: sorted(names) for module, names in sorted(found.items())}


def git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_everything_that_the_old_models_and_workloads_import_is_found_without_torch():
    imports = old_imports()
    assert len(imports["slr_bench.errors"]) > 5
    lines = [f"from {module} import {', '.join(names)}" for module, names in imports.items()]
    code = "\n".join(["from slr_bench.worker.old_names import install", "install()", *lines, "import sys"])
    done = python(f"{code}\nsys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_the_stored_list_is_that_of_the_history():
    assert json.loads(STORED.read_text()) == old_imports()


@pytest.mark.parametrize("needed", ["", "1"])
def test_the_old_names_exist_only_where_they_are_needed(monkeypatch, needed):
    monkeypatch.setenv(OLD_NAMES_VARIABLE, needed)
    done = python("import slr_bench.worker.main, slr_bench.errors; print('__getattr__' in vars(slr_bench.errors))")
    assert done.stdout.strip() == str(bool(needed)), done.stderr


def test_a_module_that_is_gone_is_made_anew_and_knows_its_old_names_alone():
    code = """
from slr_bench.worker.old_names import install
install({"slr_bench.grid.gone": {"Old": "slr_bench.record:Metric"}})
install({"slr_bench.units": {"old": "slr_bench.record:Record"}})
from slr_bench.grid.gone import Old
from slr_bench.units import format_bytes, old
from slr_bench.record import Metric, Record
assert (Old, old) == (Metric, Record)
from slr_bench.grid.gone import unknown
"""
    done = python(code)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: cannot import name 'unknown'")
