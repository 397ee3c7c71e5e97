"""Tables in a terminal: they fit, numbers are complete, and important columns are dropped last."""

import io
import re

import pytest
from fake_runs import MIB, FakeRun, step_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from slr_bench.record import SPLIT, Metric
from slr_bench.report.formats.documents import render_markdown
from slr_bench.report.formats.table import Cell, Column, Row, Table
from slr_bench.report.formats.terminal import print_summary, print_table
from slr_bench.report.run_report.content import read_content


def printed(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console)
    return console.file.getvalue().splitlines()


def over_floor(source: str) -> dict[str, Metric]:
    return {"peak_over_floor": Metric(value=1.25, unit="1", source=source, quality="exact")}


@pytest.fixture
def split_run(tmp_path):
    """One arm that splits its attention, one that does not, with every column of the grid that a CPU fills."""
    run = FakeRun(tmp_path / "run")
    energy = {"energy_j": Metric(value=3.0, unit="J", source="nvml", quality="measured")}
    for arm, source in (("baseline", "cpu-real"), ("optimized", f"cpu-real{SPLIT}attention, head")):
        coordinates = {"training.batch_size": 2, "training.gradient_accumulation_steps": 8}
        cell = run.cell(arm, repeats=2, coordinates=coordinates)
        for repeat in range(2):
            run.record(cell, repeat, step_metrics(400 * MIB, 0.5 + repeat) | over_floor(source) | energy)
    return run.write()


def test_at_80_columns_the_grid_has_memory_and_step_time(split_run):
    console = Console(file=io.StringIO(), width=80)
    print_summary(read_content(split_run).report, console)
    text = console.file.getvalue()
    grid = text[text.index("\ntrain_step") :]
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("400.0 MiB", "1.00 s", "2/2", "batch_size 2"):
        assert whole in grid
    assert "energy" not in grid.lower()


def test_words_break_only_at_their_joints():
    words = ["gradient_accumulation_steps", "model.region_focus_of_frames", "unremarkable", "enable_feature_caching"]
    rows = tuple(Row((Cell("x"), Cell(" ".join(words)), Cell("9,999"))) for _ in range(2))
    table = Table("t", (Column("A"), Column("Text"), Column("N", numeric=True)), rows)
    for width in range(28, 90):
        column = [line[3:].replace("9,999", "").strip() for line in printed(table, width)]
        shown = " ".join(line for line in column if line and set(line) != {"─"})
        for word in words:
            pieces = re.split(r"(?<=[_.])", word)
            assert re.search(" ?".join(map(re.escape, pieces)), shown), (width, shown)


def test_split_operators_have_a_note_in_every_format(split_run):
    report = read_content(split_run).report
    table = next(section for section in report.sections if section.key == "grid").tables[0]
    place = [column.title for column in table.columns].index("Peak/floor")
    notes = [row.cells[place].note for row in table.rows]
    assert notes == [None, "split into parts, which lowers the floor: attention, head"]
    assert notes[1] in render_markdown(report, [])


@settings(deadline=None, max_examples=60)
@given(
    columns=st.lists(st.tuples(st.text("ab ", min_size=1, max_size=20), st.booleans(), st.booleans()), min_size=4),
    width=st.integers(60, 160),
    length=st.integers(1, 12),
)
def test_no_table_is_wider_than_the_terminal(columns, width, length):
    titles = [Column(title.strip() or "x", numeric=numeric, spare=spare) for title, numeric, spare in columns]
    rows = tuple(Row(tuple(Cell(str(number % 10) * length) for number, _ in enumerate(titles))) for _ in range(2))
    assert max(map(len, printed(Table("caption", tuple(titles), rows), width))) <= width


def test_spare_columns_are_dropped_first_and_the_last_column_stays():
    titles = [Column(name, numeric=True, spare=name in "cd") for name in "abcdefg"]
    table = Table("", tuple(titles), (Row(tuple(Cell(name * 6) for name in "abcdefg")),))
    for width, left in ((56, "abcdefg"), (50, "abcefg"), (41, "abefg"), (34, "abeg")):
        (row,) = [line for line in printed(table, width) if "aaaaaa" in line]
        assert row.split() == [name * 6 for name in left]
