"""Source trees of two sides in a temporary directory, and what makes a process import from one of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import slr_bench
from slr_bench.errors import ConfigError
from slr_bench.run.revisions import git

WORKING_TREE: Final = "."
"""Names the working tree as it is: no revision can be called so."""


@dataclass(frozen=True)
class Revision:
    """What a side is to be made from."""

    name: str
    """As the user gave it."""
    commit: str
    """Of the working tree: the one it began from."""
    is_working_tree: bool = False

    def shown(self, top: Path) -> str:
        """``main (1a2b3c4d5)``, ``working tree (1a2b3c4d5 with changes)``."""
        short = self.commit[:9]
        if self.is_working_tree:
            return f"working tree ({short}{' with changes' if git.is_dirty(top) else ''})"
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


@dataclass(frozen=True)
class Tree:
    """One side's files."""

    name: str
    directory: Path
    content: str
    """Hash of all files in it."""
    top: Path
    """The repository's own working tree, whose place it takes."""
    harness: Path
    """A directory that holds nothing but this toolkit."""

    def moved(self, path: Path) -> Path:
        """This tree's own file where it has the one that ``path`` names in the repository; else the path itself."""
        inside = _below(path, self.top)
        own = self.directory / inside if inside is not None else None
        return own if own is not None and own.exists() else path

    def variables(self) -> Mapping[str, str]:
        """Environment of a process that imports this tree's packages, and the toolkit of this process: one harness
        measures both sides. What Python finds here inside the repository, it finds there inside the tree.
        """
        search = [Path(entry or os.curdir) for entry in sys.path]
        moved = [self.directory / inside for path in search if (inside := _below(path, self.top)) is not None]
        given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        outside = [Path(entry).absolute() for entry in given if _below(Path(entry), self.top) is None]
        places = [self.harness, *(path for path in moved if path.is_dir()), self.directory, *outside]
        # Without the safe path, `python -m` would put the user's directory before all of these.
        return {"PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys(places))), "PYTHONSAFEPATH": "1"}


def _below(path: Path, top: Path) -> Path | None:
    """A path relative to ``top``; None where it is not in it."""
    whole = path.resolve()
    return whole.relative_to(top) if whole.is_relative_to(top) else None


@contextmanager
def source_trees(top: Path, revisions: Sequence[Revision]) -> Iterator[tuple[list[Tree], Path]]:
    """The trees, and the directory they lie in; all of it is removed at the end, however that comes.

    Raises:
        ConfigError: git cannot check one out, or there is no room for it.
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
        harness = root / "harness"
        harness.mkdir()
        (harness / "slr_bench").symlink_to(Path(slr_bench.__file__).resolve().parent)
        yield [_tree(top, one, root / f"side-{number}", harness) for number, one in enumerate(revisions)], root


def _tree(top: Path, revision: Revision, directory: Path, harness: Path) -> Tree:
    shown = revision.shown(top)
    if revision.is_working_tree:
        content = git.copy_working_tree(top, directory)
    else:
        content = git.check_out(top, revision.commit, directory)
    return Tree(shown, directory, content, top, harness)
