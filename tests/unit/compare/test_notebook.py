"""Records and comparisons as tables in a notebook."""

from __future__ import annotations

import re

import pandas
from fake_runs import FakeRun, fill_usual, step_metrics
from side_runs import HOSTILE, filled

from slr_bench.compare.comparison import compare_runs
from slr_bench.compare.notebook import tabulate
from slr_bench.record import Outcome


def test_every_record_is_a_row_that_can_be_filtered(tmp_path):
    run = fill_usual(FakeRun(tmp_path))
    records = [record for record, _ in run.records]
    frame = tabulate(records)
    assert len(frame) == len(records)
    assert list(frame.cell_id) == [record.cell_id for record in records]
    finished = frame[(frame.workload == "train_step") & (frame["setting.training.batch_size"] == 4)]
    assert list(finished.peak_tensor_bytes) == [100 * 1024**2] * len(finished)
    assert len(finished) > 0
    assert set(frame["environment.device"]) == {"cpu"}


def test_unknown_values_stay_unknown(tmp_path):
    run = fill_usual(FakeRun(tmp_path))
    frame = tabulate(record for record, _ in run.records)
    failed = frame[frame.outcome == str(Outcome.OOM_HOST)]
    assert pandas.isna(failed.peak_tensor_bytes).all()
    assert pandas.isna(frame.peak_allocated_bytes).all()
    assert failed.reason.str.contains("oom_kill").all()


def test_without_records_the_table_is_empty():
    assert tabulate([]).empty


def without_layout(html):
    """Return the HTML without white space between tags."""
    return re.sub(r">\s+<", "><", re.sub(r"\s+>", ">", html)).strip()


def test_foreign_text_is_escaped_in_a_notebook_table(new_run):
    base, head = (filled(new_run(name), memory, arm=HOSTILE) for name, memory in (("base", 1000), ("head", 1005)))
    text = without_layout(compare_runs(base.write(), head.write(), names=(HOSTILE, "b"))._repr_html_())
    assert re.findall(r"<(\w+)", text).count("td") == 8 * text.count("<tr><td>") > 0
    assert set(re.findall(r"</?(\w+)", text)) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;script&gt;" in text
    assert not {char for char in text if not char.isprintable()}
    assert len(text) < 20_000
    assert "<td>1000 B</td><td>1005 B</td><td>1.005</td><td>worse</td>" in text


def test_a_notebook_names_cells_by_arm_and_by_the_axes_that_differ(new_run):
    runs = [new_run(name) for name in ("base", "head")]
    for run in runs:
        for batch in (2, 4):
            axes = {"training.batch_size": batch, "training.precision": "fp32"}
            run.record(run.cell("tiny", coordinates=axes), 0, step_metrics(1000, 1.0))
        run.record(run.cell("other", coordinates={"training.precision": "fp32"}), 0, step_metrics(1000, 1.0))
    text = without_layout(compare_runs(*(run.write() for run in runs))._repr_html_())
    rows = re.findall(r"<tr><td>(.*?)</td></tr>", text)
    named = [row.split("</td><td>")[:3] for row in rows if "peak_tensor_bytes" in row]
    assert named == [
        ["train_step", "tiny", "batch_size=2"],
        ["train_step", "tiny", "batch_size=4"],
        ["train_step", "other", "–"],
    ]
    assert "c000" not in text


def test_a_long_table_in_a_notebook_is_cut(new_run):
    runs = [new_run(name) for name in ("base", "head")]
    for run in runs:
        for number in range(41):
            filled(run, arm=f"arm{number}", times=[1.0])
    text = without_layout(compare_runs(*(run.write() for run in runs))._repr_html_())
    assert text.count("<tr><td>") == 200
    assert "more rows: to_frame()" in text
