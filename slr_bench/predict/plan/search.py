"""The fastest setting that fits a budget, or the smallest that is fast enough: searched, with reasons. No torch.

Two orders cut the search: a smaller micro-batch needs no more memory and, at an equal effective batch, takes no less
time. So of each option (a choice for every knob) only the edge between what fits and what does not is looked for, by
halving, and options that are slower even at their fastest are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from slr_bench.errors import NothingMeasuredError, SlrBenchError
from slr_bench.predict.peak import Prediction
from slr_bench.units import format_bytes


class DoesNotFitError(SlrBenchError):
    """No setting that may be chosen fits."""

    exit_code = 6


class Point(NamedTuple):
    """An option at a micro-batch."""

    option: int
    size: int


@dataclass(frozen=True)
class Evaluated:
    """What a point needs and takes."""

    need_bytes: int
    """The most that NVML may show; within the budget where it runs there."""
    seconds: float
    """Of an optimizer step, without what giving cached memory back takes."""
    prediction: Prediction | None = None

    @property
    def is_tight(self) -> bool:
        """It stays within the budget only by giving cached memory back."""
        return self.prediction is not None and self.prediction.is_tight


class Rejected(NamedTuple):
    """A point that was not chosen, and why. ``bytes``: by how much it is over the budget; 0: another reason."""

    point: Point
    reason: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The chosen point, those beside it, and all that were evaluated."""

    chosen: Point
    evaluated: Mapping[Point, Evaluated]
    rejected: Sequence[Rejected]

    @property
    def pareto(self) -> list[Point]:
        """The points that no other beats in both memory and time, fastest first."""
        front: list[Point] = []
        for point, found in sorted(self.evaluated.items(), key=lambda item: (item[1].seconds, item[1].need_bytes)):
            if not front or found.need_bytes < self.evaluated[front[-1]].need_bytes:
                front.append(point)
        return front


IMPOSSIBLE: Final = "impossible"
"""So begins why a combination is no setting."""
Evaluate = Callable[[Sequence[Point]], Sequence[Evaluated | str]]
"""Several points at once; a text says why one cannot be."""
Fits = Callable[[Evaluated], bool]


def fastest(options: int, sizes: Sequence[int], evaluate: Evaluate, budget_bytes: int) -> Plan:
    """The fastest point within the budget. ``sizes``: micro-batches, ascending.

    One that has to give cached memory back is chosen only where nothing else fits: what that takes is not known.

    Raises:
        DoesNotFitError: none does; says what the smallest needs.
        NothingMeasuredError: none can be traced.
    """
    search = _Search(evaluate)
    tops = search.look_at_largest(options, sizes)
    if not search.known:
        raise NothingMeasuredError(_nothing_known(search))

    def fits(found: Evaluated) -> bool:
        return found.need_bytes <= budget_bytes

    def fits_calmly(found: Evaluated) -> bool:
        return fits(found) and not found.is_tight

    for wanted in (fits_calmly, fits):
        _find_edges(search, tops, sizes, wanted)
        chosen = _first(search, wanted)
        if chosen is not None:
            return Plan(chosen, search.known, _rejections(search, chosen, wanted, budget_bytes))
    search.look_at([Point(option, sizes[0]) for option in tops])
    raise DoesNotFitError(_nothing_fits(search, budget_bytes))


def _first(search: _Search, fits: Fits) -> Point | None:
    """The fastest that fits, of equally fast ones the smallest."""
    fitting = [(found.seconds, found.need_bytes, point) for point, found in search.known.items() if fits(found)]
    return min(fitting)[2] if fitting else None


def _find_edges(search: _Search, tops: Mapping[int, int], sizes: Sequence[int], fits: Fits) -> None:
    """Look, in each option that may still be faster than what is known to fit, for its largest size that does."""
    edges = {option: _Edge(-1, top) for option, top in tops.items() if not fits(search.at(option, sizes[top]))}

    def best() -> float:
        return min((found.seconds for found in search.known.values() if fits(found)), default=float("inf"))

    while True:
        limit = best()
        open_edges = {
            option: edge
            for option, edge in edges.items()
            if edge.is_open and search.at(option, sizes[tops[option]]).seconds < limit
        }
        if not open_edges:
            break
        asked = {option: Point(option, sizes[edge.middle]) for option, edge in open_edges.items()}
        search.look_at(list(asked.values()))
        for option, point in asked.items():
            found = search.known.get(point)
            edges[option] = edges[option].halved(found is not None and fits(found))


def smallest(options: int, sizes: Sequence[int], evaluate: Evaluate, slower: float) -> Plan:
    """The point with the least memory among those that take at most ``1 + slower`` times the fastest's time.

    Raises:
        NothingMeasuredError: none can be traced.
    """
    search = _Search(evaluate)
    tops = search.look_at_largest(options, sizes)
    if not search.known:
        raise NothingMeasuredError(_nothing_known(search))
    limit = min(found.seconds for found in search.known.values()) * (1 + slower)
    edges = {option: _Edge(-1, top) for option, top in tops.items() if search.at(option, sizes[top]).seconds <= limit}
    while open_edges := {option: edge for option, edge in edges.items() if edge.is_open}:
        asked = {option: Point(option, sizes[edge.middle]) for option, edge in open_edges.items()}
        search.look_at(list(asked.values()))
        for option, point in asked.items():
            found = search.known.get(point)
            edges[option] = edges[option].halved(found is None or found.seconds > limit)
    allowed = {point: found for point, found in search.known.items() if found.seconds <= limit}
    chosen = min(allowed, key=lambda point: (allowed[point].need_bytes, allowed[point].seconds))
    reasons = [
        Rejected(point, f"{found.seconds / limit:.2f}x the time allowed", 0)
        if found.seconds > limit
        else Rejected(point, f"needs {format_bytes(found.need_bytes - allowed[chosen].need_bytes)} more", 0)
        for point, found in search.known.items()
        if point != chosen
    ]
    return Plan(chosen, search.known, [*reasons, *search.refusals()])


