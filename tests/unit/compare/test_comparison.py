"""Comparisons of two sides: differences, equality, and values that do not compare."""

from __future__ import annotations

import json
import math
import re

import pandas
import pytest
from fake_runs import HALVED, MIB, SHED, epoch_metrics, step_metrics, values_without_checksum
from side_runs import ENVIRONMENT, failed, filled, in_turn, with_sides

from slr_bench.compare.comparability import HARNESS, PairingKind, family
from slr_bench.compare.comparison import Comparison, compare_runs, compare_sides
from slr_bench.errors import (
    ConfigError,
    NoBaselineError,
    NotComparableError,
    NothingMeasuredError,
)
from slr_bench.record import Metric, Outcome

NVML = {"nvml_process_peak_bytes": Metric(value=5 * MIB, unit="bytes", source="NVML", quality="sampled")}


def row(comparison: Comparison, metric: str):
    [found] = [cell for cell in comparison.cells if cell.metric == metric]
    return found


def overall(comparison: Comparison, metric: str):
    [found] = [line for line in comparison.overall if line.metric == metric]
    return found


def test_every_difference_in_traced_bytes_is_significant(new_run):
    base, head = (filled(new_run(name), memory).write() for name, memory in (("base", 1000), ("head", 1001)))
    found = row(compare_runs(base, head), "peak_tensor_bytes")
    assert (found.base, found.head, found.difference.value, found.n) == (1000, 1001, True, 3)
    assert found.ratio == found.low == found.high == 1.001
    same = row(compare_runs(base, base), "peak_tensor_bytes")
    assert (same.ratio, same.difference.value, same.reason) == (1.0, False, None)


@pytest.mark.parametrize("key", ["torch", "torchvision", "trace_rules"])
def test_traced_bytes_need_the_same_versions_and_rules(new_run, key):
    base = filled(new_run("base")).write()
    comparison = compare_runs(base, filled(new_run("head", **{key: "other"}), 50 * MIB).write())
    found = row(comparison, "peak_tensor_bytes")
    assert (found.base, found.head, found.ratio, found.difference.value) == (100 * MIB, 50 * MIB, None, None)
    assert found.reason == f"traced values need the same {key}, got {ENVIRONMENT[key]} against other"
    assert overall(comparison, "peak_tensor_bytes").reason == found.reason
    assert row(comparison, "parameters").difference.value is False  # a count depends on none of it


def test_traced_bytes_without_recorded_versions_do_not_compare(new_run):
    runs = [new_run(name) for name in ("base", "head")]
    for run in runs:
        del run.environment["torch"]
        filled(run)
    found = row(compare_runs(*(run.write() for run in runs)), "peak_tensor_bytes")
    assert found.reason == "traced values need the same torch, which neither side recorded"


def test_traced_bytes_need_the_same_source(new_run):
    base, head = filled(new_run("base")).write(), filled(new_run("head"), source="cpu-fake").write()
    found = row(compare_runs(base, head), "peak_tensor_bytes")
    assert found.difference.value is None
    assert found.reason == "different meters do not compare: cpu-real against cpu-fake"


def test_different_commits_compare(new_run):
    base, head = filled(new_run("base")), filled(new_run("head"))
    comparison = compare_runs(base.write("slr-bench run a.yml"), head.write("slr-bench run b.yml"))
    assert row(comparison, "peak_tensor_bytes").difference.value is False


def test_different_exact_values_within_a_side_are_a_fault(new_run):
    base = filled(new_run("base"), 1000).write()
    head = filled(new_run("head"), 1000)
    head.record(head.entries[0].cell_id, 3, step_metrics(123456789, 1.0))
    comparison = compare_runs(base, head.write())
    found = row(comparison, "peak_tensor_bytes")
    assert (found.is_fault, found.difference.value, found.ratio) == (True, None, None)
    assert found.reason.startswith("fault: peak_tensor_bytes must be the same in every process, but in the head")
    assert "from 1000 to 123456789" in found.reason
    assert overall(comparison, "peak_tensor_bytes").is_fault


