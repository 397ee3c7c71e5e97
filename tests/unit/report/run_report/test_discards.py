"""The panel of what was thrown away: every attempt and every marked run, with its reason, in all renderings."""

import io

from fake_runs import MIB, step_metrics
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


def test_what_was_thrown_away_counts_in_no_figure(new_run):
    content = read_content(disturbed(new_run()))
    assert content.cells[0].value("step_time_s") == 1.5
    assert set(content.cells[0].outcomes) == {Outcome.OK}


def test_an_undisturbed_run_says_so_and_the_limits(usual_run):
    section = panel(usual_run)
    assert section.tables == ()
    assert section.paragraphs[0] == "Nothing: no run suffered interference."
    assert "10%" in section.paragraphs[1]


def lines_of_terminal(directory):
    console = Console(file=io.StringIO(), width=200)
    print_summary(read_content(directory).report, console)
    return [line for line in console.file.getvalue().splitlines() if "Discarded" in line]


def test_the_terminal_says_how_many_in_one_line(new_run):
    (line,) = lines_of_terminal(disturbed(new_run()))
    counts = "1 run was discarded and repeated; 1 run with interference kept and marked."
    assert line == f"Discarded and marked runs: {counts}"


def test_the_terminal_says_nothing_of_an_undisturbed_run(usual_run):
    assert lines_of_terminal(usual_run) == []


def test_page_and_markdown_hold_the_reason_as_text(new_run):
    paths = write_reports(disturbed(new_run()))
    for path in (paths.html, paths.markdown):
        text = path.read_text()
        assert "42%" in text
        assert "clock jump: &lt;b&gt;" in text


def test_counts_are_worded_for_one_and_many():
    assert discards_line(0, 0) is None
    assert discards_line(3, 0) == "3 runs were discarded and repeated."
    assert discards_line(0, 2) == "2 runs with interference kept and marked."
