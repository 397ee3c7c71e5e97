"""The order of runs: every run once, repeats interleaved across the cells of a part."""

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workloads import train_step
from models.config import Settings
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import Part
from slr_bench.run.plan import plan


def cell(cell_id: str, part: Part, arm: str = "a") -> Cell:
    return Cell(cell_id, arm, train_step, part, Settings(), {}, is_own=True)


def cells_of(part: Part, count: int, prefix: str) -> list[Cell]:
    return [cell(f"{prefix}{number}", part) for number in range(count)]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_every_run_comes_exactly_once_part_after_part(first_cells, first_repeats, second_cells, second_repeats):
    first = cells_of(Part(repeats=first_repeats), first_cells, "x")
    second = cells_of(Part(repeats=second_repeats), second_cells, "y")
    names = [run.name for run in plan(first + second)]
    expected_first = {f"{one.cell_id}-a-{repeat}" for one in first for repeat in range(first_repeats)}
    expected_second = {f"{one.cell_id}-a-{repeat}" for one in second for repeat in range(second_repeats)}
    assert len(names) == len(expected_first) + len(expected_second)
    assert set(names[: len(expected_first)]) == expected_first
    assert set(names[len(expected_first) :]) == expected_second


def test_repeats_are_interleaved_there_and_back():
    """A machine that slows down steadily gives each cell the same mean place over two repeats."""
    runs = plan(cells_of(Part(repeats=4), 3, "x"))
    assert [run.cell.cell_id for run in runs] == [
        "x0",
        "x1",
        "x2",
        "x2",
        "x1",
        "x0",
        "x0",
        "x1",
        "x2",
        "x2",
        "x1",
        "x0",
    ]
    assert [run.repeat for run in runs] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_arms_with_one_setting_share_its_runs():
    part = Part(repeats=2)
    assert [run.name for run in plan([cell("x", part, "a"), cell("x", part, "b")])] == ["x-a-0", "x-a-1"]


def test_a_cell_in_two_parts_runs_as_often_as_the_part_that_wants_more():
    """Whichever comes first: the directory promises that many repeats of it."""
    often, once = Part(repeats=3), Part(repeats=1)
    for parts in ((often, once), (once, often)):
        runs = plan([cell("x", part) for part in parts])
        assert sorted(run.name for run in runs) == ["x-a-0", "x-a-1", "x-a-2"]


def test_no_cells_no_runs():
    assert plan([]) == []


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6))
def test_two_sides_are_neighbours_in_the_order_abba(count, repeats):
    runs = plan(cells_of(Part(repeats=repeats), count, "x"), sides=2)
    assert len({run.name for run in runs}) == len(runs) == 2 * count * repeats
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        assert (first.cell, first.repeat) == (second.cell, second.repeat)
        assert first.side + second.side == ("ab" if first.repeat % 2 == 0 else "ba")
        assert (first.partner_name, second.partner_name) == (second.name, first.name)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6))
def test_the_second_side_changes_nothing_for_the_first(count, repeats):
    cells = cells_of(Part(repeats=repeats), count, "x")
    assert [run for run in plan(cells, sides=2) if run.side == "a"] == plan(cells)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 3))
def test_over_an_even_number_of_repeats_a_steady_drift_meets_both_sides_alike(count, half_repeats):
    runs = plan(cells_of(Part(repeats=2 * half_repeats), count, "x"), sides=2)
    for cell_id in {run.cell.cell_id for run in runs}:
        places = {"a": 0, "b": 0}
        for place, run in enumerate(runs):
            if run.cell.cell_id == cell_id:
                places[run.side] += place
        assert places["a"] == places["b"]