def test_times_from_two_separate_runs_are_shown_without_a_verdict(new_run):
    base = filled(new_run("base"), times=[1.0] * 8).write()
    head = filled(new_run("head"), times=[2.0] * 8).write()
    found = row(compare_runs(base, head), "step_time_s")
    assert (found.base, found.head, found.ratio, found.difference.value) == (1.0, 2.0, None, None)
    assert "measure both sides interleaved" in found.reason
    judged = row(compare_runs(base, head, interleaved=True), "step_time_s")
    assert (judged.ratio, judged.difference.value, judged.n) == (pytest.approx(2.0), True, 8)


def test_fewer_than_eight_pairs_have_extremes_and_no_verdict(new_run):
    base = filled(new_run("base"), times=[1.0, 1.0, 1.0]).write()
    head = filled(new_run("head"), times=[1.5, 1.4, 1.7]).write()
    found = row(compare_runs(base, head, interleaved=True), "step_time_s")
    assert (found.ratio, found.low, found.high) == pytest.approx((1.5, 1.4, 1.7))
    assert (found.difference.value, found.reason) == (None, "3 pairs: min-max, no verdict below 8")


def test_sides_of_one_run_are_paired_by_repeat(new_run):
    drift = [1 + repeat / 4 for repeat in range(8)]
    comparison = compare_sides(with_sides(new_run("aa"), drift, [1.15 * time_s for time_s in drift]).write())
    assert (comparison.pairing, comparison.base, comparison.head) == (PairingKind.ONE_RUN, "aa, side a", "aa, side b")
    found = row(comparison, "step_time_s")
    assert (found.ratio, found.low, found.high) == pytest.approx((1.15,) * 3)
    assert (found.difference.value, found.n) == (True, 8)
    assert row(comparison, "peak_tensor_bytes").difference.value is False
    assert row(comparison, "throughput_clips_per_s").ratio == pytest.approx(1 / 1.15)


def test_a_directory_with_only_one_side_is_refused(new_run):
    with pytest.raises(NotComparableError, match="records of side a only"):
        compare_sides(filled(new_run("run")).write())


def test_nvml_needs_the_same_gpu_and_driver(new_run):
    card = {"gpu": "H100", "driver": "570"}
    base = filled(new_run("base", **card), more=NVML, times=[1.0] * 8).write()
    same = filled(new_run("same", **card), more=NVML, times=[1.0] * 8).write()
    assert row(compare_runs(base, same), "nvml_process_peak_bytes").difference.value is False
    other = filled(new_run("other", gpu="H100", driver="580"), more=NVML).write()
    found = row(compare_runs(base, other), "nvml_process_peak_bytes")
    assert found.reason == "NVML values need the same driver, got 570 against 580"


def test_accuracy_needs_the_same_data(new_run):
    def trained(name, fingerprint):
        run = new_run(name, data_fingerprint=fingerprint)
        cell = run.cell("tiny", "train_epochs")
        run.record(cell, 0, epoch_metrics(0.5, 60.0))
        return run.write()

    base = trained("base", "1f")
    found = row(compare_runs(base, trained("other", "2f")), "accuracy_top1")
    assert found.reason == "learned values need the same data_fingerprint, got 1f against 2f"
    same = row(compare_runs(base, trained("same", "1f")), "accuracy_top1")
    assert (same.ratio, same.difference.value, same.reason) == (1.0, None, "1 pair: min-max, no verdict below 8")


def test_ram_of_forked_and_spawned_processes_does_not_compare(new_run):
    base, head = filled(new_run("base")).write(), filled(new_run("head", isolation="spawn")).write()
    found = row(compare_runs(base, head), "rss_over_start_bytes")
    assert found.reason == "host values need the same isolation, got fork against spawn"


def test_the_reason_names_the_outcome_of_a_cell_that_did_not_end_ok(new_run):
    base, head = filled(new_run("base")), new_run("head")
    cell = head.cell("tiny")
    head.record(cell, 0, outcome=Outcome.OOM_HOST, reason="oom_kill rose by 1")
    found = row(compare_runs(base.write(), head.write()), "peak_tensor_bytes")
    assert (found.base, found.head, found.difference.value) == (100 * MIB, None, None)
    assert found.reason == "head has no run of this cell that ended ok (1 oom_host: oom_kill rose by 1)"


