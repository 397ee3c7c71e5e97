"""The report of another project's workload: the same parts, words of its own, and the same warnings."""

from __future__ import annotations

import pytest
from fake_runs import MIB, FakeRun, step_metrics

from slr_bench.compare import cells
from slr_bench.compare.comparison import compare_runs
from slr_bench.grid.description import GENERIC, MetricText, WorkloadDescription
from slr_bench.record import Metric
from slr_bench.report.formats.documents import render_markdown
from slr_bench.report.run_report.content import read_content

TOKENS = WorkloadDescription(
    unit="token",
    micro_batch="batch.tokens",
    micro_batches="batch.accumulate",
    input_line="sequences of {data.length} tokens",
    setting_line=("{precision}",),
    accuracy_metric="bleu",
    metrics={"bleu": MetricText("BLEU", "Overlap with the reference.", "Meaning.", "learned", larger_is_better=True)},
)
IMAGES = WorkloadDescription(unit="image", micro_batch="batch.tokens", micro_batches="batch.accumulate")


def setting(tokens, accumulate, precision):
    return {"batch": {"tokens": tokens, "accumulate": accumulate}, "data": {"length": 128}, "precision": precision}


@pytest.fixture
def run(tmp_path):
    """Two arms of a workload called gpt with different effective batches."""
    found = FakeRun(tmp_path / "run", "gpt")
    for arm, own, memory, bleu in (
        ("plain", setting(8, 4, "fp32"), 800, 0.30),
        ("compact", setting(8, 2, "bf16"), 100, 0.31),
    ):
        cell = found.cell(arm, "gpt", setting=own)
        for repeat in range(3):
            metrics = step_metrics(memory * MIB, 1.0 + repeat / 10)
            del metrics["throughput_clips_per_s"]
            metrics["throughput_tokens_per_s"] = Metric(value=16.0, unit="1/s", source="clock", quality="measured")
            metrics["bleu"] = Metric(value=bleu, unit="ratio", source="test set", quality="measured")
            found.record(cell, repeat, metrics)
    return found


def described_as(monkeypatch, description):
    monkeypatch.setattr(cells, "describe_workload", lambda name: description)


def test_the_report_speaks_of_the_units_and_metrics_of_the_workload(run, monkeypatch):
    described_as(monkeypatch, TOKENS)
    report = read_content(run.write()).report
    assert "sequences of 128 tokens" in report.measured
    assert "plain: effective batch 32 = 8 × 4 micro-batches, fp32" in report.measured
    assert "compact: effective batch 16 = 8 × 2 micro-batches, bf16" in report.measured
    text = render_markdown(report, ())
    assert "Tokens per second" in text
    assert "Accuracy of gpt" in text
    assert "Overlap with the reference." in text
    assert "clip" not in text


def test_the_warning_of_different_effective_batches_appears_for_any_workload(run, monkeypatch):
    described_as(monkeypatch, IMAGES)
    (warning,) = read_content(run.write()).report.warnings
    assert warning.startswith("The arms differ in effective batch (plain 32, compact 16)")


def test_a_workload_that_is_not_installed_has_a_report_in_general_words(run, monkeypatch):
    described_as(monkeypatch, GENERIC)
    report = read_content(run.write()).report
    assert report.warnings == ()
    assert "micro-batches" not in report.measured
    assert "Memory of gpt" in render_markdown(report, ())


def test_time_is_per_unit_if_effective_batches_differ(run, monkeypatch):
    described_as(monkeypatch, TOKENS)
    assert "per token" in render_markdown(read_content(run.write()).report, ()).lower()


def test_a_comparison_judges_the_accuracy_that_the_workload_names(run, monkeypatch, tmp_path):
    described_as(monkeypatch, TOKENS)
    comparison = compare_runs(run.write(), run.directory, interleaved=True)
    (row,) = {cell.metric: cell for cell in comparison.cells if cell.metric == "bleu" and cell.arm == "plain"}.values()
    assert row.larger_is_better
    assert row.reason is not None
    assert "learned values need the same data_fingerprint" in row.reason
