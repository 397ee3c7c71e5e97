"""Checks, before a command imports anything else, that this Python has the packages; and imports none itself.

A command that is started with another Python than the project's then prints one line with the cure.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from slr_bench.errors import EXIT_USAGE

LEAST_PYTHON = (3, 11)
BENCH = ("torch", "jinja2", "matplotlib", "pynvml", "psutil", "pydantic", "yaml", "rich", "typer")
"""Packages that slr-bench needs, by the name of their import."""
RECOGNISER = ("torchvision", "av", "PIL", "numpy")
"""Further packages that the recogniser needs."""
PROJECT = Path(__file__).resolve().parents[1]
_SCRIPTS = ("slr-bench", "train_efficient_model.py")


def is_command(arguments: Sequence[str]) -> bool:
    """Return whether the process was started as a command of this project. Python sets ``-m`` until a module is found.

    A notebook or a test that imports the packages is none: there an import error says what is missing.
    """
    return bool(arguments) and (arguments[0] == "-m" or os.path.basename(arguments[0]) in _SCRIPTS)


def require_packages(names: Sequence[str], has: Callable[[str], object] = find_spec) -> None:
    """Exit with code 2 and one line if a command was started with a Python that is too old or lacks packages."""
    if not is_command(sys.argv):
        return
    if sys.version_info < LEAST_PYTHON:
        found = f"is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 or newer is needed"
    else:
        missing = [name for name in names if not has(name)]
        if not missing:
            return
        found = f"has no {', '.join(missing)}"
    sys.stderr.write(f"error: {sys.executable} {found}; {cure(sys.orig_argv[1:], sys.prefix, PROJECT)}\n")
    raise SystemExit(EXIT_USAGE)


def cure(words: Sequence[str], prefix: str, project: Path) -> str:
    """Return what to do: start ``words`` with the project's own Python, made by ``make setup``, or install packages.

    ``prefix`` is the environment of this Python.
    """
    environment = project / ".venv"
    if not (project / "Makefile").exists() or Path(prefix).resolve() == environment.resolve():
        where = "." if (project / "Makefile").exists() else "slr-bench"
        return f"install them: {sys.executable} -m pip install '{where}[recogniser]'"
    own = os.path.relpath(environment / "bin" / "python")
    start = shlex.join([own, *words])
    return f"start it with {start}" if (environment / ".ready").exists() else f"run `make setup`, then {start}"
