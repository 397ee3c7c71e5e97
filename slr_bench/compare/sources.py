"""Find out what BASE and HEAD name: two run directories, one directory with two sides, or two revisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slr_bench.errors import ConfigError, NoBaselineError
from slr_bench.run.revisions import git
from slr_bench.run.revisions.checkouts import WORKING_TREE, Revision
from slr_bench.units import plain


@dataclass(frozen=True)
class RunDirectories:
    """Two run directories that exist already."""

    base: Path
    head: Path


@dataclass(frozen=True)
class TwoSides:
    """One run directory that has both sides."""

    directory: Path


@dataclass(frozen=True)
class RevisionPair:
    """Two revisions of the source that have to be measured."""

    top: Path
    base: Revision
    head: Revision


def find_sources(base: str, head: str | None, working_directory: Path) -> RunDirectories | TwoSides | RevisionPair:
    """Find out what the two arguments of ``compare`` and ``gate`` name.

    A directory is a run directory if it has a ``grid.json``, or if no revision has its name. ``.`` is the working tree.
    Without ``head``, it is side b of the directory, or the working tree.

    Raises:
        ConfigError: one of each kind, or the head is neither.
        NoBaselineError: the base is neither.
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
            raise ConfigError(f"{base} is a run directory and {head} is a revision; name two of the same kind")
        return RunDirectories(Path(base), Path(head))
    if other is None:
        if _is_directory(head):
            raise ConfigError(f"{base} is a revision and {head} is a run directory; name two of the same kind")
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
        return f", and this is no git repository ({git.why_none(working_directory)}); check the path"
    return (
        " of this repository; check the path, fetch the revision (a shallow clone has few), "
        f"or use {WORKING_TREE} for the working tree"
    )
