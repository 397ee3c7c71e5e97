"""The gate on hand-made runs: broken rules, kept rules, and rules that cannot be evaluated."""

from __future__ import annotations

import json
import random

import pytest
from fake_runs import MIB, epoch_metrics, step_metrics
from side_runs import HOSTILE, failed, filled, in_turn, with_sides

from slr_bench.compare.comparison import compare_runs, compare_sides
from slr_bench.compare.gate import GateResult, judge_gate
from slr_bench.compare.rules import gather_rules
from slr_bench.errors import ConfigError
from slr_bench.record import Metric, Outcome

STEADY = [1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 1.02, 1.0]


def gated(comparison, *rules: str, allow: tuple[str, ...] = ()) -> GateResult:
    return judge_gate(comparison, gather_rules(rules, [], allow))


def of_bytes(new_run, base: int, head: int, *rules: str) -> GateResult:
    runs = [filled(new_run(name), size).write() for name, size in (("base", base), ("head", head))]
    return gated(compare_runs(*runs), *rules)


@pytest.mark.parametrize(
    ("head", "rule", "verdict"),
    [
        (10_000, "peak_tensor_bytes:0%", "pass"),
        (10_001, "peak_tensor_bytes:0%", "regression"),
        (10_001, "peak_tensor_bytes:0B", "regression"),
        (10_001, "peak_tensor_bytes:1B", "pass"),
        (10_002, "peak_tensor_bytes:1B", "regression"),
        (10_200, "peak_tensor_bytes:2%", "pass"),
        (10_201, "peak_tensor_bytes:2%", "regression"),
        (10_010, "peak_tensor_bytes:0.1%", "pass"),
        (9_000, "peak_tensor_bytes:0%", "pass"),
    ],
)
def test_exact_bytes_are_judged_to_the_byte(new_run, head, rule, verdict):
    result = of_bytes(new_run, 10_000, head, rule)
    assert result.verdict == verdict
    assert result.exit_code == (1 if verdict == "regression" else 0)
    assert len(result.rules[0].with_ruling("broken")) == (verdict == "regression")
    assert bool(result.better) == (head < 10_000)


@pytest.mark.parametrize("size", [3, 10**9 + 7, 2**53 - 1])
def test_rounding_never_decides_about_a_limit(new_run, size):
    """At limit and size chosen so that the limit is a whole byte: on it is kept, one more is broken."""
    base = 1000 * (size // 1000 or 1)
    assert of_bytes(new_run, base, base + base // 1000, "peak_tensor_bytes:0.1%").verdict == "pass"
    assert of_bytes(new_run, base, base + base // 1000 + 1, "peak_tensor_bytes:0.1%").verdict == "regression"


def test_growth_from_zero_exceeds_any_percentage(new_run):
    runs = [new_run("base"), new_run("head")]
    for run, value in zip(runs, (0, 5), strict=True):
        filled(run, more={"parameters": Metric(value=value, unit="1", source="model", quality="exact")})
    comparison = compare_runs(*(run.write() for run in runs))
    assert gated(comparison, "parameters:1000%").verdict == "regression"
    assert gated(comparison, "parameters:5").verdict == "pass"
    back = compare_runs(runs[1].directory, runs[0].directory)
    assert gated(back, "parameters:0%").better


def of_times(new_run, factor: float, *rules: str, times=STEADY) -> GateResult:
    run = with_sides(new_run("run"), times, [factor * time_s for time_s in times])
    return gated(compare_sides(run.write()), *rules)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "pass"), (1.15, "regression"), (1.09, "pass"), (0.8, "pass"), (1.101, "regression")]
)
def test_significantly_slower_times_beyond_the_limit_break_a_rule(new_run, factor, verdict):
    result = of_times(new_run, factor, "step_time_s:10%", "throughput_clips_per_s:10%")
    assert result.rules[0].verdict == ("fail" if verdict == "regression" else "pass")
    assert bool(result.rules[0].with_ruling("better")) == (factor < 1)
    speed = result.rules[1]
    assert speed.verdict == ("fail" if 1 / factor < 0.9 else "pass")
    assert bool(speed.with_ruling("better")) == (factor < 1)


def test_a_time_can_have_an_absolute_limit(new_run):
    assert of_times(new_run, 1.15, "step_time_s:200ms").verdict == "pass"
    assert of_times(new_run, 1.15, "step_time_s:100ms").verdict == "regression"


def test_a_large_difference_that_is_not_significant_breaks_no_rule(new_run):
    generator = random.Random(3)
    times = [generator.lognormvariate(0, 0.5) for _ in range(8)]
    run = with_sides(new_run("run"), times, [1.3 * generator.lognormvariate(0, 0.5) for _ in times])
    result = gated(compare_sides(run.write()), "step_time_s:10%")
    assert result.comparison.overall[0].workload == "train_step"
    assert result.verdict == "pass"


