"""Trees of two sides: where a process finds its imports, and what is left in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_repository import ToyRepository

import slr_bench
from slr_bench.errors import ConfigError
from slr_bench.run.revisions import git
from slr_bench.run.revisions.checkouts import Revision, source_trees


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    made = ToyRepository(tmp_path_factory.mktemp("trees") / "top")
    made.write("slr_bench/__init__.py", "raise AssertionError('the tree has a harness of its own')")
    made.write("sub/own.py", "")
    made.commit("v1")
    made.figures(MORE=5)
    return made


def revisions(repository):
    commit = git.commit_of(repository.top, "v1")
    return [Revision("v1", commit), Revision(".", commit, is_working_tree=True)]


def test_each_side_imports_its_own_packages_and_both_the_same_harness(repository, monkeypatch):
    monkeypatch.chdir(repository.top)
    monkeypatch.setattr(sys, "path", ["", str(repository.top / "sub"), *sys.path])
    code = (
        "import slr_bench.worker.main, toy.figures, own, sys; "
        "print(slr_bench.__file__, toy.figures.MORE, toy.figures.__file__, own.__file__, sep='\\n')"
    )
    with source_trees(repository.top, revisions(repository)) as (trees, root):
        for tree, more in zip(trees, ("0", "5"), strict=True):
            command = [sys.executable, "-c", code]  # as -m does, it would put the user's directory first
            done = subprocess.run(command, env={**os.environ, **tree.variables()}, capture_output=True, text=True)
            harness, found, *files = done.stdout.splitlines()
            assert Path(harness).resolve() == Path(slr_bench.__file__).resolve()
            assert found == more
            assert all(Path(file).is_relative_to(tree.directory) for file in files)
    assert not root.exists()


def test_name_of_a_side_contains_its_commit(repository):
    with source_trees(repository.top, revisions(repository)) as (trees, _):
        short = git.commit_of(repository.top, "v1")[:9]
        assert [tree.name for tree in trees] == [f"v1 ({short})", f"working tree ({short} with changes)"]
    assert Revision(short, git.commit_of(repository.top, "v1")).display_name(repository.top) == short


def test_file_of_the_repository_is_replaced_by_that_of_the_tree(repository, tmp_path):
    (tmp_path / "mine.yml").write_text("")
    repository.write("ignored/here.yml", "")
    with source_trees(repository.top, revisions(repository)[:1]) as ([tree], _):
        assert tree.moved(repository.top / "toy/../grid.yml") == tree.directory / "grid.yml"
        for other in (tmp_path / "mine.yml", repository.top / "ignored/here.yml"):
            assert tree.moved(other) == other


def test_trees_are_removed_after_an_interruption(repository):
    with pytest.raises(KeyboardInterrupt), source_trees(repository.top, revisions(repository)) as (_, root):
        raise KeyboardInterrupt
    assert not root.exists()


def test_missing_temporary_directory_is_reported(repository, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"cannot make a temporary directory: .*; set TMPDIR to one with room"):
        source_trees(repository.top, []).__enter__()


@pytest.mark.parametrize("table", ['[project.entry-points."slr_bench.workloads"]', "[tool.slr-bench.workloads]"])
def test_workloads_of_a_tree_are_those_that_its_own_project_file_names(repository, table):
    """A process of the tree finds them, whether or not this environment registers any."""
    repository.write("pyproject.toml", f'{table}\nmine = "toy.spec:toy"\n')
    code = (
        "from importlib.metadata import entry_points; from slr_bench.grid.workload import GROUP; "
        "(point,) = entry_points(group=GROUP, name='mine'); print(point.load().name)"
    )
    with source_trees(repository.top, revisions(repository)) as (trees, _):
        outputs = []
        for tree in trees:
            environment = {**os.environ, **tree.variables()}
            done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
            outputs.append((done.returncode, done.stdout.splitlines()[-1:]))
        assert outputs == [(1, []), (0, ["toy"])]  # the first commit has no project file
    (repository.top / "pyproject.toml").unlink()
