"""Memory over one step, from a run's samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

POINTS = 300
"""Points a line is thinned to; each stretch keeps its largest, so a peak stays."""
OUTSIDE = "outside"
"""The tracer's name of what runs between phases."""


class Span(BaseModel):
    """One stay in a phase."""

    name: str
    start_s: float
    end_s: float


class Traced(BaseModel):
    """Live tensor bytes after each operator of one step, with the phase it ran in."""

    live_bytes: list[int]
    phase: list[str]
    by_category: dict[str, list[int]] = {}
    """What the bytes are; they add up to ``live_bytes``. Empty in samples of before 2026-11-24."""
    by_module: dict[str, dict[str, int]] = {}
    """At the peak: module -> category -> bytes, largest first. Empty in samples of before 2026-11-24."""

    @model_validator(mode="after")
    def _same_length(self) -> Traced:
        for count in (len(self.phase), *map(len, self.by_category.values())):
            if len(self.live_bytes) != count:
                raise ValueError(f"{len(self.live_bytes)} bytes but {count} phases or bytes of a category")
        return self


class Samples(BaseModel):
    """A run's time series as the store keeps them."""

    model_config = ConfigDict(extra="ignore")

    columns: list[str] = []
    times_s: list[float] = []
    rows: list[list[float | None]] = []
    phases: list[Span] = []
    traced: Traced | None = None


@dataclass(frozen=True)
class Timeline:
    """One line: ``y_bytes[i]`` at ``x[i]`` during ``phase[i]``."""

    x: tuple[float, ...]
    y_bytes: tuple[float, ...]
    phase: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What the bytes are; they add up to ``y_bytes``. Empty where that is not known."""

    @property
    def stretches(self) -> list[tuple[str, float, float]]:
        """Phase, from, to: neighbours in the same phase joined; the time outside any left out."""
        found: list[tuple[str, float, float]] = []
        for place, (x, name) in enumerate(zip(self.x, self.phase, strict=True)):
            end = self.x[place + 1] if place + 1 < len(self.x) else x
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1], end)
            else:
                found.append((name, x, end))
        return [stretch for stretch in found if stretch[0] != OUTSIDE and stretch[2] > stretch[1]]


def parse_samples(raw: dict[str, Any] | None) -> Samples | None:
    """The samples, or None where there are none or another version wrote them: a picture is lost, no figure."""
    try:
        return None if raw is None else Samples.model_validate(raw)
    except ValidationError:
        return None


def traced_timeline(samples: Samples, most: int = POINTS) -> Timeline | None:
    """Live tensor bytes over the operators of the traced step; x runs from 0 to 1."""
    traced = samples.traced
    if traced is None or len(traced.live_bytes) < 2:
        return None
    last = len(traced.live_bytes) - 1
    x = [place / last for place in range(last + 1)]
    return _thin(x, traced.live_bytes, traced.phase, most, traced.by_category)


def rss_timeline(samples: Samples, most: int = POINTS) -> Timeline | None:
    """Resident RAM over seconds."""
    if "rss_bytes" not in samples.columns:
        return None
    column = samples.columns.index("rss_bytes")
    rows = zip(samples.times_s, samples.rows, strict=False)
    points = [(time_s, row[column]) for time_s, row in rows if column < len(row) and isfinite(time_s)]
    seen = [(time_s, value) for time_s, value in points if value is not None and isfinite(value)]
    if len(seen) < 2:
        return None
    spans = sorted(samples.phases, key=lambda span: span.start_s)
    phase = [_phase_at(time_s, spans) for time_s, _ in seen]
    return _thin([time_s for time_s, _ in seen], [value for _, value in seen], phase, most, {})


def _phase_at(time_s: float, spans: list[Span]) -> str:
    place = bisect_right(spans, time_s, key=lambda span: span.start_s) - 1
    return spans[place].name if place >= 0 and time_s <= spans[place].end_s else OUTSIDE


def _thin(
    x: Sequence[float], y: Sequence[float], phase: Sequence[str], most: int, series: Mapping[str, Sequence[float]]
) -> Timeline:
    stride = max(1, -(-len(x) // most))
    peaks = [max(range(start, min(start + stride, len(x))), key=y.__getitem__) for start in range(0, len(x), stride)]

    def kept(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[place] for place in peaks)

    parts = {name: kept(values) for name, values in series.items()}
    return Timeline(kept(x), kept(y), tuple(phase[place] for place in peaks), parts)
