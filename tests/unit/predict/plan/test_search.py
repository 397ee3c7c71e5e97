"""The plan's search, compared with evaluating every point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.errors import NothingMeasuredError
from slr_bench.predict.plan.result import Choice, DoesNotFitError, Evaluated, Measured, Point
from slr_bench.predict.plan.search import find_fastest, find_smallest, verify
from slr_bench.predict.trace_pool import Refusal

SIZES = [1, 2, 4, 8, 16]


class Table:
    """All points with known results. A larger micro-batch needs more memory and no more time."""

    def __init__(self, rows: Sequence[Sequence[tuple[int, int]]], refused: frozenset[int] = frozenset()) -> None:
        self.refused = refused
        self.evaluated: list[Point] = []
        self.points = {
            Point(option, size): Evaluated(need, float(seconds))
            for option, row in enumerate(rows)
            for size, need, seconds in zip(
                SIZES, itertools.accumulate(a for a, _ in row), _falling([b for _, b in row]), strict=True
            )
        }
        self.options = len(rows)

    def evaluate(self, points: Sequence[Point]) -> list[Evaluated | Refusal]:
        self.evaluated += points
        return [Refusal("no") if point.option in self.refused else self.points[point] for point in points]

    def allowed(self) -> dict[Point, Evaluated]:
        return {point: found for point, found in self.points.items() if point.option not in self.refused}


def _falling(steps: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(reversed(steps)))[::-1]


rows = st.lists(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=len(SIZES), max_size=len(SIZES)),
    min_size=1,
    max_size=6,
)


@given(rows, st.integers(1, 200), st.frozensets(st.integers(0, 5), max_size=2))
def test_fastest_is_the_same_as_that_of_an_exhaustive_search(table_rows, budget, refused):
    table = Table(table_rows, refused)
    fitting = [found.seconds for found in table.allowed().values() if found.need_bytes <= budget]
    if not fitting:
        with pytest.raises(DoesNotFitError if table.allowed() else NothingMeasuredError):
            find_fastest(table.options, SIZES, table.evaluate, budget)
        return
    plan = find_fastest(table.options, SIZES, table.evaluate, budget)
    chosen = table.points[plan.chosen]
    assert chosen.need_bytes <= budget
    assert chosen.seconds == min(fitting)
    assert len(table.evaluated) == len(set(table.evaluated)), "no point is traced twice"


@given(rows, st.floats(0, 2))
def test_smallest_is_the_same_as_that_of_an_exhaustive_search(table_rows, slower):
    table = Table(table_rows)
    plan = find_smallest(table.options, SIZES, table.evaluate, slower)
    limit = min(found.seconds for found in table.points.values()) * (1 + slower)
    allowed = [found.need_bytes for found in table.points.values() if found.seconds <= limit]
    assert table.points[plan.chosen].seconds <= limit
    assert table.points[plan.chosen].need_bytes == min(allowed)


@given(rows, st.integers(1, 200))
def test_points_are_on_the_pareto_front_if_and_only_if_nothing_beats_them(table_rows, budget):
    table = Table(table_rows)
    plan = find_smallest(table.options, SIZES, table.evaluate, 10)
    front = set(plan.pareto)
    for point, found in plan.evaluated.items():
        beaten = any(
            other.need_bytes <= found.need_bytes
            and other.seconds <= found.seconds
            and (other.need_bytes, other.seconds) != (found.need_bytes, found.seconds)
            for other in plan.evaluated.values()
        )
        same = [p for p in front if table.points[p] == found]
        assert beaten != bool(point in front or same)


def test_options_that_are_slower_at_their_fastest_are_not_searched():
    slow = [(1, 9)] * len(SIZES)  # 45 at the smallest, 9 at the largest
    table = Table([[(1, 1)] * len(SIZES), [(100, 9), *slow[1:]]])
    find_fastest(2, SIZES, table.evaluate, 50)
    assert sum(point.option == 1 for point in table.evaluated) == 1


def test_rejection_has_the_bytes_over_the_budget():
    table = Table([[(10, 1)] * 5, [(30, 1)] * 5])
    plan = find_fastest(2, SIZES, table.evaluate, 60)
    reasons = {one.point: one for one in plan.rejected}
    assert reasons[Point(1, 16)].bytes == 150 - 60
    assert plan.chosen == Point(0, 16)


def test_tight_point_is_chosen_only_if_nothing_else_fits():
    pressed: Any = SimpleNamespace(is_tight=True, step=SimpleNamespace(by_category={"saved": 1}))
    points = {Point(0, 1): Evaluated(40, 3.0), Point(0, 2): Evaluated(50, 1.0, pressed)}

    def evaluate(some: Sequence[Point]) -> list[Evaluated | Refusal]:
        return [points[point] for point in some]

    calm = find_fastest(1, [1, 2], evaluate, 50)
    assert calm.chosen == Point(0, 1)
    assert [(one.point, one.bytes) for one in calm.rejected] == [(Point(0, 2), 0)]
    assert "giving cached memory back" in calm.rejected[0].reason
    points[Point(0, 1)] = Evaluated(60, 3.0)
    assert find_fastest(1, [1, 2], evaluate, 50).chosen == Point(0, 2)


def test_error_has_the_least_need_if_nothing_fits():
    table = Table([[(70, 1)] * 5, [(90, 1)] * 5])
    with pytest.raises(DoesNotFitError, match=r"nothing fits 50 B: the least of 6 settings needs 70 B"):
        find_fastest(2, SIZES, table.evaluate, 50)


def test_refused_option_is_rejected_with_its_reason():
    table = Table([[(1, 1)] * 5, [(1, 1)] * 5], frozenset({1}))
    plan = find_fastest(2, SIZES, table.evaluate, 100)
    assert {(one.point.option, one.reason) for one in plan.rejected} == {(1, "no")}


@pytest.mark.parametrize(
    ("peaks", "chosen", "runs"),
    [([40], 0, 1), ([60, 45], 1, 2), ([None, 60, 50], 2, 3), ([60, 60, 60, 10], None, 3)],
)
def test_verification_falls_back_to_the_next_fastest_at_most_three_times(peaks, chosen, runs):
    points = [Point(option, 1) for option in range(len(peaks))]
    plan = Choice(points[0], {point: Evaluated(50, 1.0 + point.option) for point in points}, ())
    runs_of = []

    def measure(point: Point) -> Measured:
        runs_of.append(point)
        return Measured(peaks[point.option], 1.0)

    point, measurements = verify(plan, measure, 50)
    assert point == (None if chosen is None else points[chosen])
    assert len(runs_of) == runs == len(measurements)


def test_refused_micro_batch_gives_way_to_the_next_smaller():
    table = Table([[(10, 1)] * 5])
    large = {Point(0, 16), Point(0, 8)}

    def evaluate(points: Sequence[Point]) -> list[Evaluated | Refusal]:
        return [Refusal("above a limit") if point in large else table.points[point] for point in points]

    assert find_fastest(1, SIZES, evaluate, 100).chosen == Point(0, 4)
    assert find_smallest(1, SIZES, evaluate, 0.0).chosen == Point(0, 4)
    with pytest.raises(NothingMeasuredError, match="no setting can be predicted: above a limit"):
        find_fastest(1, [8, 16], evaluate, 100)
