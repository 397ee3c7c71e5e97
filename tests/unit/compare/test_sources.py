"""What BASE and HEAD may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from side_runs import filled, side_run
from toy_repository import ToyRepository

from slr_bench.compare.sources import RevisionPair, RunDirectories, TwoSides, find_sources
from slr_bench.errors import ConfigError, NoBaselineError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = ToyRepository(tmp_path_factory.mktemp("sources") / "top")
    made.commit("v1")
    filled(side_run(made.top / "ignored/run")).write()
    filled(side_run(made.top / "v2")).write()
    made.git("tag", "v2")
    (made.top / "main").mkdir()
    (made.top / "ignored/empty").mkdir()
    return made.top


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_directories_with_runs_and_revisions(place):
    run = Path("ignored/run")
    assert find_sources("ignored/run", "ignored/run", place) == RunDirectories(run, run)
    assert find_sources("ignored/run", None, place) == TwoSides(run)
    pair = find_sources("v1", "HEAD", place)
    assert isinstance(pair, RevisionPair)
    assert (pair.top, pair.base.name, pair.head.name, pair.base.commit) == (place, "v1", "HEAD", pair.head.commit)


def test_a_name_that_is_both_is_what_it_holds(place):
    assert isinstance(find_sources("v2", "v2", place), RunDirectories)  # a directory of runs, and a tag
    assert isinstance(find_sources("main", "main", place), RevisionPair)  # a directory of nothing, and a branch


def test_a_point_is_the_working_tree_and_so_is_no_head(place, monkeypatch):
    for head in (".", None):
        pair = find_sources("v1", head, place)
        assert pair.head.is_working_tree
        assert not pair.base.is_working_tree
    monkeypatch.chdir(place / "ignored/run")
    assert find_sources(".", ".", Path.cwd()) == RunDirectories(Path("."), Path("."))


def test_a_directory_that_is_no_revision_is_taken_for_runs_and_told_later(place):
    assert find_sources("ignored/empty", "ignored/none", place) == RunDirectories(
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
def test_what_is_neither_or_mixed_is_told(place, base, head, error, words):
    with pytest.raises(error) as refused:
        find_sources(base, head, place)
    assert words in str(refused.value)


def test_without_a_repository_revisions_are_nothing(tmp_path):
    with pytest.raises(
        NoBaselineError, match=r"this is no git repository \(fatal: not a git repository.*\); check the path"
    ):
        find_sources("v1", "v2-of-nothing", tmp_path)