def test_unmatched_cells_are_listed_and_sides_without_a_common_cell_are_refused(new_run):
    base, head = new_run("base"), filled(new_run("head"))
    filled(base)
    filled(base, arm="gone")
    comparison = compare_runs(base.write(), head.write())
    assert [(cell.arm, cell.side) for cell in comparison.unmatched] == [("gone", "base")]
    stranger = filled(new_run("stranger"), arm="renamed").write()
    with pytest.raises(NotComparableError, match=r"no cell in common: the base has c000 \(tiny\).* c000 \(renamed\)"):
        compare_runs(head.directory, stranger)


def test_directories_without_runs_are_refused(new_run, tmp_path):
    good, empty = filled(new_run("good")).write(), new_run("empty")
    empty.cell("tiny")
    with pytest.raises(NoBaselineError, match=r"no grid\.json") as refused:
        compare_runs(tmp_path / "nowhere", good)
    assert refused.value.exit_code == 3
    with pytest.raises(NothingMeasuredError, match="has no record of a run"):
        compare_runs(good, empty.write())


def test_unreadable_records_are_listed(new_run):
    base, head = filled(new_run("base")).write(), filled(new_run("head")).write()
    (head / "records" / "broken.json").write_text("{")
    assert [text[:18] for text in compare_runs(base, head).problems] == ["head: broken.json:"]


def test_overall_verdict_pairs_the_rounds_through_all_cells(new_run):
    runs = {}
    for name, factors in (("base", (1.0, 1.0)), ("head", (1.2, 1.3))):
        runs[name] = new_run(name)
        for place, factor in enumerate(factors):
            times = [factor * (1 + 0.1 * repeat) for repeat in range(8)]
            filled(runs[name], 1000 + place * (name == "head"), times, arm=f"arm{place}")
    comparison = compare_runs(runs["base"].write(), runs["head"].write(), interleaved=True)
    time = overall(comparison, "step_time_s")
    assert (time.cells, time.different, time.difference.value, time.n) == (2, 2, True, 8)
    assert time.ratio == pytest.approx(math.sqrt(1.2 * 1.3))
    memory = overall(comparison, "peak_tensor_bytes")
    assert (memory.cells, memory.different, memory.difference.value) == (2, 1, True)
    assert (memory.low, memory.high) == (1.0, 1.001)


def test_json_and_frame_have_the_documented_fields(new_run):
    comparison = compare_runs(filled(new_run("base")).write(), filled(new_run("head")).write())
    values = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    fields = {"cell_id", "arm", "metric", "base", "head", "ratio", "low", "high", "significant"}
    assert all(fields <= cell.keys() for cell in values["cells"])
    assert values["overall"]
    assert not {cell["metric"] for cell in values["cells"]} & HARNESS
    frame = comparison.to_frame()
    assert fields <= set(frame.columns)
    assert len(frame) == len(comparison.cells)
    assert frame.dtypes["ratio"] == "float64"
    time = frame[frame.metric == "step_time_s"].iloc[0]
    assert pandas.isna(time.ratio)
    assert time.significant is None


def test_a_metric_that_neither_side_measured_has_no_row(new_run):
    comparison = compare_runs(filled(new_run("base")).write(), filled(new_run("head")).write())
    assert "peak_allocated_bytes" not in {cell.metric for cell in comparison.cells}


def test_an_unknown_metric_is_judged_by_its_unit():
    assert family("own_bytes", "bytes").needs == ("isolation", "system")
    assert family("own_s", "s").interleaved
    assert family("own_ratio", "ratio").interleaved


def test_directories_of_one_interleaved_measurement_are_recognised(new_run):
    pair = [in_turn(filled(new_run(name), times=[t] * 8), name=name) for name, t in (("base", 1.0), ("head", 2.0))]
    comparison = compare_runs(*(run.write() for run in pair))
    assert (comparison.pairing, comparison.base, comparison.head) == (PairingKind.INTERLEAVED, "base", "head")
    assert row(comparison, "step_time_s").ratio == pytest.approx(2.0)
    stranger = in_turn(filled(new_run("stranger"), times=[2.0] * 8), pair="another").write()
    assert compare_runs(pair[0].directory, stranger).pairing is PairingKind.APART


