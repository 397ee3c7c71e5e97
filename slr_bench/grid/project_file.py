"""Finds the workloads that projects name in their own ``pyproject.toml``.

A project that does so need not be installed:

    [tool.slr-bench.workloads]
    train_step = "my_package.bench:train_step"

The file is searched from the directory of the grid file upwards, then from the working directory upwards. As with
pytest, the directory of the file goes on the import path, here and in the child processes.
"""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

from slr_bench.errors import ConfigError
from slr_bench.files import why_unreadable
from slr_bench.grid.yaml_files import validate

VARIABLE: Final = "SLR_BENCH_PROJECTS"
"""Environment variable: directories of the project files, nearest first, separated as in ``PYTHONPATH``."""
_NAME: Final = "pyproject.toml"


class _Table(BaseModel):
    """``[tool.slr-bench]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workloads: dict[str, Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")]] = {}


@dataclass(frozen=True)
class Project:
    """The directory of a ``pyproject.toml``, and the workloads that it names."""

    root: Path
    workloads: dict[str, str]
    """Name -> ``module:spec``."""

    def go_on_import_path(self) -> None:
        """Let this process and its children import the project's modules."""
        root = str(self.root)
        if root not in (os.path.realpath(entry or os.curdir) for entry in sys.path):
            sys.path.insert(0, root)
        inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        if root not in map(os.path.realpath, inherited):
            os.environ["PYTHONPATH"] = os.pathsep.join([root, *inherited])


def use_projects_of(directory: Path) -> None:
    """Make the workloads of the projects around a grid file and the working directory known, also to child processes.

    Raises:
        ConfigError: A project file cannot be read.
    """
    nearest = [find_project(directory), find_project(Path.cwd())]
    roots = [str(project.root) for project in nearest if project is not None]
    if roots:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*roots, *_listed_roots()]))


def projects() -> list[Project]:
    """Return the projects whose workloads can be measured, nearest first.

    An empty variable means none: a child that measures another source tree finds its workloads in that tree alone.

    Raises:
        ConfigError: A project file cannot be read.
    """
    if os.environ.get(VARIABLE) == "":
        return []
    found = [find_project(root) for root in (*map(Path, _listed_roots()), Path.cwd())]
    return list({project.root: project for project in found if project is not None}.values())


def _listed_roots() -> list[str]:
    return [root for root in os.environ.get(VARIABLE, "").split(os.pathsep) if root]


def find_project(directory: Path) -> Project | None:
    """Return the nearest project, from a directory upwards, that has a ``[tool.slr-bench]`` table.

    Raises:
        ConfigError: A project file cannot be read.
    """
    directory = directory.resolve()
    for root in (directory, *directory.parents):
        path = root / _NAME
        if path.is_file() and (project := _read(path, path.stat().st_mtime_ns)) is not None:
            return project
    return None


@lru_cache
def _read(path: Path, modified_ns: int) -> Project | None:
    """Read a project file; None if it lacks the table. ``modified_ns`` keeps the cache from hiding changes."""
    try:
        values: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {why_unreadable(error)}; check the file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct the file") from error
    table = values.get("tool", {}).get("slr-bench")
    if table is None:
        return None
    workloads = validate(_Table, table, f"{path}: [tool.slr-bench]").workloads
    return Project(path.parent, workloads)
