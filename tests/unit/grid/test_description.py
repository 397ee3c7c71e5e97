"""A workload describes itself: unit, batch, headline metrics, the line of a setting."""

from types import SimpleNamespace

import pytest

from slr_bench.files import lookup
from slr_bench.grid.description import GENERIC, HeadlineMetric, WorkloadDescription, value_text
from slr_bench.grid.workload import describe_workload, find_workload, throughput_metric, units_per_step

TOKENS = WorkloadDescription(
    unit="token",
    micro_batch="batch.tokens",
    micro_batches="batch.accumulate",
    input_line="sequences of {data.length} tokens",
    setting_line=("{precision}", "recompute {recompute}"),
    accuracy_metric="accuracy_next",
)
SETTING = {"batch": {"tokens": 8, "accumulate": 4}, "data": {"length": 128}, "precision": "bf16", "recompute": True}


def test_setting_line_has_the_batch_and_every_part_whose_keys_are_set():
    assert TOKENS.describe(SETTING) == "effective batch 32 = 8 × 4 micro-batches, bf16, recompute true"
    assert TOKENS.describe({"precision": "fp32"}) == "fp32"
    assert TOKENS.describe({}) == ""


def test_input_line_is_left_out_if_a_key_is_missing():
    assert TOKENS.describe_input(SETTING) == "sequences of 128 tokens"
    assert TOKENS.describe_input({"data": {}}) == ""


def test_effective_batch_is_the_product_of_the_batch_keys():
    assert TOKENS.effective_batch(SETTING) == 32
    assert TOKENS.effective_batch({"batch": {"tokens": 8}}) is None
    assert GENERIC.effective_batch(SETTING) is None
    assert WorkloadDescription(micro_batch="batch.tokens").batch_keys is None


def test_throughput_is_named_by_the_unit():
    assert TOKENS.throughput_metric == "throughput_tokens_per_s"
    assert GENERIC.throughput_metric == "throughput_samples_per_s"
    text = TOKENS.metric_text("throughput_tokens_per_s")
    assert text is not None
    assert (text.label, text.larger_is_better) == ("tokens per second", True)
    assert TOKENS.metric_text("throughput_clips_per_s") is None


def test_default_headline_is_memory_time_and_the_accuracy_metric():
    assert [metric.title for metric in TOKENS.headline_of("gpt")] == [
        "Memory of gpt",
        "GPU memory allocated of gpt",
        "Step time of gpt",
        "Accuracy of gpt",
    ]
    assert TOKENS.headline_of("gpt")[-1] == HeadlineMetric("accuracy_next", "Accuracy of gpt", optional=True)
    assert len(GENERIC.headline_of("gpt")) == 3


def test_workload_that_is_not_installed_has_the_generic_description():
    assert describe_workload("nobody_has_it") is GENERIC


def test_registered_workload_is_described_by_its_spec():
    assert describe_workload("train_step") is find_workload("train_step")
    assert describe_workload("train_step").headline_of("train_step")[0].title == "Memory"


def test_units_of_a_step_are_read_under_the_name_of_earlier_versions_too():
    new, old = SimpleNamespace(samples_per_step=3), SimpleNamespace(clips_per_step=3)
    assert (units_per_step(new), throughput_metric(new, TOKENS)) == (3, "throughput_tokens_per_s")
    assert (units_per_step(old), throughput_metric(old, GENERIC)) == (3, "throughput_clips_per_s")


@pytest.mark.parametrize(("value", "text"), [("bf16", "bf16"), (True, "true"), ([1, 2], "[1, 2]"), (None, "null")])
def test_value_is_written_as_in_yaml(value, text):
    assert value_text(value) == text


def test_lookup_returns_nothing_for_a_key_of_another_workload():
    assert lookup(SETTING, "data.length") == 128
    assert lookup(SETTING, "data.length.more") is None
    assert lookup(SETTING, "model.size") is None
