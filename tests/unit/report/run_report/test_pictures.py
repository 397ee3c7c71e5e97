"""Timelines, and the labels of the pictures."""

from __future__ import annotations

import re

from fake_runs import MIB, FakeRun, samples, step_metrics, traced_by_category

from slr_bench.report.charts.memory import POINTS
from slr_bench.report.run_report.cell_panels import parse_samples, rss_timeline, traced_timeline
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import LABEL, memory_by_cell


def test_traced_line_keeps_peak_and_phases():
    found = traced_timeline(parse_samples(samples(80 * MIB)))
    assert max(found.y_bytes) == 80 * MIB
    assert [name for name, _, _ in found.stretches] == ["forward", "backward", "optimizer"]
    assert (found.x[0], found.x[-1]) == (0.0, 1.0)


def test_long_line_is_thinned_and_keeps_its_peak():
    live = [1] * 10_000
    live[7_777] = 99
    found = traced_timeline(parse_samples({"traced": {"live_bytes": live, "phase": ["forward"] * 10_000}}))
    assert len(found.x) <= POINTS
    assert max(found.y_bytes) == 99


def test_ram_line_has_the_phase_of_each_time_and_none_in_gaps():
    found = rss_timeline(parse_samples(samples(80 * MIB)))
    by_time = dict(zip(found.x, found.phase, strict=True))
    assert (by_time[0.2], by_time[0.45], by_time[0.7], by_time[1.5]) == ("build", "outside", "forward", "backward")
    assert found.y_bytes[0] == 200 * MIB


def test_invalid_samples_give_no_line():
    assert parse_samples(None) is None
    assert parse_samples({"times_s": "no"}) is None
    assert parse_samples({"traced": {"live_bytes": [1, 2], "phase": ["a"]}}) is None
    assert rss_timeline(parse_samples({"columns": ["other"], "times_s": [0.0], "rows": [[1]]})) is None
    assert rss_timeline(parse_samples({"columns": ["rss_bytes"], "times_s": [0, 1], "rows": [[None], [5]]})) is None
    assert traced_timeline(parse_samples({"traced": None})) is None


def test_thinned_categories_add_up_to_the_total():
    found = traced_timeline(parse_samples({"traced": traced_by_category(80 * MIB)}), 50)
    assert len(found.x) <= 50
    assert [sum(parts) for parts in zip(*found.series.values(), strict=True)] == list(found.y_bytes)
    assert max(found.y_bytes) == 80 * MIB


def test_categories_of_another_length_are_invalid():
    traced = traced_by_category(80 * MIB)
    traced["by_category"]["parameter"].pop()
    assert parse_samples({"traced": traced}) is None


def test_bars_of_an_arm_with_a_long_name_have_different_labels(tmp_path):
    run = FakeRun(tmp_path / "run")
    for batch in (2, 4):
        axes = {"training.batch_size": batch, "training.recompute": "budget:0.25", "training.precision": "bf16"}
        run.record(run.cell("recomputed " * 4, own=False, coordinates=axes), 0, step_metrics(MIB, 1.0))
    run.record(run.cell("optimized"), 0, step_metrics(MIB, 1.0))
    svg = memory_by_cell(read_content(run.write())).svg
    names = re.findall(r">(recomputed[^<]*)<", svg)
    assert len(set(names)) == 2
    assert {name[-4:] for name in names} == {" · 2", " · 4"}
    assert all(len(name) <= LABEL for name in names)