def test_times_from_separate_runs_fail_a_required_rule_and_skip_an_optional_one(new_run):
    runs = [filled(new_run(name), times=[t] * 8).write() for name, t in (("base", 1.0), ("head", 9.0))]
    comparison = compare_runs(*runs)
    result = gated(comparison, "step_time_s:10%")
    assert (result.verdict, result.exit_code, result.rules[0].verdict) == ("not comparable", 4, "not comparable")
    optional = gated(comparison, "step_time_s:10%:optional", "peak_tensor_bytes:0%")
    assert (optional.exit_code, optional.rules[0].verdict, optional.rules[1].verdict) == (0, "skipped", "pass")


def test_too_few_pairs_of_times_are_not_judged_and_the_message_has_the_cure(new_run):
    result = of_times(new_run, 3.0, "step_time_s:10%", times=[1.0] * 7)
    assert result.exit_code == 4
    [cell] = result.rules[0].with_ruling("unjudged")
    assert cell.reason == "7 pairs: min-max, no verdict below 8; measure more with --repeats 8 or more"


def rss(*values: float):
    return [
        {"peak_rss_bytes": Metric(value=value * MIB, unit="bytes", source="VmHWM", quality="measured")}
        for value in values
    ]


@pytest.mark.parametrize(
    ("base", "head", "verdict"),
    [
        ((600, 602, 601), (610, 640, 620), "pass"),
        ((600, 602, 601), (900, 905, 903), "not comparable"),
        ((600, 602, 601), (690, 710, 705), "not comparable"),
        ((600,) * 8, (600, 900, 600, 600, 600, 600, 600, 600), "pass"),
        ((600,) * 8, (701,) * 8, "regression"),
    ],
)
def test_a_few_ram_values_can_keep_a_limit_but_never_break_it(new_run, base, head, verdict):
    runs = [new_run("base"), new_run("head")]
    for run, values in zip(runs, (base, head), strict=True):
        cell = run.cell("tiny")
        for repeat, reading in enumerate(rss(*values)):
            run.record(cell, repeat, step_metrics(1000, 1.0) | reading)
    assert gated(compare_runs(*(run.write() for run in runs)), "peak_rss_bytes:100MiB").verdict == verdict


@pytest.mark.parametrize(("head", "verdict"), [(0.83, "pass"), (0.79, "pass"), (0.77, "not comparable")])
def test_lower_accuracy_is_worse_and_one_training_breaks_no_rule(new_run, head, verdict):
    runs = [new_run("base", data_fingerprint="1f"), new_run("head", data_fingerprint="1f")]
    for run, accuracy in zip(runs, (0.80, head), strict=True):
        run.record(run.cell("tiny", "train_epochs"), 0, epoch_metrics(accuracy, 60.0))
    assert gated(compare_runs(*(run.write() for run in runs)), "accuracy_top1:2pp").verdict == verdict


def test_a_rule_applies_to_the_cells_with_its_metric(new_run):
    runs = [filled(new_run("base")), filled(new_run("head"))]
    for run in runs:
        run.record(run.cell("tiny", "train_epochs"), 0, epoch_metrics(0.5, 60.0))
    result = gated(compare_runs(*(run.write() for run in runs)), "peak_tensor_bytes:0%")
    assert (result.verdict, len(result.rules[0].cells)) == ("pass", 1)


def test_a_baseline_without_the_metric_is_not_comparable(new_run):
    runs = [filled(new_run("base")), filled(new_run("head"), more={"own_bytes": rss(1)[0]["peak_rss_bytes"]})]
    comparison = compare_runs(*(run.write() for run in runs))
    result = gated(comparison, "own_bytes:0%")
    assert result.exit_code == 4
    assert result.rules[0].with_ruling("unjudged")[0].row.reason == "base did not measure own_bytes"
    assert gated(comparison, "own_bytes:0%:optional").exit_code == 0


def test_a_metric_that_neither_side_measured_is_not_comparable(new_run):
    result = of_bytes(new_run, 1, 1, "peak_allocated_bytes:0%")
    assert result.exit_code == 4
    assert "no caching allocator" in result.rules[0].reason


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("peak_tensor_byte:0%", "no record has a metric 'peak_tensor_byte'; did you mean 'peak_tensor_bytes'"),
        ("peak_tensor_bytes:5s", "peak_tensor_bytes is in bytes, the limit in seconds"),
        ("step_time_s:1MiB", "step_time_s is in seconds, the limit in bytes"),
        ("step_time_s:2pp", "the limit in a ratio"),
        ("throughput_clips_per_s:3", "is in 1/s, the limit in plain counts"),
    ],
)
def test_a_rule_for_an_unknown_metric_or_unit_is_refused(new_run, rule, words):
    with pytest.raises(ConfigError) as refused:
        of_bytes(new_run, 1, 1, rule)
    assert words in str(refused.value)


