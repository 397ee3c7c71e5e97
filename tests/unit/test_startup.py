"""A command that is started with the wrong Python prints one line with the cure, and nothing is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slr_bench.startup import PROJECT, cure, is_command_of, require_packages

BARE = [sys.executable, "-S"]
"""This Python without its packages, as a Python outside the environment would be."""


@pytest.mark.parametrize(
    "words",
    [
        ["train_efficient_model.py", "--data-dir", "my data"],
        ["-m", "models.evaluate", "--checkpoint", "c.pt"],
        ["-m", "models.data.wlasl", "check", "d"],
        ["-m", "slr_bench", "run", "grid.yml"],
        ["-m", "benchmarks.proofs.accuracy_pairs", "d"],
    ],
)
def test_command_without_packages_prints_one_line(words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run([*BARE, *words], cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} has no torch, ")


@pytest.mark.parametrize(
    ("arguments", "words", "package"),
    [
        (["-m", "--split", "val"], ["python", "-m", "models.evaluate", "--split", "val"], "models"),
        (["-m"], ["python", "-X", "dev", "-m", "slr_bench"], "slr_bench"),
        (["-m"], ["python", "-m", "benchmarks.proofs.byte_gate"], "benchmarks"),
        (["-m"], ["python", "-m", "pytest"], None),
        (["/usr/local/bin/slr-bench", "run"], ["python", "/usr/local/bin/slr-bench", "run"], "slr_bench"),
        (["../train_efficient_model.py"], ["python", "-m", "memory_profiler", "../train_efficient_model.py"], "models"),
        (["-c"], ["python", "-c", "import models"], None),
        (["notebook.py"], ["python", "notebook.py"], None),
        ([], [], None),
    ],
)
def test_only_a_command_of_the_package_is_checked(arguments, words, package):
    """A command of the bench imports workloads without an end to the process if the recogniser's packages lack."""
    packages = ("slr_bench", "models", "benchmarks")
    found = [name for name in packages if is_command_of(name, arguments, words)]
    assert found == ([package] if package else [])


def test_missing_packages_are_named_and_present_ones_are_not(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slr-bench", "run"])
    with pytest.raises(SystemExit) as end:
        require_packages("slr_bench", ("torch", "av", "yaml"), has=lambda name: name == "yaml")
    assert end.value.code == 2
    assert " has no torch, av; " in capsys.readouterr().err
    require_packages("slr_bench", ("torch",), has=lambda name: True)
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    require_packages("slr_bench", ("torch",), has=lambda name: False)
    assert capsys.readouterr().err == ""


def test_old_python_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slr-bench"])
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit):
        require_packages("slr_bench", ("torch",), has=lambda name: True)
    assert " is Python 3.9, and 3.11 or newer is needed; " in capsys.readouterr().err


def test_cure_is_the_projects_own_python_once_it_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Makefile").write_text("")
    words = ["train_efficient_model.py", "--data-dir", "my data"]
    start = ".venv/bin/python train_efficient_model.py --data-dir 'my data'"
    assert cure(words, "/usr", tmp_path) == f"run `make setup`, then {start}"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").write_text("")
    assert cure(words, "/usr", tmp_path) == f"start it with {start}"
    assert cure(words, str(tmp_path / ".venv"), tmp_path).endswith("-m pip install '.[recogniser]'")
    assert cure(words, "/usr", Path("/usr/lib/python3/site-packages")).endswith("pip install 'slr-bench[recogniser]'")


@pytest.mark.parametrize("module", ["models.streaming", "models.evaluate", "models.data.wlasl"])
def test_ctrl_c_while_a_command_is_importing_prints_one_line(module):
    """Pydantic is one of the first packages that every command imports."""
    code = (
        "import builtins, runpy, sys\nown = builtins.__import__\n"
        "def load(name, *rest, **more):\n"
        "    if name == 'pydantic': raise KeyboardInterrupt\n"
        "    return own(name, *rest, **more)\n"
        f"builtins.__import__, sys.argv, sys.orig_argv = load, ['-m'], ['python', '-m', '{module}']\n"
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (done.stdout, done.stderr) == ("", "error: interrupted; nothing was written\n")
