"""Search for the fastest setting that fits a budget, or the smallest that is fast enough. Imports no torch.

The search relies on two orders. A smaller micro-batch needs no more memory; at an equal effective batch it takes no
less time. So in each option (a choice for every knob) only the edge between what fits and what does not is looked for,
by halving. Options that are slower even at their largest micro-batch are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from slr_bench.errors import NothingMeasuredError
from slr_bench.predict.plan.result import Choice, DoesNotFitError, Evaluated, Measured, Point, Rejected
from slr_bench.predict.trace_pool import Refusal
from slr_bench.units import format_bytes

IMPOSSIBLE: Final = "impossible"
"""First word of the reason why a combination is not a valid setting."""
Evaluate = Callable[[Sequence[Point]], Sequence[Evaluated | Refusal]]
"""Evaluates several points at once."""
Fits = Callable[[Evaluated], bool]


def find_fastest(options: int, sizes: Sequence[int], evaluate: Evaluate, budget_bytes: int) -> Choice:
    """Find the fastest point within the budget. ``sizes`` are the micro-batches, ascending.

    A point that has to give cached memory back is chosen only if nothing else fits, because its time is unknown.

    Raises:
        DoesNotFitError: no point fits; the message has the need of the smallest.
        NothingMeasuredError: no point can be traced.
    """
    search = _Search(evaluate)
    tops = search.evaluate_largest(options, sizes)
    search.require_any()

    def fits(evaluated: Evaluated) -> bool:
        return evaluated.need_bytes <= budget_bytes

    def fits_calmly(evaluated: Evaluated) -> bool:
        return fits(evaluated) and not evaluated.is_tight

    for criterion in (fits_calmly, fits):
        _find_edges(search, tops, sizes, criterion)
        chosen = _fastest_known(search, criterion)
        if chosen is not None:
            return Choice(chosen, search.known, _rejections(search, chosen, criterion, budget_bytes))
    search.evaluate_new([Point(option, sizes[0]) for option in tops])
    raise DoesNotFitError(_nothing_fits(search, budget_bytes))


def _fastest_known(search: _Search, fits: Fits) -> Point | None:
    """The fastest point that fits; of equally fast ones the smallest."""
    fitting = [(one.seconds, one.need_bytes, point) for point, one in search.known.items() if fits(one)]
    return min(fitting)[2] if fitting else None


def _find_edges(search: _Search, tops: Mapping[int, int], sizes: Sequence[int], fits: Fits) -> None:
    """Find the largest size that fits, in each option that may still be faster than what is known to fit."""
    edges = {option: _Edge(-1, top) for option, top in tops.items() if not fits(search.at_size(option, sizes[top]))}

    def is_promising(option: int, edge: _Edge) -> bool:
        return edge.is_open and search.at_size(option, sizes[tops[option]]).seconds < limit

    while True:
        limit = min((one.seconds for one in search.known.values() if fits(one)), default=float("inf"))
        open_edges = {option: edge for option, edge in edges.items() if is_promising(option, edge)}
        if not open_edges:
            break
        _halve(search, edges, open_edges, sizes, lambda one: one is not None and fits(one))


def find_smallest(options: int, sizes: Sequence[int], evaluate: Evaluate, slower: float) -> Choice:
    """Find the point with the least memory among those that take at most ``1 + slower`` times the fastest time.

    Raises:
        NothingMeasuredError: no point can be traced.
    """
    search = _Search(evaluate)
    tops = search.evaluate_largest(options, sizes)
    search.require_any()
    limit = min(one.seconds for one in search.known.values()) * (1 + slower)
    edges = {
        option: _Edge(-1, top) for option, top in tops.items() if search.at_size(option, sizes[top]).seconds <= limit
    }
    while open_edges := {option: edge for option, edge in edges.items() if edge.is_open}:
        _halve(search, edges, open_edges, sizes, lambda one: one is None or one.seconds > limit)
    allowed = {point: one for point, one in search.known.items() if one.seconds <= limit}
    chosen = min(allowed, key=lambda point: (allowed[point].need_bytes, allowed[point].seconds))
    reasons = [
        Rejected(point, f"{one.seconds / limit:.2f}x the time allowed", 0)
        if one.seconds > limit
        else Rejected(point, f"needs {format_bytes(one.need_bytes - allowed[chosen].need_bytes)} more", 0)
        for point, one in search.known.items()
        if point != chosen
    ]
    return Choice(chosen, search.known, [*reasons, *search.refusals()])


class _Edge(NamedTuple):
    """Two positions in the sizes, on different sides of the edge; -1 stands before the first size."""

    below: int
    above: int

    @property
    def is_open(self) -> bool:
        return self.above - self.below > 1

    @property
    def middle(self) -> int:
        return (self.below + self.above) // 2


def _halve(
    search: _Search,
    edges: dict[int, _Edge],
    open_edges: Mapping[int, _Edge],
    sizes: Sequence[int],
    is_below: Callable[[Evaluated | None], bool],
) -> None:
    """Evaluate the middle of each open edge, and move the edge to it."""
    middles = {option: Point(option, sizes[edge.middle]) for option, edge in open_edges.items()}
    search.evaluate_new(list(middles.values()))
    for option, point in middles.items():
        below, above = edges[option]
        middle = edges[option].middle
        edges[option] = _Edge(middle, above) if is_below(search.known.get(point)) else _Edge(below, middle)


class _Search:
    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.known: dict[Point, Evaluated] = {}
        self.refused: dict[Point, str] = {}

    def evaluate_new(self, points: Sequence[Point]) -> None:
        new = [point for point in points if point not in self.known and point not in self.refused]
        for point, result in zip(new, self._evaluate(new) if new else (), strict=True):
            if isinstance(result, Refusal):
                self.refused[point] = result.reason
            else:
                self.known[point] = result

    def at_size(self, option: int, size: int) -> Evaluated:
        return self.known[Point(option, size)]

    def evaluate_largest(self, options: int, sizes: Sequence[int]) -> dict[int, int]:
        """Map each option to the position of its largest size that is not refused, as a loader's limit may do."""
        tops: dict[int, int] = {}
        positions = dict.fromkeys(range(options), len(sizes) - 1)
        while positions:
            self.evaluate_new([Point(option, sizes[position]) for option, position in positions.items()])
            tops |= {o: position for o, position in positions.items() if Point(o, sizes[position]) in self.known}
            positions = {o: position - 1 for o, position in positions.items() if o not in tops and position}
        return tops

    def refusals(self) -> list[Rejected]:
        return [Rejected(point, reason, 0) for point, reason in self.refused.items()]

    def require_any(self) -> None:
        """Raise the most frequent reason if no point is known; impossible combinations count last."""
        if self.known:
            return
        reasons = Counter(self.refused.values())
        traced = {reason: count for reason, count in reasons.items() if not reason.startswith(IMPOSSIBLE)}
        reason = max(traced or reasons, key=reasons.__getitem__, default="there is none")
        raise NothingMeasuredError(f"no setting can be predicted: {reason}")


