"""Names that BASE and HEAD accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from side_runs import filled, side_run
from toy_repository import ToyRepository

from slr_bench.compare.sources import RevisionPair, RunDirectories, TwoSides, find_sources
from slr_bench.errors import ConfigError, NoBaselineError


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    repository = ToyRepository(tmp_path_factory.mktemp("sources") / "top")
    repository.commit("v1")
    filled(side_run(repository.top / "ignored/run")).write()
    filled(side_run(repository.top / "v2")).write()
    repository.git("tag", "v2")
    (repository.top / "main").mkdir()
    (repository.top / "ignored/empty").mkdir()
    return repository.top


@pytest.fixture(autouse=True)
def _there(repository, monkeypatch):
    monkeypatch.chdir(repository)


def test_run_directories_and_revisions_are_distinguished(repository):
    run = Path("ignored/run")
    assert find_sources("ignored/run", "ignored/run", repository) == RunDirectories(run, run)
    assert find_sources("ignored/run", None, repository) == TwoSides(run)
    pair = find_sources("v1", "HEAD", repository)
    assert isinstance(pair, RevisionPair)
    assert (pair.top, pair.base.name, pair.head.name, pair.base.commit) == (repository, "v1", "HEAD", pair.head.commit)


def test_a_directory_with_the_name_of_a_revision_is_judged_by_its_content(repository):
    assert isinstance(find_sources("v2", "v2", repository), RunDirectories)  # a directory of runs, and a tag
    assert isinstance(find_sources("main", "main", repository), RevisionPair)  # a directory of nothing, and a branch


def test_a_dot_and_a_missing_head_name_the_working_tree(repository, monkeypatch):
    for head in (".", None):
        pair = find_sources("v1", head, repository)
        assert pair.head.is_working_tree
        assert not pair.base.is_working_tree
    monkeypatch.chdir(repository / "ignored/run")
    assert find_sources(".", ".", Path.cwd()) == RunDirectories(Path("."), Path("."))


def test_a_directory_that_is_no_revision_is_taken_as_a_run_directory(repository):
    assert find_sources("ignored/empty", "ignored/none", repository) == RunDirectories(
        Path("ignored/empty"), Path("ignored/none")
    )


@pytest.mark.parametrize(
    ("base", "head", "error", "words"),
    [
        ("nowhere", "v1", NoBaselineError, "base 'nowhere' is neither a run directory nor a revision of this repo"),
        ("v1", "nowhere", ConfigError, "head 'nowhere' is neither a run directory nor a revision of this repo"),
        (
            "ignored/run",
            "v1",
            ConfigError,
            "ignored/run is a run directory and v1 is a revision; name two of the same kind",
        ),
        ("v1", "ignored/run", ConfigError, "v1 is a revision and ignored/run is a run directory"),
        ("v1", "ignored/empty", ConfigError, "v1 is a revision and ignored/empty is a run directory"),
        ("\0", "v1", NoBaselineError, "neither"),
    ],
)
def test_unknown_names_and_mixed_kinds_are_refused(repository, base, head, error, words):
    with pytest.raises(error) as refused:
        find_sources(base, head, repository)
    assert words in str(refused.value)


def test_revisions_are_refused_outside_a_repository(tmp_path):
    with pytest.raises(
        NoBaselineError, match=r"this is no git repository \(fatal: not a git repository.*\); check the path"
    ):
        find_sources("v1", "v2-of-nothing", tmp_path)