def test_an_arm_that_the_other_source_refuses_has_the_reason(new_run):
    base = in_turn(filled(filled(new_run("base")), arm="old"))
    head = in_turn(filled(new_run("head")), old="arm 'old': unknown key 'model.gone'")
    [lone] = compare_runs(base.write(), head.write()).unmatched
    assert (lone.arm, lone.side, lone.reason) == ("old", "base", "arm 'old': unknown key 'model.gone'")


def test_a_renamed_arm_and_a_changed_setting_are_recognised(new_run):
    base, head = filled(filled(filled(new_run("base")), arm="old")), filled(filled(new_run("head")), arm="new")
    base.entries[2] = base.entries[2].model_copy(update={"arm": "own", "cell_id": "aaa"})
    filled(head, arm="own")
    base.records = base.records[:-3]
    reasons = {(cell.arm, cell.side): cell.reason for cell in compare_runs(base.write(), head.write()).unmatched}
    assert reasons == {
        ("old", "base"): "renamed: the head has this setting as arm new",
        ("own", "base"): "its setting changed: the head has this arm as cell c002",
        ("new", "head"): "renamed: the base has this setting as arm old",
        ("own", "head"): "its setting changed: the base has this arm as cell aaa",
    }


def test_a_comparison_can_be_limited_to_one_arm(new_run):
    runs = [filled(filled(new_run(name)), arm="other").write() for name in ("base", "head")]
    assert {cell.arm for cell in compare_runs(*runs, arm="other").cells} == {"other"}
    with pytest.raises(ConfigError, match="--arm: the base has no arm 'othr'; did you mean 'other'"):
        compare_runs(*runs, arm="othr")


def test_every_cell_has_its_outcomes_on_both_sides(new_run):
    base, head = filled(filled(new_run("base")), arm="gone"), filled(new_run("head"))
    head.record("c000", 3, outcome=Outcome.TIMEOUT, reason="still running")
    head.records[0] = (head.records[0][0].model_copy(update={"marks": ("clock jump",)}), None)
    first, second = compare_runs(base.write(), head.write()).outcomes
    assert (first.base, first.head, first.reason, first.disturbed) == (
        {"ok": 3},
        {"ok": 3, "timeout": 1},
        "still running",
        1,
    )
    assert (second.arm, second.base, second.head) == ("gone", {"ok": 3}, {})


def test_metrics_without_a_row_have_a_reason(new_run):
    unread = compare_runs(filled(new_run("base")).write(), filled(new_run("head")).write()).unread
    assert unread["peak_allocated_bytes"] == "the cell ran on the CPU, which has no caching allocator"
    assert unread["harness_s"] == "the cost of measuring is not compared"


@pytest.mark.parametrize(
    ("outcome", "which", "error"),
    [
        (Outcome.CRASH, "base", NoBaselineError),
        (Outcome.UNSUPPORTED, "head", NothingMeasuredError),
    ],
)
def test_a_directory_with_only_failures_is_refused(new_run, outcome, which, error):
    runs = {"base": filled(new_run("base")), "head": filled(new_run("head"))}
    runs[which] = failed(new_run("failed"), outcome, "because")
    with pytest.raises(
        error, match=rf"no run of the {which} \(.*failed\) was measured; they ended as {outcome}: because"
    ):
        compare_runs(runs["base"].write(), runs["head"].write())


def test_a_crash_of_the_head_is_a_result(new_run):
    comparison = compare_runs(filled(new_run("base")).write(), failed(new_run("head")).write())
    assert [cell.reason for cell in comparison.crashed] == ["ended by SIGKILL"]
    assert "(1 crash: ended by SIGKILL)" in row(comparison, "peak_tensor_bytes").reason


