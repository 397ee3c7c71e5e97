"""Checks out the source trees of two sides, and gives the variables with which a process imports from one of them."""

from __future__ import annotations

import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import slr_bench
from slr_bench.errors import ConfigError
from slr_bench.execute.job import OLD_NAMES_VARIABLE
from slr_bench.grid import project_file
from slr_bench.grid.workload import GROUP
from slr_bench.run.revisions import git

WORKING_TREE: Final = "."
"""The name of the working tree as it is; no revision can have it."""


@dataclass(frozen=True)
class Revision:
    """The version of the repository that one side measures."""

    name: str
    """The name that the user gave."""
    commit: str
    """The commit; that of the working tree is the one it is based on."""
    is_working_tree: bool = False

    def display_name(self, top: Path) -> str:
        """Return ``main (1a2b3c4d5)`` or ``working tree (1a2b3c4d5 with changes)``."""
        short = self.commit[:9]
        if self.is_working_tree:
            return f"working tree ({short}{' with changes' if git.is_dirty(top) else ''})"
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


@dataclass(frozen=True)
class Tree:
    """The files of one side."""

    name: str
    directory: Path
    content: str
    """Hash of all files in the directory."""
    top: Path
    """The working tree of the repository, in whose place this one is used."""
    harness: Path
    """A directory that holds this package, and the entry points of this tree's workloads."""

    def moved(self, path: Path) -> Path:
        """Return this tree's own version of a file of the repository, or the path itself if the tree has none."""
        inside = _relative_to_top(path, self.top)
        own = self.directory / inside if inside is not None else None
        return own if own is not None and own.exists() else path

    def variables(self) -> Mapping[str, str]:
        """Return the environment of a process that imports this tree's packages and this process's slr_bench.

        So one harness measures both sides. What Python finds here inside the repository, it finds there in the tree.
        """
        search = [Path(entry or os.curdir) for entry in sys.path]
        moved = [self.directory / inside for path in search if (inside := _relative_to_top(path, self.top)) is not None]
        given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        outside = [Path(entry).absolute() for entry in given if _relative_to_top(Path(entry), self.top) is None]
        places = [self.harness, *(path for path in moved if path.is_dir()), self.directory, *outside]
        # Without the safe path, `python -m` would put the user's directory before all of these.
        search_path = os.pathsep.join(map(str, dict.fromkeys(places)))
        return {"PYTHONPATH": search_path, "PYTHONSAFEPATH": "1", OLD_NAMES_VARIABLE: "1", project_file.VARIABLE: ""}


def _relative_to_top(path: Path, top: Path) -> Path | None:
    """Return a path relative to ``top``, or None if it lies elsewhere."""
    whole = path.resolve()
    return whole.relative_to(top) if whole.is_relative_to(top) else None


@contextmanager
def source_trees(top: Path, revisions: Sequence[Revision]) -> Iterator[tuple[list[Tree], Path]]:
    """Give the trees and their common directory, which is removed at the end in any case.

    Raises:
        ConfigError: git cannot check out a tree, or there is no room for it.
    """
    top = top.resolve()
    try:
        place = tempfile.TemporaryDirectory(prefix="slr-bench-", ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make a temporary directory: {error.strerror}; set TMPDIR to one with room"
        ) from error
    with place as name:
        root = Path(name).resolve()
        yield [_tree(top, one, root / f"side-{number}") for number, one in enumerate(revisions)], root


def _tree(top: Path, revision: Revision, directory: Path) -> Tree:
    name = revision.display_name(top)
    if revision.is_working_tree:
        content = git.copy_working_tree(top, directory)
    else:
        content = git.check_out(top, revision.commit, directory)
    harness = directory.with_name(f"{directory.name}-harness")
    harness.mkdir()
    (harness / "slr_bench").symlink_to(Path(slr_bench.__file__).resolve().parent)
    _register_workloads(directory / "pyproject.toml", harness / "measured_tree-0.dist-info")
    return Tree(name, directory, content, top, harness)


def _register_workloads(project: Path, registry: Path) -> None:
    """Make entry points of the workloads that the tree's own project file names, now or in older versions."""
    try:
        values: Any = tomllib.loads(project.read_text())
    except (OSError, ValueError):
        return
    workloads: dict[str, str] = {}
    for keys in (("project", "entry-points", GROUP), ("tool", "slr-bench", "workloads")):
        found = values
        for key in keys:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        workloads |= found if isinstance(found, dict) else {}
    registry.mkdir()
    (registry / "METADATA").write_text("Metadata-Version: 2.1\nName: measured-tree\nVersion: 0\n")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in workloads.items())]
    (registry / "entry_points.txt").write_text("\n".join(lines) + "\n")
