"""The matrix: each cell is compared with the first arm at the same values of the axes."""

from __future__ import annotations

import pytest
from fake_runs import MIB, setting, step_metrics

from slr_bench.record import Outcome
from slr_bench.report.run_report.content import read_content

SIZES = {("baseline", 2): 100, ("baseline", 8): 400, ("optimized", 2): 50, ("optimized", 8): 100}


def tables(run):
    sections = read_content(run.write()).report.sections
    return {table.caption: table for section in sections if section.key == "matrix" for table in section.tables}


def filled(run, repeats=1, slower=1.0):
    for (arm, batch), size in SIZES.items():
        axes = {"training.batch_size": batch}
        own = (arm, batch) in (("baseline", 8), ("optimized", 2))
        cell = run.cell(arm, own=own, coordinates=axes, repeats=repeats, setting=setting(batch, 1, "fp32"))
        for repeat in range(repeats):
            time_s = (1 + repeat / 10) * (slower if arm == "optimized" else 1)
            run.record(cell, repeat, step_metrics(size * MIB, time_s))
    return run


def test_rows_are_the_axes_and_columns_the_arms(new_run):
    memory = tables(filled(new_run()))["Tensor memory, train_step"]
    assert [column.title for column in memory.columns] == ["batch_size", "baseline", "optimized"]
    assert [[cell.one_line for cell in row.cells] for row in memory.rows] == [
        ["2", "100.0 MiB", "50.0 MiB (2.0× less)"],
        ["8", "400.0 MiB", "100.0 MiB (4.0× less)"],
    ]
    assert [[cell.strong for cell in row.cells[1:]] for row in memory.rows] == [[False, True], [True, False]]


def test_heat_is_logarithmic_from_least_to_most(new_run):
    memory = tables(filled(new_run()))["Tensor memory, train_step"]
    heats = [cell.heat for row in memory.rows for cell in row.cells[1:]]
    assert heats == pytest.approx([1 / 3, 0, 1, 1 / 3])


@pytest.mark.parametrize(
    ("repeats", "slower", "words"),
    [
        (3, 1.5, "1.50×, n too small"),
        (8, 1.5, "1.50×"),
        (8, 1.001, "~ 1.00×"),
    ],
)
def test_time_shows_the_verdict_of_its_ratio(new_run, repeats, slower, words):
    times = tables(filled(new_run(), repeats, slower))["Step time, train_step"]
    assert {row.cells[2].detail for row in times.rows} == {words}


def test_matrix_marks_out_of_memory_and_missing_cells(new_run):
    run = filled(new_run())
    axes = {"training.batch_size": 64}
    run.record(run.cell("baseline", own=False, coordinates=axes), 0, outcome=Outcome.OOM_GPU, reason="no 9 GiB")
    row = tables(run)["Tensor memory, train_step"].rows[-1]
    assert [(cell.text, cell.tone) for cell in row.cells[1:]] == [("out of GPU memory", "warn"), ("·", "")]
    assert row.cells[1].link


def test_many_arms_become_the_rows(new_run):
    run = new_run()
    for number in range(12):
        for batch in (2, 4):
            cell = run.cell(f"arm {number}", own=batch == 2, coordinates={"training.batch_size": batch})
            run.record(cell, 0, step_metrics((number + batch) * MIB, 1.0))
    memory = tables(run)["Tensor memory, train_step"]
    assert [column.title for column in memory.columns] == ["Arm", "batch_size 2", "batch_size 4"]
    assert len(memory.rows) == 12
    assert memory.rows[2].cells[1].one_line == "4.0 MiB (2.0× more)"


def test_without_axes_there_is_no_matrix(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0))
    assert tables(run) == {}