def test_out_of_memory_is_a_result(new_run):
    base = failed(new_run("base"), Outcome.OOM_GPU, "CUDA out of memory").write()
    found = row(compare_runs(base, filled(new_run("head")).write()), "peak_tensor_bytes")
    assert (found.base, found.head) == (None, 100 * MIB)
    assert "CUDA out of memory" in found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values | {"schema": 2}, "schema 2 was written by another version"),
        (lambda values: values | {"schema": 0}, "schema 0 was written by another version"),
        (lambda values: values | {"duration_s": None}, "duration_s: "),
    ],
)
@pytest.mark.parametrize(("which", "error"), [("base", NoBaselineError), ("head", NothingMeasuredError)])
def test_unreadable_records_are_reported_and_never_used_as_values(new_run, change, words, which, error):
    runs = {name: filled(new_run(name), times=[1.0]).write() for name in ("base", "head")}
    [path] = (runs[which] / "records").iterdir()
    path.write_text(json.dumps(change(values_without_checksum(path))))
    with pytest.raises(error, match=f"none of the 1 records in .*can be read .*({words}).*measure it again"):
        compare_runs(runs["base"], runs["head"])


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("peak_tensor_bytes", float("nan"), "nan, which is no figure"),
        ("step_time_s", float("-inf"), "-inf, which is no figure"),
        ("step_time_s", 1e300, "1e.300, which is beyond anything that can be measured"),
        ("step_time_s", 10**400, "10+…, which is beyond anything that can be measured"),
        ("peak_tensor_bytes", -5, "-5, which is less than no byte"),
    ],
)
@pytest.mark.parametrize("which", ["base", "head"])
def test_an_invalid_value_is_dropped_and_its_record_kept(new_run, which, metric, value, words):
    runs = {name: filled(new_run(name), times=[1.0]).write() for name in ("base", "head")}
    [path] = (runs[which] / "records").iterdir()
    values = values_without_checksum(path)
    values["metrics"][metric]["value"] = value
    path.write_text(json.dumps(values))
    comparison = compare_runs(runs["base"], runs["head"])
    [problem] = comparison.problems
    assert re.fullmatch(rf"{which}: c000-a-0.json: {metric} left out: the record holds {words}", problem)
    found = row(comparison, metric)
    assert (found.difference.value, getattr(found, which)) == (None, None)
    assert re.fullmatch(rf"the record holds {words}", found.reason)
    assert row(comparison, "parameters").difference.value is False


def test_a_cell_with_unreadable_records_has_the_reason(new_run):
    base, head = (filled(filled(new_run(name)), arm="second").write() for name in ("base", "head"))
    for path in (head / "records").glob("c001-*"):
        path.write_text('{"schema": 2}')
    comparison = compare_runs(base, head)
    [problem] = comparison.problems
    assert problem.startswith("head: c001-a-0.json and 2 more: not a readable record: schema 2 was written by another")
    found = next(cell for cell in comparison.cells if (cell.arm, cell.metric) == ("second", "peak_tensor_bytes"))
    assert "head has no readable record of this cell: schema 2 was written by another" in found.reason


@pytest.mark.parametrize("text", ["", "{", '{"schema": 2}', "null"])
@pytest.mark.parametrize(("which", "error"), [("base", NoBaselineError), ("head", NothingMeasuredError)])
def test_an_unreadable_manifest_is_reported(new_run, text, which, error):
    runs = {name: filled(new_run(name)).write() for name in ("base", "head")}
    (runs[which] / "grid.json").write_text(text)
    with pytest.raises(error, match=r"grid\.json is not a readable manifest; .*; measure it again with this version"):
        compare_runs(runs["base"], runs["head"])


def trained(run, *events):
    """Add a training to the run, and its accuracy on known data."""
    run.environment = run.environment | {"data_fingerprint": "data"}
    run.record(run.cell("tiny", "train_epochs"), 0, epoch_metrics(0.9, 60.0), events=events)
    return run.write()


@pytest.mark.parametrize("side", ["base", "head"])
def test_accuracy_does_not_compare_if_a_training_changed_its_batches(new_run, side):
    events = {side: (SHED, HALVED)}
    base, head = (trained(new_run(name), *events.get(name, ())) for name in ("base", "head"))
    found = row(compare_runs(base, head), "accuracy_top1")
    assert (found.base, found.head, found.ratio, found.is_judged) == (0.9, 0.9, None, False)
    assert found.reason == (
        f"{side}: the training changed its batches after step 12 "
        "(memory critical, RAM is 96 % full: micro-batch 8 -> 4 clips)"
    )
    assert row(compare_runs(base, head, interleaved=True), "training_time_s").ratio == 1.0


def test_shed_caches_change_no_accuracy(new_run):
    base, head = trained(new_run("base")), trained(new_run("head"), SHED)
    assert row(compare_runs(base, head), "accuracy_top1").ratio == 1.0