def test_a_fault_within_a_side_is_not_comparable_for_any_values(new_run):
    base, head = filled(new_run("base"), 1000).write(), filled(new_run("head"), 1000)
    head.record("c000", 3, step_metrics(123, 1.0))
    result = gated(compare_runs(base, head.write()), "peak_tensor_bytes:0%")
    assert result.exit_code == 4
    assert result.rules[0].with_ruling("unjudged")[0].row.is_fault


def lacking(new_run, *arms: str):
    base, head = filled(filled(new_run("base")), arm="gone"), filled(new_run("head"))
    for arm in arms:
        filled(head, arm=arm)
    return compare_runs(base.write(), head.write())


@pytest.mark.parametrize("pattern", ["gone", "g*", "c001", "train_step/gone", "train_step/*/c001"])
def test_a_missing_cell_fails_unless_it_is_allowed(new_run, pattern):
    comparison = lacking(new_run)
    result = gated(comparison, "peak_tensor_bytes:0%")
    assert (result.exit_code, [cell.arm for cell in result.missing]) == (1, ["gone"])
    allowed = gated(comparison, "peak_tensor_bytes:0%", allow=(pattern,))
    assert (allowed.exit_code, [cell.arm for cell in allowed.allowed]) == (0, ["gone"])
    assert gated(comparison, "peak_tensor_bytes:0%", allow=("other", "GONE", "one")).exit_code == 1


def test_a_renamed_cell_fails_and_a_new_cell_passes(new_run):
    [cell] = gated(lacking(new_run, "new"), "peak_tensor_bytes:0%").missing
    assert cell.reason == "renamed: the head has this setting as arm new"
    base, head = filled(new_run("b2")), filled(filled(new_run("h2")), arm="more")
    assert gated(compare_runs(base.write(), head.write()), "peak_tensor_bytes:0%").exit_code == 0


def two_cells(new_run, base: Outcome, head: Outcome):
    runs = [filled(new_run("base")), filled(new_run("head"))]
    for run, outcome in zip(runs, (base, head), strict=True):
        if outcome is Outcome.OK:
            filled(run, arm="second")
        else:
            failed(run, outcome, f"because {outcome}", arm="second")
    return compare_runs(*(run.write() for run in runs))


@pytest.mark.parametrize(
    ("base", "head", "code"),
    [
        (Outcome.OK, Outcome.CRASH, 7),
        (Outcome.OK, Outcome.TIMEOUT, 7),
        (Outcome.CRASH, Outcome.CRASH, 7),
        (Outcome.OK, Outcome.OOM_GPU, 1),
        (Outcome.OK, Outcome.SKIPPED_DOMINATED, 1),
        (Outcome.OOM_GPU, Outcome.OOM_GPU, 0),
        (Outcome.OOM_HOST, Outcome.OK, 0),
        (Outcome.CRASH, Outcome.OK, 4),
        (Outcome.OK, Outcome.UNSUPPORTED, 4),
    ],
)
def test_outcomes_are_judged_without_a_rule(new_run, base, head, code):
    result = gated(two_cells(new_run, base, head), "peak_tensor_bytes:0%")
    assert result.exit_code == code
    assert [cell.arm for cell in result.comparison.crashed] == (["second"] if code == 7 else [])
    assert [cell.arm for cell in result.no_longer] == (["second"] if code == 1 else [])
    if base is Outcome.OOM_HOST:
        assert result.better[0].reason == "the base ran out of memory, the head does not"


def test_a_regression_outweighs_other_failures(new_run):
    base, head = (filled(new_run(name), size) for name, size in (("base", 1000), ("head", 1001)))
    filled(base, arm="second")
    failed(head, arm="second")
    result = gated(compare_runs(base.write(), head.write()), "peak_tensor_bytes:0%", "step_time_s:1%")
    assert (result.verdict, result.exit_code, len(result.comparison.crashed)) == ("regression", 1, 1)


def test_one_process_that_crashed_among_others_is_a_crash(new_run):
    base, head = filled(new_run("base")), filled(new_run("head"))
    head.record("c000", 3, outcome=Outcome.CRASH, reason="ended by SIGSEGV")
    assert gated(compare_runs(base.write(), head.write()), "peak_tensor_bytes:0%").exit_code == 7


def test_json_has_the_documented_fields(new_run):
    runs = [in_turn(filled(new_run(name), size, arm=HOSTILE), name=name) for name, size in (("b", 1000), ("h", 1005))]
    result = gated(compare_runs(*(run.write() for run in runs)), "peak_tensor_bytes:0%", "step_time_s:1%:optional")
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"cells", "overall", "verdict", "rules", "missing", "exit_code"} <= values.keys()
    first, second = values["rules"]
    assert (first["rule"], first["verdict"], len(first["cells"])) == ("peak_tensor_bytes:0%", "fail", 1)
    assert first["cells"][0]["ratio"] == 1.005
    assert (second["verdict"], second["cells"], len(second["unjudged"])) == ("skipped", [], 1)
    assert values["baseline_can_be_renewed"] is False
