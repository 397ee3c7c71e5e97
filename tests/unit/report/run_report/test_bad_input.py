"""Incomplete run directories: the message, the exit code, and a report of what can be read."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_runs import MIB, epoch_metrics, samples, step_metrics, values_without_checksum

from slr_bench.errors import EXIT_USAGE, ConfigError, NothingMeasuredError
from slr_bench.record import Outcome
from slr_bench.report.formats.data_frame import tidy
from slr_bench.report.formats.documents import render_html, render_markdown
from slr_bench.report.run_report.content import LOST_ARM, read_content, read_directory
from slr_bench.report.run_report.write import RAM, STEP, memory_over_time, write_reports


@pytest.fixture
def small(new_run):
    """Two cells, one run each, as files."""
    run = new_run()
    for arm, size in (("baseline", 100), ("optimized", 50)):
        run.record(run.cell(arm, repeats=1), 0, step_metrics(size * MIB, 1.0), series=samples(size * MIB))
    return run.write()


def outputs(directory):
    """Page and twin, without the pictures, whose drawing is the slow part."""
    report = read_content(directory).report
    return render_html(report), render_markdown(report, [])


def change(path, **values):
    """Lay values over a JSON file."""
    path.write_text(json.dumps(values_without_checksum(path) | values))


def missing(directory):
    return next(section for section in read_content(directory).report.sections if section.key == "missing").paragraphs


def test_error_distinguishes_missing_path_file_and_empty_directory(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "none": "does not exist",
        "file": "is a file",
        "empty": r"has no grid\.json and no record",
    }.items():
        with pytest.raises(ConfigError, match=f"{words}.*give the directory that `slr-bench run` wrote"):
            read_directory(tmp_path / name)


def test_lost_manifest_exits_as_usage_error_and_still_writes_the_report(small):
    (small / "grid.json").unlink()
    with pytest.raises(ConfigError, match=r"no grid\.json.*its 2 records alone; bring grid\.json back") as caught:
        write_reports(small)
    assert caught.value.exit_code == EXIT_USAGE
    assert {"report.html", "report.md"} <= {path.name for path in small.iterdir()}


@pytest.mark.parametrize("text", [None, "", '{"schema": 1, "cells": [', "null", '{"schema": 2}'])
def test_lost_manifest_still_reports_the_records(small, text):
    if text is None:
        (small / "grid.json").unlink()
    else:
        (small / "grid.json").write_text(text)
    report = read_content(small).report
    assert "2 records alone" in report.warnings[0]
    assert report.warnings[0].count(str(small)) == 1
    for shown in outputs(small):
        assert LOST_ARM in shown
        assert "100.0 MiB" in shown
        assert "which cells are an arm's own setting is not known" in shown.replace("&#39;", "'")


def test_manifest_of_another_version_is_named_in_the_error(small):
    change(small / "grid.json", schema=7)
    shutil.rmtree(small / "records")
    with pytest.raises(ConfigError, match="schema 7 was written by another version of slr-bench, this one reads 1"):
        read_content(small)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema": 0}, "schema 0 was written by another version of slr-bench, this one reads 1"),
        ({"schema": 2, "new_key": 1}, "schema 2 was written by another version"),
        ({"schema": "<script>"}, "schema '<script>' was written by another version"),
        ({"outcome": "vanished"}, "outcome"),
        ({"reason": "why not"}, "every outcome except ok has a reason"),
    ],
)
def test_invalid_record_is_listed_and_other_records_are_reported(small, values, words):
    change(next((small / "records").glob("c000-*")), **values)
    assert any("c000-a-0.json" in line and words in line for line in missing(small))
    _, twin = outputs(small)
    assert "50.0 MiB" in twin
    assert "<script>" not in twin


@pytest.mark.parametrize("kind", ["half", "binary", "empty", "a directory", "a list"])
def test_half_written_record_is_listed(small, kind):
    path = next((small / "records").glob("c000-*"))
    text = path.read_text()
    path.unlink()
    if kind == "a directory":
        path.mkdir()
    else:
        bad = {"half": text[: len(text) // 2], "binary": "\x00\x80", "empty": "", "a list": "[]"}[kind]
        path.write_text(bad, encoding="latin-1")
    outputs(small)
    assert any(line.startswith("Unreadable and left out: c000-a-0.json") for line in missing(small))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_value_that_is_no_number_is_left_out_and_the_rest_of_its_record_stays(small, value):
    path = next((small / "records").glob("c000-*"))
    raw = values_without_checksum(path)
    raw["metrics"]["step_time_s"]["value"] = "HERE"
    path.write_text(json.dumps(raw).replace('"HERE"', value))
    report = read_content(small).report
    assert report.headline.rows[0].cells[1].text == "100.0 MiB"
    time = report.headline.rows[0].cells[2]
    assert (time.text, time.note) == ("–", f"the record holds {float(value)}, which is no figure")
    assert [line for line in missing(small) if "c000-a-0.json" in line] == [
        f"Unreadable and left out: c000-a-0.json: step_time_s left out: the record holds {float(value)}, which is no "
        "figure"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"columns": ["rss_bytes"], "times_s": [0, NaN, 2], "rows": [[NaN], [5], [Infinity]]}',
        '{"traced": {"live_bytes": [1, -5, 3], "phase": ["a", "b", "c"]}}',
        '{"traced": {"live_bytes": [0, 0], "phase": ["", "outside"]}}',
        '{"traced": {"live_bytes": [NaN, 1], "phase": ["a", "a"]}}',
        '{"traced": {"live_bytes": [1, 2], "phase": ["a", "a"], "by_module": {"a": {"b": 0}, "c": {"d": -4}}}}',
    ],
)
def test_invalid_samples_lose_a_chart_but_no_figure(small, text):
    for path in (small / "samples").iterdir():
        path.write_text(text)
    for picture in (STEP, RAM):
        memory_over_time(read_content(small), picture)
    page, _ = outputs(small)
    assert "100.0 MiB" in page
    assert "nan" not in page.partition("<script>")[0].lower()
    assert "v--" not in page


def test_run_with_failures_only_makes_a_report_and_exits_5(new_run):
    run = new_run()
    for arm, outcome in (("baseline", Outcome.CRASH), ("optimized", Outcome.TIMEOUT), ("third", Outcome.UNSUPPORTED)):
        run.record(run.cell(arm, repeats=1), 0, outcome=outcome, reason=f"because {arm}")
    directory = run.write()
    with pytest.raises(NothingMeasuredError, match="nothing was measured"):
        write_reports(directory)
    page = (directory / "report.html").read_text()
    for words in ("because baseline", "because optimized", "because third", "timeout", "crash", "unsupported"):
        assert words in page


def test_unreadable_records_are_not_reported_as_missing_runs(small):
    for path in (small / "records").iterdir():
        change(path, schema=2)
    why = "schema 2 was written by another version of slr-bench, this one reads 1"
    report = read_content(small).report
    assert {row.cells[1].note for row in report.headline.rows} == {f"its record cannot be read: {why}"}
    section = next(section for section in report.sections if section.key == "missing")
    assert section.paragraphs == (f"Unreadable and left out: c000-a-0.json and 1 more: not a readable record: {why}",)
    assert [[cell.text for cell in row.cells[-2:]] for row in section.tables[0].rows] == [
        ["unreadable", f"1 record cannot be read: {why}"],
        ["unreadable", f"1 record cannot be read: {why}"],
    ]
    for text in outputs(small):
        assert "no run has finished yet" not in text
        assert "not run" not in text.partition("<script>")[0]
    with pytest.raises(NothingMeasuredError, match=rf"none of the 2 records in .* can be read \({why}\); measure it"):
        write_reports(small)
    frame = tidy(read_content(small).cells)
    assert set(frame["outcome"]) == {"unreadable"}
    assert set(frame["reason"]) == {why}


def test_unreadable_record_among_readable_ones_is_counted(new_run):
    run = new_run()
    cell = run.cell("baseline", repeats=3)
    for repeat in range(2):
        run.record(cell, repeat, step_metrics(MIB, 1.0))
    directory = run.write()
    (directory / "records" / f"{cell}-a-1.json").write_text("{")
    section = next(section for section in read_content(directory).report.sections if section.key == "missing")
    outcome, reason = (cell.text for cell in section.tables[0].rows[0].cells[-2:])
    assert outcome == "ok, 1 unreadable"
    assert reason.startswith("1 record cannot be read: ")
    assert reason.endswith("; 1 of 3 runs not made")


def test_error_names_both_the_lost_manifest_and_the_unreadable_records(small):
    (small / "grid.json").unlink()
    for path in (small / "records").iterdir():
        change(path, schema=2)
    with pytest.raises(ConfigError, match=r"no grid\.json and none of its 2 records can be read \(schema 2 was"):
        read_content(small)


def test_values_of_zero_are_reported(new_run):
    run = new_run()
    for number, (size, time_s) in enumerate(((0, 1.0), (5, 0.5), (3, 2.0))):
        cell = run.cell("baseline", own=not number, coordinates={"training.batch_size": number})
        metrics = step_metrics(size, time_s)
        run.record(cell, 0, metrics, series=samples(max(size, 0)))
    run.record(run.cell("baseline", "train_epochs"), 0, epoch_metrics(0.0, 0.0))
    directory = run.write()
    write_reports(directory)
    for page in ("report.html", "report.md"):
        text = (directory / page).read_text()
        assert all(figure in text for figure in ("0 B", "5 B", "3 B", "0.00 %"))


def test_report_of_a_run_that_has_just_begun_lists_missing_runs(new_run):
    run = new_run()
    run.cell("baseline")
    directory = run.write()
    shutil.rmtree(directory / "records")
    assert "3 of 3 runs not made" in outputs(directory)[1]
