"""Times of disturbed runs are shown, said to be suspect, and not compared; bytes are."""

from fake_runs import FakeRun, step_metrics

from slr_bench.record import Outcome
from slr_bench.report.run_report.content import read_content

MIB = 1024**2


def content(tmp_path, marks):
    run = FakeRun(tmp_path / "run")
    for arm, size in (("baseline", 800), ("optimized", 100)):
        cell = run.cell(arm, repeats=2)
        for repeat in range(2):
            run.record(cell, repeat, step_metrics(size * MIB, 1.0 + size / 800))
    record, series = run.records[0]
    assert record.outcome is Outcome.OK
    run.records[0] = (record.model_copy(update={"marks": marks}), series)
    return read_content(run.write()).report


def test_a_disturbed_time_gives_no_ratio_and_its_row_says_so(tmp_path):
    report = content(tmp_path, ("foreign work: 40 % of the cores",))
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


def test_an_undisturbed_time_is_compared(tmp_path):
    report = content(tmp_path, ())
    assert "as long" in report.lead
    missing = next(section for section in report.sections if section.key == "missing")
    assert missing.paragraphs == ("Nothing: every cell ended ok.",)
