"""Changes that trainings made to themselves stand beside the accuracy, on the page and in Markdown."""

import re

import pandas
import pytest
from fake_runs import HALVED, MIB, SHED, FakeRun, epoch_metrics

from slr_bench.report.formats.data_frame import tidy
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import write_reports

CHANGE = "memory critical, RAM is 96 % full: micro-batch 8 -> 4 clips"


def trained(tmp_path, *events):
    run = FakeRun(tmp_path / "run")
    for arm, own_events in (("baseline", ()), ("optimized", events)):
        run.record(run.cell(arm, "train_epochs", repeats=1), 0, epoch_metrics(0.9, 60.0), events=own_events)
    return run.write()


def section(report, key):
    return next((one for one in report.sections if one.key == key), None)


def test_every_change_is_listed_with_step_cause_and_bytes(tmp_path):
    report = read_content(trained(tmp_path, SHED, HALVED)).report
    (table,) = section(report, "events").tables
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        [
            "optimized",
            "own setting",
            "a0",
            "3",
            "memory warning, RAM is 91 % full: the clip cache is dropped",
            "–",
            "–",
        ],
        ["optimized", "own setting", "a0", "12", CHANGE, "96.0 MiB", "80.0 MiB"],
    ]


def test_accuracy_of_a_changed_batch_is_shown_marked_and_not_compared(tmp_path):
    report = read_content(trained(tmp_path, HALVED)).report
    assert [text for text in report.warnings if CHANGE in text and text.endswith("its accuracy is not compared")]
    cell = next(cell for cell in report.headline.rows[1].cells if cell.text == "90.0 %")
    assert (cell.tone, cell.detail) == ("warn", "not comparable")
    assert CHANGE in cell.note
    assert "points" not in report.lead
    row = section(report, "grid").tables[0].rows[1]
    assert any(cell.text == "90.0 %" and cell.note and CHANGE in cell.note for cell in row.cells)


@pytest.mark.parametrize("events", [(), (SHED,)])
def test_accuracy_with_the_same_batches_is_compared(tmp_path, events):
    report = read_content(trained(tmp_path, *events)).report
    assert "+0.0 points" in report.lead
    assert not [text for text in report.warnings if "its accuracy is not compared" in text]
    assert (section(report, "events") is None) == (not events)


def test_page_and_markdown_name_the_change_and_escape_it(tmp_path):
    hostile = HALVED.model_copy(update={"text": "halved <b>now</b>"})
    paths = write_reports(trained(tmp_path, hostile))
    for path in (paths.html, paths.markdown):
        text = path.read_text()
        assert len(re.findall("halved &lt;b&gt;now", text)) >= 2
        assert "<b>now" not in text


def test_tidy_table_has_the_events(tmp_path):
    content = read_content(trained(tmp_path, SHED, HALVED))
    frame = tidy(content.cells)
    assert isinstance(frame, pandas.DataFrame)
    texts = frame.loc[frame["arm"] == "optimized", "events"].unique()
    assert list(texts) == [f"step 3: {SHED.text}; step 12: {CHANGE}"]
    assert frame.loc[frame["arm"] == "baseline", "events"].isna().all()
    assert SHED.used_bytes is None
    assert HALVED.used_bytes == 96 * MIB
