"""Records summarized per cell."""

from __future__ import annotations

from slr_bench.compare.cells import own_cell, pair, summarize_cells, why_not_comparable
from slr_bench.record import Metric, Outcome, Record
from slr_bench.run.store import CellEntry, Manifest


def entry(cell_id, arm="baseline", own=True):
    return CellEntry(cell_id=cell_id, arm=arm, workload="train_step", setting={}, coordinates={}, is_own=own, repeats=3)


def manifest(*entries):
    return Manifest(
        workload="train_step", source_hash="s", config_hash="c", environment={}, command="run", cells=entries
    )


def record(cell_id, repeat, metrics=None, side="a", outcome=Outcome.OK):
    return Record(
        cell_id=cell_id,
        side=side,
        repeat=repeat,
        workload="train_step",
        setting={},
        outcome=outcome,
        reason=None if outcome is Outcome.OK else f"reason {repeat}",
        environment={},
        metrics=metrics or {},
        phases={},
        started_at="2026-01-01T00:00:00Z",
        duration_s=1.0,
    )


def size(value, source="cpu-real"):
    return {"peak_tensor_bytes": Metric(value=value, unit="bytes", source=source, quality="exact")}


def took(time_s):
    return {"step_time_s": Metric(value=time_s, unit="s", source="clock", quality="measured")}


def test_only_finished_records_count():
    killed = record("x", 1, size(999), outcome=Outcome.OOM_HOST)
    [cell] = summarize_cells(manifest(entry("x")), [record("x", 2, size(5)), killed, record("x", 0, size(5))])
    assert [found.repeat for found in cell.records] == [0, 1, 2]
    assert cell.value("peak_tensor_bytes") == 5
    assert cell.readings["peak_tensor_bytes"].summary.n == 2
    assert cell.outcomes == {Outcome.OK: 2, Outcome.OOM_HOST: 1}
    assert cell.reasons == ("reason 1",)


def test_two_arms_with_one_setting_share_its_records():
    cells = summarize_cells(manifest(entry("x", "baseline"), entry("x", "same")), [record("x", 0, size(5))])
    assert [(cell.entry.arm, cell.value("peak_tensor_bytes")) for cell in cells] == [("baseline", 5), ("same", 5)]


def test_sides_stay_separate_and_unlisted_cells_are_left_out():
    records = [record("x", 0, size(5)), record("x", 0, size(6), side="b"), record("stray", 0, size(7))]
    cells = summarize_cells(manifest(entry("x"), entry("empty")), records)
    found = [(cell.entry.cell_id, cell.side, cell.value("peak_tensor_bytes")) for cell in cells]
    assert found == [("x", "a", 5), ("x", "b", 6), ("empty", "a", None)]


def test_bytes_from_different_meters_have_a_reason_in_place_of_a_value():
    [cell] = summarize_cells(manifest(entry("x")), [record("x", 0, size(5)), record("x", 1, size(5, "cpu-fake"))])
    assert cell.value("peak_tensor_bytes") is None
    assert "cpu-fake, cpu-real" in cell.readings["peak_tensor_bytes"].reasons[0]


def test_bytes_from_different_meters_do_not_compare():
    cells = summarize_cells(
        manifest(entry("x"), entry("y", "optimized")), [record("x", 0, size(5)), record("y", 0, size(4, "cpu-fake"))]
    )
    base, head = (cell.readings["peak_tensor_bytes"] for cell in cells)
    assert why_not_comparable(base, head) == "different meters do not compare: cpu-real against cpu-fake"
    assert why_not_comparable(base, base) is None


def test_an_unavailable_metric_keeps_its_reason():
    missing = {"energy_j": Metric.unavailable("J", "NVML", "no GPU")}
    [cell] = summarize_cells(manifest(entry("x")), [record("x", 0, missing), record("x", 1, missing)])
    reading = cell.readings["energy_j"]
    assert (reading.summary, reading.value, reading.reasons) == (None, None, ("no GPU",))


def test_pairs_are_formed_by_repeat():
    records = [record("x", n, took(value)) for n, value in ((0, 1.0), (1, 2.0), (2, 8.0))]
    records += [record("y", n, took(value)) for n, value in ((1, 4.0), (2, 8.0), (3, 100.0))]
    base, head = (
        cell.readings["step_time_s"] for cell in summarize_cells(manifest(entry("x"), entry("y", "o")), records)
    )
    found = pair(base, head)
    assert found is not None
    assert (found.n, found.low, found.high) == (2, 1.0, 2.0)


def test_without_a_common_repeat_there_is_no_pair():
    records = [record("x", 0, took(1.0)), record("y", 1, took(1.0))]
    base, head = (
        cell.readings["step_time_s"] for cell in summarize_cells(manifest(entry("x"), entry("y", "o")), records)
    )
    assert pair(base, head) is None


def test_own_cell_is_the_arms_setting_before_any_axis():
    cells = summarize_cells(manifest(entry("x", own=False), entry("y")), [])
    found = own_cell(cells, "baseline", "train_step")
    assert found is not None
    assert found.entry.cell_id == "y"
    assert own_cell(cells, "baseline", "inference") is None