def _rejections(search: _Search, chosen: Point, fits: Fits, budget_bytes: int) -> list[Rejected]:
    best = search.known[chosen]
    rejected = []
    for point, one in search.known.items():
        if point == chosen:
            continue
        if fits(one):
            rejected.append(Rejected(point, f"fits, {one.seconds / best.seconds - 1:.1%} slower", 0))
        elif one.need_bytes <= budget_bytes:
            rejected.append(Rejected(point, "fits only by giving cached memory back: time unknown", 0))
        else:
            over = one.need_bytes - budget_bytes
            rejected.append(Rejected(point, f"{format_bytes(over)} too much{_largest_part(one)}", over))
    return [*rejected, *search.refusals()]


def _largest_part(one: Evaluated) -> str:
    if one.prediction is None:
        return ""
    parts = one.prediction.step.by_category
    name = max(parts, key=parts.__getitem__)
    return f": needs {format_bytes(parts[name])} {name}"


def _nothing_fits(search: _Search, budget_bytes: int) -> str:
    known = search.known
    least = min(known.values(), key=lambda one: one.need_bytes)
    text = f"nothing fits {format_bytes(budget_bytes)}: the least of {len(known)} settings needs "
    text += format_bytes(least.need_bytes)
    if least.prediction is not None:
        step, context = least.prediction.step, least.prediction.context
        by_size = sorted(step.by_category.items(), key=lambda item: -item[1])
        parts = [f"{format_bytes(count)} {name}" for name, count in by_size if count]
        text += (
            f" ({format_bytes(context.high)} context, {', '.join(parts[:4])}, the rest rounding, cache and "
            f"workspaces; its operators' floor is {format_bytes(step.floor_bytes)})"
        )
    return text


def verify(
    choice: Choice, measure: Callable[[Point], Measured], budget_bytes: int, tries: int = 3
) -> tuple[Point | None, dict[Point, Measured]]:
    """Run the chosen point on the GPU; if it does not fit, run the next fastest, at most ``tries`` points in all.

    Returns the first point that fits, or None, and all measurements.
    """
    order = sorted(
        (point for point, one in choice.evaluated.items() if one.need_bytes <= budget_bytes),
        key=lambda point: (point != choice.chosen, choice.evaluated[point].is_tight, choice.evaluated[point].seconds),
    )
    measured: dict[Point, Measured] = {}
    for point in order[:tries]:
        measured[point] = measure(point)
        peak = measured[point].peak_bytes
        if peak is not None and peak <= budget_bytes:
            return point, measured
    return None, measured
