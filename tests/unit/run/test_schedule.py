"""The order of runs: every run once, repeats interleaved across the cells of a part."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workloads import train_step
from models.config import Settings
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import Part
from slr_bench.run.schedule import first_side, schedule


def cell(cell_id: str, part: Part, arm: str = "a") -> Cell:
    return Cell(cell_id, arm, train_step, part, Settings(), {}, is_own=True)


def cells_of(part: Part, count: int, prefix: str) -> list[Cell]:
    return [cell(f"{prefix}{number}", part) for number in range(count)]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_every_run_comes_exactly_once_part_after_part(first_cells, first_repeats, second_cells, second_repeats):
    first = cells_of(Part(repeats=first_repeats), first_cells, "x")
    second = cells_of(Part(repeats=second_repeats), second_cells, "y")
    names = [run.name for run in schedule(first + second)]
    expected_first = {f"{one.cell_id}-a-{repeat}" for one in first for repeat in range(first_repeats)}
    expected_second = {f"{one.cell_id}-a-{repeat}" for one in second for repeat in range(second_repeats)}
    assert len(names) == len(expected_first) + len(expected_second)
    assert set(names[: len(expected_first)]) == expected_first
    assert set(names[len(expected_first) :]) == expected_second


@settings(deadline=None)
@given(st.text(max_size=5))
def test_a_repeat_goes_through_all_cells_forwards_or_backwards(identity):
    runs = schedule(cells_of(Part(repeats=4), 3, "x"), identity=identity)
    assert [run.repeat for run in runs] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for repeat in range(4):
        names = [run.cell.cell_id for run in runs[3 * repeat : 3 * repeat + 3]]
        assert names == ["x0", "x1", "x2"] or (names == ["x2", "x1", "x0"] and repeat > 0)
    assert runs == schedule(cells_of(Part(repeats=4), 3, "x"), identity=identity)  # an interrupted grid goes on alike


def test_arms_with_one_setting_share_its_runs():
    part = Part(repeats=2)
    assert [run.name for run in schedule([cell("x", part, "a"), cell("x", part, "b")])] == ["x-a-0", "x-a-1"]


def test_a_cell_in_two_parts_runs_as_often_as_the_part_that_wants_more():
    """Whichever comes first: the directory promises that many repeats of it."""
    often, once = Part(repeats=3), Part(repeats=1)
    for parts in ((often, once), (once, often)):
        runs = schedule([cell("x", part) for part in parts])
        assert sorted(run.name for run in runs) == ["x-a-0", "x-a-1", "x-a-2"]


def test_without_cells_there_are_no_runs():
    assert schedule([]) == []


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.text(max_size=5))
def test_two_sides_are_neighbours(count, repeats, identity):
    runs = schedule(cells_of(Part(repeats=repeats), count, "x"), sides=2, identity=identity)
    assert len({run.name for run in runs}) == len(runs) == 2 * count * repeats
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        assert (first.cell, first.repeat) == (second.cell, second.repeat)
        assert first.side == first_side(identity, first.cell.cell_id, first.repeat) != second.side
        assert (first.partner_name, second.partner_name) == (second.name, first.name)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6))
def test_the_second_side_changes_nothing_for_the_first(count, repeats):
    cells = cells_of(Part(repeats=repeats), count, "x")
    assert [run for run in schedule(cells, sides=2) if run.side == "a"] == schedule(cells)


def test_coins_are_fair_and_independent():
    """In about half of 4,096 grids two coins agree: those of two pairs, or of a pair and its cells' direction."""
    grids = [f"grid {number}" for number in range(4096)]
    part = Part(repeats=3)
    coins = []
    for grid in grids:
        runs = schedule(cells_of(part, 2, "x"), sides=2, identity=grid)
        heads = [first_side(grid, cell_id, repeat) == "a" for cell_id in ("x0", "x1") for repeat in (1, 2)]
        coins.append([*heads, runs[4].cell.cell_id == "x0", runs[8].cell.cell_id == "x0"])
    for one, other in itertools.combinations_with_replacement(range(6), 2):
        agree = sum(coin[one] if one == other else coin[one] == coin[other] for coin in coins)
        assert abs(agree / len(grids) - 0.5) < 0.04  # five standard deviations