class _Edge(NamedTuple):
    """Between a place that is on one side (-1: before all) and one that is on the other."""

    below: int
    above: int

    @property
    def is_open(self) -> bool:
        return self.above - self.below > 1

    @property
    def middle(self) -> int:
        return (self.below + self.above) // 2

    def halved(self, is_below: bool) -> _Edge:
        return _Edge(self.middle, self.above) if is_below else _Edge(self.below, self.middle)


class _Search:
    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.known: dict[Point, Evaluated] = {}
        self.refused: dict[Point, str] = {}

    def look_at(self, points: Sequence[Point]) -> None:
        new = [point for point in points if point not in self.known and point not in self.refused]
        for point, found in zip(new, self._evaluate(new) if new else (), strict=True):
            if isinstance(found, str):
                self.refused[point] = found
            else:
                self.known[point] = found

    def at(self, option: int, size: int) -> Evaluated:
        """What is known of a point."""
        return self.known[Point(option, size)]

    def look_at_largest(self, options: int, sizes: Sequence[int]) -> dict[int, int]:
        """Option -> place in ``sizes`` of the largest that is not refused (such as above a limit of the loader)."""
        tops: dict[int, int] = {}
        asked = dict.fromkeys(range(options), len(sizes) - 1)
        while asked:
            self.look_at([Point(option, sizes[place]) for option, place in asked.items()])
            tops |= {option: place for option, place in asked.items() if Point(option, sizes[place]) in self.known}
            asked = {option: place - 1 for option, place in asked.items() if option not in tops and place}
        return tops

    def refusals(self) -> list[Rejected]:
        return [Rejected(point, why, 0) for point, why in self.refused.items()]


def _rejections(search: _Search, chosen: Point, fits: Fits, budget_bytes: int) -> list[Rejected]:
    best = search.known[chosen]
    found = []
    for point, one in search.known.items():
        if point == chosen:
            continue
        if fits(one):
            found.append(Rejected(point, f"fits, {one.seconds / best.seconds - 1:.1%} slower", 0))
        elif one.need_bytes <= budget_bytes:
            found.append(Rejected(point, "fits only by giving cached memory back: time unknown", 0))
        else:
            over = one.need_bytes - budget_bytes
            found.append(Rejected(point, f"{format_bytes(over)} too much{_largest(one)}", over))
    return [*found, *search.refusals()]


def _largest(one: Evaluated) -> str:
    if one.prediction is None:
        return ""
    parts: Mapping[str, Any] = one.prediction.foreseen["by_category"]
    name = max(parts, key=parts.__getitem__)
    return f": needs {format_bytes(parts[name])} {name}"


def _nothing_fits(search: _Search, budget_bytes: int) -> str:
    known = search.known
    least = min(known.values(), key=lambda found: found.need_bytes)
    text = f"nothing fits {format_bytes(budget_bytes)}: the least of {len(known)} settings needs "
    text += format_bytes(least.need_bytes)
    if least.prediction is not None:
        traced, device = least.prediction.foreseen, least.prediction.device
        parts = [f"{format_bytes(count)} {name}" for name, count in _by_size(traced["by_category"]) if count]
        text += (
            f" ({format_bytes(device.context.high)} context, {', '.join(parts[:4])}, the rest rounding, cache and "
            f"workspaces; its operators' floor is {format_bytes(traced['floor_bytes'])})"
        )
    return text


def _nothing_known(search: _Search) -> str:
    """What stands in the way of most, impossible combinations apart."""
    reasons = Counter(search.refused.values())
    traced = {why: count for why, count in reasons.items() if not why.startswith(IMPOSSIBLE)}
    why = max(traced or reasons, key=reasons.__getitem__, default="there is none")
    return f"no setting can be predicted: {why}"


def _by_size(parts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(parts.items(), key=lambda item: -item[1])


class Probed(NamedTuple):
    """A point run for real."""

    peak_bytes: int | None
    """As NVML saw it; None: out of memory."""
    seconds: float | None


def verified(
    plan: Plan, probe: Callable[[Point], Probed], budget_bytes: int, tries: int = 3
) -> tuple[Point | None, dict[Point, Probed]]:
    """Run the chosen point, and where it does not fit after all the next fastest, at most ``tries``.

    Gives the first that fits, or None, and what was seen.
    """
    order = sorted(
        (point for point, found in plan.evaluated.items() if found.need_bytes <= budget_bytes),
        key=lambda point: (point != plan.chosen, plan.evaluated[point].is_tight, plan.evaluated[point].seconds),
    )
    seen: dict[Point, Probed] = {}
    for point in order[:tries]:
        seen[point] = probe(point)
        peak = seen[point].peak_bytes
        if peak is not None and peak <= budget_bytes:
            return point, seen
    return None, seen
