"""Interference: discarded and marked runs are listed with their reasons, and their times are not compared."""

import io

import pytest
from fake_runs import MIB, FakeRun, step_metrics
from rich.console import Console

from slr_bench.record import Outcome
from slr_bench.report.formats.terminal import print_summary
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.sections import discards_line
from slr_bench.report.run_report.write import write_reports

WHY = "foreign CPU work: other processes took 42% of the cores while steps were timed (limit 10%)"


def panel(directory):
    return next(part for part in read_content(directory).report.sections if part.key == "discarded")


def disturbed(run):
    cell = run.cell("baseline", repeats=2, coordinates={"training.batch_size": 4}, own=False)
    run.record(cell, 0, step_metrics(MIB, 9.0), Outcome.INVALID_ENV, WHY, marks=(WHY,))
    run.record(cell, 0, step_metrics(MIB, 1.0))
    run.record(cell, 1, step_metrics(MIB, 2.0), marks=("clock jump: <b>", "swapping"))
    return run.write()


def test_attempts_and_marked_runs_are_listed_with_their_reasons(new_run):
    section = panel(disturbed(new_run()))
    assert section.paragraphs[0] == "1 run was discarded and repeated; 1 run with interference kept and marked."
    (table,) = section.tables
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["train_step", "baseline", "batch_size 4", "a0", "discarded", "9.00 s", WHY],
        ["train_step", "baseline", "batch_size 4", "a1", "kept, marked", "2.00 s", "clock jump: <b>; swapping"],
    ]


def test_discarded_runs_count_in_no_figure(new_run):
    content = read_content(disturbed(new_run()))
    assert content.cells[0].value("step_time_s") == 1.5
    assert set(content.cells[0].outcomes) == {Outcome.OK}


def test_run_without_interference_states_that_and_the_limits(usual_run):
    section = panel(usual_run)
    assert section.tables == ()
    assert section.paragraphs[0] == "Nothing: no run suffered interference."
    assert "10%" in section.paragraphs[1]


def lines_of_terminal(directory):
    console = Console(file=io.StringIO(), width=200)
    print_summary(read_content(directory).report, console)
    return [line for line in console.file.getvalue().splitlines() if "Discarded" in line]


def test_terminal_prints_the_number_of_discarded_runs_in_one_line(new_run):
    (line,) = lines_of_terminal(disturbed(new_run()))
    counts = "1 run was discarded and repeated; 1 run with interference kept and marked."
    assert line == f"Discarded and marked runs: {counts}"


def test_terminal_prints_no_line_without_interference(usual_run):
    assert lines_of_terminal(usual_run) == []


def test_page_and_markdown_escape_the_reason(new_run):
    paths = write_reports(disturbed(new_run()))
    for path in (paths.html, paths.markdown):
        text = path.read_text()
        assert "42%" in text
        assert "clock jump: &lt;b&gt;" in text


def test_line_of_discarded_runs_has_singular_and_plural():
    assert discards_line(0, 0) is None
    assert discards_line(3, 0) == "3 runs were discarded and repeated."
    assert discards_line(0, 2) == "2 runs with interference kept and marked."


def report_with_marks(tmp_path, marks):
    run = FakeRun(tmp_path / "run")
    for arm, size in (("baseline", 800), ("optimized", 100)):
        cell = run.cell(arm, repeats=2)
        for repeat in range(2):
            run.record(cell, repeat, step_metrics(size * MIB, 1.0 + size / 800))
    record, series = run.records[0]
    assert record.outcome is Outcome.OK
    run.records[0] = (record.model_copy(update={"marks": marks}), series)
    return read_content(run.write()).report


def test_time_with_interference_gives_no_ratio_and_its_row_is_marked(tmp_path):
    report = report_with_marks(tmp_path, ("foreign work: 40 % of the cores",))
    assert "8.0× less" in report.lead
    assert "as long" not in report.lead
    rows = next(section for section in report.sections if section.key == "grid").tables[0].rows
    assert rows[0].cells[2].text == "ok, 1 disturbed"
    assert "not reliable" in rows[0].cells[2].note
    assert rows[1].cells[2].text == "ok"
    missing = next(section for section in report.sections if section.key == "missing")
    assert missing.paragraphs == (
        "Nothing: every cell ended ok; 1 of the runs suffered interference while timed, listed below.",
    )


def test_time_without_interference_is_compared(tmp_path):
    report = report_with_marks(tmp_path, ())
    assert "as long" in report.lead
    missing = next(section for section in report.sections if section.key == "missing")
    assert missing.paragraphs == ("Nothing: every cell ended ok.",)


@pytest.mark.parametrize(
    ("outcome", "title"),
    [
        (Outcome.UNSUPPORTED, "Results without figures"),
        (Outcome.OOM_GPU, "Results without figures"),
        (Outcome.SKIPPED_DOMINATED, "Results without figures"),
        (Outcome.CRASH, "Cells with a run that failed or is missing"),
        (Outcome.TIMEOUT, "Cells with a run that failed or is missing"),
    ],
)
def test_results_without_figures_are_told_from_failures(tmp_path, outcome, title):
    run = FakeRun(tmp_path / "run")
    run.record(run.cell("baseline", repeats=1), 0, step_metrics(800 * MIB, 1.0))
    run.record(run.cell("optimized", repeats=1), 0, {}, outcome=outcome, reason="why it ended so")
    report = read_content(run.write()).report
    missing = next(section for section in report.sections if section.key == "missing")
    (table,) = missing.tables
    assert table.caption == title
    assert table.rows[0].cells[-1].text == "why it ended so"
    assert missing.paragraphs == (
        () if "failed" in title else ("Nothing. The cells below ended with a result that has no figures.",)
    )
