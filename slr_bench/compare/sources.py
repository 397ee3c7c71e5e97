"""What BASE and HEAD name: two run directories, one directory with two sides, or two revisions of the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slr_bench.errors import ConfigError, NoBaselineError
from slr_bench.run.revisions import git
from slr_bench.run.revisions.checkouts import WORKING_TREE, Revision
from slr_bench.units import plain


@dataclass(frozen=True)
class RunDirectories:
    """Two that were measured before."""

    base: Path
    head: Path


@dataclass(frozen=True)
class TwoSides:
    """One that has both sides."""

    directory: Path


@dataclass(frozen=True)
class RevisionPair:
    """Two sources that are to be measured."""

    top: Path
    base: Revision
    head: Revision


def find_sources(base: str, head: str | None, working_directory: Path) -> RunDirectories | TwoSides | RevisionPair:
    """A directory with a ``grid.json``, or one that is no revision's name, is a run directory; ``.`` is the working
    tree. ``head`` None: side b of the directory, or the working tree.

    Raises:
        ConfigError: one of each kind, or a head that is nothing.
        NoBaselineError: a base that is nothing.
    """
    top = git.top_level(working_directory)
    found = None if _has_grid(base) else _revision(base, top)
    if found is None and not _is_directory(base):
        raise NoBaselineError(
            f"base {plain(base)!r} is neither a run directory nor a revision{_cure(top, working_directory)}"
        )
    if head is None and found is None:
        return TwoSides(Path(base))
    head = head or WORKING_TREE
    other = None if _has_grid(head) else _revision(head, top)
    if found is None:
        if other is not None:
            raise ConfigError(f"{base} is a run directory and {head} a revision; name two of a kind")
        return RunDirectories(Path(base), Path(head))
    if other is None:
        if _is_directory(head):
            raise ConfigError(f"{base} is a revision and {head} a run directory; name two of a kind")
        raise ConfigError(
            f"head {plain(head)!r} is neither a run directory nor a revision{_cure(top, working_directory)}"
        )
    assert top is not None
    return RevisionPair(top, found, other)


def _has_grid(name: str) -> bool:
    return _is_directory(name) and (Path(name) / "grid.json").exists()


def _is_directory(name: str) -> bool:
    return "\0" not in name and Path(name).is_dir()


def _revision(name: str, top: Path | None) -> Revision | None:
    is_tree = name == WORKING_TREE
    commit = git.commit_of(top, "HEAD" if is_tree else name) if top else None
    return Revision(name, commit, is_tree) if commit else None


def _cure(top: Path | None, working_directory: Path) -> str:
    if top is None:
        return f", and here is no git repository ({git.why_none(working_directory)}); check the path"
    return (
        " of this repository; check the path, fetch it (a shallow clone has few), "
        f"or give {WORKING_TREE} for the working tree"
    )
