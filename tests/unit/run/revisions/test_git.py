"""Checking revisions out: what is in them, and that nothing of the user's is touched."""

from __future__ import annotations

import os

import pytest
from toy_repository import ToyRepository

from slr_bench.errors import ConfigError
from slr_bench.run.revisions import git


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two commits and a tree that differs from both: staged, changed, deleted, new, and ignored files."""
    made = ToyRepository(tmp_path_factory.mktemp("git") / "répo sitory")
    os.symlink("toy/spec.py", made.top / "link")
    made.write("run.sh", "#!/bin/sh\n")
    (made.top / "run.sh").chmod(0o755)
    made.commit("v1")
    made.figures(MORE=5)
    made.commit("v2")
    made.figures(MORE=7)
    made.write("staged.py", "1")
    made.git("add", "staged.py")
    made.write("new ünicode\n.py", "2")
    made.write("ignored/data.bin", "3")
    (made.top / "grid.yml").unlink()
    return made


def test_a_checkout_is_the_commit_and_leaves_no_trace(repository, tmp_path):
    before = repository.state()
    hashes = []
    for number, tag in enumerate(("v1", "v2", "v1")):
        into = tmp_path / f"side-{number}"
        commit = git.commit_of(repository.top, tag)
        hashes.append(git.check_out(repository.top, commit, into))
        listed = repository.git("-c", "core.quotePath=off", "ls-tree", "-r", "--name-only", tag).splitlines()
        found = {str(path.relative_to(into)) for path in into.rglob("*") if path.is_symlink() or path.is_file()}
        assert found == set(listed)
        assert (into / "toy/figures.py").read_text() == repository.git("show", f"{tag}:toy/figures.py") + "\n"
        assert os.readlink(into / "link") == "toy/spec.py"
        assert os.access(into / "run.sh", os.X_OK)
    assert hashes[0] == hashes[2] != hashes[1]
    assert repository.state() == before
    assert repository.git("worktree", "list").count("\n") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"side-0", "side-1", "side-2"}


def test_the_working_tree_is_copied_as_it_is_without_what_is_ignored(repository, tmp_path):
    before = repository.state()
    first = git.copy_working_tree(repository.top, tmp_path / "a")
    assert repository.state() == before
    found = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if not path.is_dir()}
    assert {"staged.py", "new ünicode\n.py", "link", "run.sh"} <= found
    assert not {"grid.yml", "ignored/data.bin"} & found
    assert "MORE = 7" in (tmp_path / "a" / "toy/figures.py").read_text()
    assert git.copy_working_tree(repository.top, tmp_path / "b") == first
    (repository.top / "staged.py").write_text("changed")
    assert git.copy_working_tree(repository.top, tmp_path / "c") != first


def test_names_of_revisions(repository):
    head = repository.git("rev-parse", "HEAD")
    for name in ("HEAD", "main", "v2", head, head[:8], "v2^{}", "HEAD~0"):
        assert git.commit_of(repository.top, name) == head
    assert git.commit_of(repository.top, "HEAD~1") == repository.git("rev-parse", "v1")
    for name in ("", "nowhere", "HEAD~9", "--help", "-x", "v2:toy", "a b", "v2\0", "0" * 40, "."):
        assert git.commit_of(repository.top, name) is None


def test_dirty_tree_is_detected_without_writing_the_index(repository):
    os.utime(repository.top / "run.sh", (1, 1))  # `git status` would refresh the index for it
    before = (repository.top / ".git/index").read_bytes()
    assert git.is_dirty(repository.top)
    assert (repository.top / ".git/index").read_bytes() == before


def test_variables_of_a_hook_are_ignored(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/index.lock")
    assert git.top_level(repository.top / "toy") == repository.top
    assert git.is_dirty(repository.top)


def test_outside_a_repository_and_without_git_there_is_none(tmp_path, monkeypatch, repository):
    assert git.top_level(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.top_level(repository.top) is None


def test_message_of_git_is_reported_in_one_line(repository, tmp_path):
    with pytest.raises(ConfigError, match=r"^git read-tree failed: fatal: .*; see git fsck$"):
        git.check_out(repository.top, "0" * 40, tmp_path / "x")
