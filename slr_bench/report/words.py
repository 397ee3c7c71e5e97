"""Values, spreads and foreign text as words, the same in every kind of report."""

from __future__ import annotations

from typing import Final

from slr_bench.compare.statistics import MIN_PROCESSES, VERDICT_ALPHA, Ratio, Summary
from slr_bench.record import Outcome
from slr_bench.units import format_bytes, format_seconds

CELL_LIMIT: Final = 300
"""Characters of foreign text (reasons, names) that a cell shows."""
OUTCOME_WORDS: Final = {
    Outcome.OK: "ok",
    Outcome.OOM_GPU: "out of GPU memory",
    Outcome.OOM_HOST: "out of RAM",
    Outcome.TIMEOUT: "timeout",
    Outcome.CRASH: "crash",
    Outcome.SKIPPED_DOMINATED: "skipped",
    Outcome.INVALID_ENV: "invalid environment",
    Outcome.UNSUPPORTED: "unsupported",
}


def plain(text: object, limit: int = CELL_LIMIT) -> str:
    """Foreign text as one printable line (no control or escape characters) of at most ``limit`` characters."""
    raw = str(text)
    # Ten times the limit is read at most: a reason may be a log of many megabytes.
    line = " ".join("".join(char if char.isprintable() else " " for char in raw[: 10 * limit]).split())
    return line if len(line) <= limit and len(raw) <= 10 * limit else line[: limit - 1] + "…"


def format_value(value: float | None, unit: str) -> str:
    """A metric's value with its unit; ``'–'`` for an unknown one, never 0."""
    if value is None:
        return "–"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "s":
        return format_seconds(value)
    if unit == "ratio":
        return f"{100 * value:.{1 if abs(value) >= 0.1 else 2}f} %"
    if unit == "1":
        return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
    return f"{value:.4g} {unit}".replace(" 1/s", " /s")


def format_factor(factor: float) -> str:
    """``8.31`` -> ``'8.3×'``; two decimals below 2, where they matter."""
    return f"{factor:.2f}×" if factor < 2 else f"{factor:.1f}×"


def spread(summary: Summary, unit: str) -> str:
    """Low to high with what they are and n."""
    low, high = format_value(summary.low, unit), format_value(summary.high, unit)
    if summary.kind == "exact":
        return f"equal in {summary.n}"
    if summary.kind == "disagreement":
        return f"DISAGREES: {low} – {high}, n = {summary.n}"
    if summary.n == 1:
        return "n = 1"
    name = "95 % interval" if summary.kind == "interval" else "min–max"
    return f"{low} – {high} ({name}, n = {summary.n})"


def describe(ratio: Ratio) -> str:
    """Range or interval of a ratio, with the verdict that n allows."""
    if ratio.n == 1:
        return f"one pair; no verdict below {MIN_PROCESSES}"
    limits = f"{ratio.low:.2f}–{ratio.high:.2f}"
    if ratio.verdict == "n too small":
        return f"min–max {limits} of {ratio.n} pairs; no verdict below {MIN_PROCESSES}"
    word = "no clear difference" if ratio.verdict == "same" else ratio.verdict
    return f"{100 * (1 - VERDICT_ALPHA):g} % interval {limits}, {ratio.n} pairs: {word}"
