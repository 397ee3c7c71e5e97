"""Calls git, as the only module that does. It never writes into the user's working tree, index or refs.

A revision is checked out through an index of its own, so that a kill cannot leave an entry of ``git worktree`` behind
and no hook runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from slr_bench.errors import ConfigError
from slr_bench.units import plain

_OF_A_HOOK = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})
"""Variables that git sets for hooks and aliases. Relative values would be wrong in another directory."""


def top_level(directory: Path) -> Path | None:
    """Return the working tree that holds a directory, or None without a repository or without git."""
    found = _git(directory, ["rev-parse", "--show-toplevel"])
    return Path(os.fsdecode(found.stdout.removesuffix(b"\n"))) if found and not found.returncode else None


def why_none(directory: Path) -> str:
    """Return git's message if `top_level` returns None: no repository, one of another owner, or no git."""
    found = _git(directory, ["rev-parse", "--show-toplevel"])
    lines = found.stderr.decode(errors="replace").splitlines() if found else ["there is no git"]
    return plain(lines[0] if lines else "nothing")


def commit_of(top: Path, name: str) -> str | None:
    """Return the commit that a revision names, or None if it names none."""
    arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    found = None if "\0" in name else _git(top, arguments)
    return found.stdout.decode().strip() if found and not found.returncode else None


def is_dirty(top: Path) -> bool:
    """Return whether tracked files differ from the last commit, or untracked files are not ignored."""
    found = _checked(top, ["status", "--porcelain"])
    return bool(found.strip())


def check_out(top: Path, commit: str, into: Path) -> str:
    """Write the files of a commit into a new directory; return the hash of their contents.

    Raises:
        ConfigError: git fails, for example because an object is missing or the disk is full.
    """
    into.mkdir()
    index = into.with_name(f"{into.name}.index")
    try:
        own_index = {"GIT_INDEX_FILE": str(index.resolve())}
        _checked(top, ["-c", "core.sparseCheckout=false", "read-tree", commit], own_index)
        _checked(top, ["checkout-index", "--all", f"--prefix={into.resolve()}/"], own_index)
    finally:
        index.unlink(missing_ok=True)
    return _checked(top, ["rev-parse", f"{commit}^{{tree}}"]).decode().strip()


def copy_working_tree(top: Path, into: Path) -> str:
    """Copy tracked and other files that git does not ignore; return the hash of their contents."""
    into.mkdir()
    listed = _checked(top, ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split(b"\0")
    digest = hashlib.sha256()
    for name in sorted({os.fsdecode(raw) for raw in listed if raw}):
        source, target = top / name, into / name
        if not source.is_symlink() and not source.is_file():  # deleted, or a submodule
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(source, target, follow_symlinks=False)
        except OSError as error:
            raise ConfigError(f"cannot copy {name} of the working tree: {error.strerror}; check the disk") from error
        digest.update(os.fsencode(name) + b"\0" + _content_hash(target))
    return digest.hexdigest()


def _content_hash(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(os.readlink(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _checked(top: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> bytes:
    done = _git(top, arguments, variables)
    if done is None or done.returncode:
        verb = next(word for word in arguments if not word.startswith("-") and "=" not in word)
        said = done.stderr.decode(errors="replace").strip().splitlines() if done else ["there is no git"]
        raise ConfigError(f"git {verb} failed: {plain(said[-1] if said else 'it said nothing')}; see git fsck")
    return done.stdout


def _git(
    directory: Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes] | None:
    # Without optional locks `git status` does not rewrite the user's index.
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(variables or {})}
    command = ["git", *arguments]
    try:
        return subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=False)
    except OSError:
        return None
