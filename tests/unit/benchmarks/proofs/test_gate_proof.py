"""The proof of the gate: its commits still apply, its rule on recorded times, its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from side_runs import filled, side_run

from benchmarks.proofs.gate_proof import COMMITS, RECORDED, ROOT, make_repository, pair_by_pair, resampled
from benchmarks.proofs.gate_text import page, verdicts
from slr_bench.run.revisions import git

CURATED = ROOT / "reports" / "gate_cpu_2026-11-24"


@pytest.mark.parametrize("tag", COMMITS)
def test_every_commit_still_finds_what_it_changes(tag):
    name, before, _ = COMMITS[tag]
    assert (ROOT / name).read_text().count(before) == 1 or not before


@pytest.mark.skipif(git.top_level(ROOT) is None, reason="the project's own files are listed by git")
def test_the_same_files_make_the_same_commits(tmp_path):
    """With these the same command goes on."""
    tops = [tmp_path / "first", tmp_path / "second"]
    for top in tops:
        make_repository(top)
    for tag in ("base", *COMMITS):
        assert git.commit_of(tops[0], tag) == git.commit_of(tops[1], tag) is not None
    assert "= 25090" in (git_show(tops[0], "bytes"))
    assert "= 0.15" in (git_show(tops[0], "slow"))


def git_show(top: Path, tag: str) -> str:
    into = top.with_name(f"{top.name}-{tag}")
    git.check_out(top, git.commit_of(top, tag), into)
    return (into / "benchmarks/proofs/ballast.py").read_text()


def test_pairs_are_gated_one_by_one(tmp_path):
    filled(side_run(tmp_path / "base"), 1000, times=[1.0] * 5).write()
    filled(side_run(tmp_path / "head"), 1000, times=[1.0] * 4).write()
    assert pair_by_pair(tmp_path) == (4, 4)
    filled(side_run(tmp_path / "more/base"), 1000).write()
    filled(side_run(tmp_path / "more/head"), 1001).write()
    assert pair_by_pair(tmp_path / "more") == (0, 3)


def test_recorded_times_find_a_slowdown_from_24_pairs_and_stop_nothing_equal():
    rows = {(row["pairs"], row["rule"]): row for row in resampled(RECORDED / "step_times.csv", 60)}
    row = rows[24, "step_time_s:5%"]
    assert row["stopped"]["count"] == 0
    assert row["found"]["low"] > 0.85
    assert rows[8, "step_time_s:5%"]["found"]["high"] < 0.6


@pytest.mark.skipif(not CURATED.is_dir(), reason="no curated answers")
def test_the_page_is_that_of_the_figures_beside_it():
    found = json.loads((CURATED / "results.json").read_text())
    assert (CURATED / "README.md").read_text() == page(found)
    assert all(met for _, _, met in verdicts(found))
