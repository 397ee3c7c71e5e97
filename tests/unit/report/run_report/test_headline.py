"""Changes between two readings: their words, tones and verdicts."""

from __future__ import annotations

import pytest
from fake_runs import MIB, epoch_metrics, step_metrics

from slr_bench.record import Metric
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.headline import change


def readings(run, metric, *sides):
    """Return the readings of arms whose processes left these metrics."""
    for place, metrics in enumerate(sides):
        cell = run.cell(f"arm {place}", repeats=len(metrics))
        for repeat, values in enumerate(metrics):
            run.record(cell, repeat, values)
    return [cell.readings[metric] for cell in read_content(run.write()).cells]


def times(*values):
    return [step_metrics(MIB, value) for value in values]


def test_significant_time_has_a_tone_and_no_mark(new_run):
    found = change(*readings(new_run(), "step_time_s", times(*[1.0] * 8), times(*[1.5] * 8)))
    assert (found.marked, found.tone) == ("1.50× as long", "bad")


def test_eight_times_that_differ_in_both_directions_are_not_significant(new_run):
    both = [1.1, 0.9] * 4
    found = change(*readings(new_run(), "step_time_s", times(*[1.0] * 8), times(*both)))
    assert (found.marked[:2], found.tone) == ("~ ", "")


def test_interference_prevents_comparison_of_times_but_not_of_bytes(new_run):
    base, head = readings(new_run(), "step_time_s", times(1.0), times(2.0))
    assert change(base, head, is_disturbed=True).text == "disturbed"
    again = new_run()
    (again.directory / "grid.json").unlink()
    base, head = readings(again, "peak_tensor_bytes", [step_metrics(4 * MIB, 1)], [step_metrics(MIB, 1)])
    assert change(base, head, is_disturbed=True).marked == "4.0× less"


@pytest.mark.parametrize(
    ("gains", "marked", "tone"),
    [
        ([0.02], "+2.0 points, n too small", ""),
        ([0.02] * 7, "+2.0 points, n too small", ""),
        ([0.02] * 8, "+2.0 points", "good"),
        ([-0.02] * 8, "-2.0 points", "bad"),
        ([0.03, -0.02] * 5, "~ +0.5 points", ""),
    ],
)
def test_accuracy_gets_a_verdict_from_eight_pairs(new_run, gains, marked, tone):
    base = [epoch_metrics(0.5, 1.0) for _ in gains]
    head = [epoch_metrics(0.5 + gain, 1.0) for gain in gains]
    found = change(*readings(new_run(), "accuracy_top1", base, head))
    assert (found.marked, found.tone) == (marked, tone)


def test_sampled_bytes_get_no_verdict_from_three_processes(new_run):
    def sampled(size):
        return {"peak_rss_bytes": Metric(value=size, unit="bytes", source="VmHWM", quality="sampled")}

    base, head = ([sampled(size + part) for part in range(3)] for size in (200, 100))
    found = change(*readings(new_run(), "peak_rss_bytes", base, head))
    assert (found.marked, found.tone) == ("1.99× less, n too small", "")
