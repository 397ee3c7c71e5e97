"""Values, spreads and foreign text as words, the same in every report."""

from __future__ import annotations

from typing import Final

from slr_bench.compare.statistics import MIN_PROCESSES, VERDICT_ALPHA, Ratio, Summary
from slr_bench.record import Outcome
from slr_bench.units import format_value as format_value
from slr_bench.units import plain as plain

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


def uncapitalized(text: str) -> str:
    """Return ``memory`` for ``Memory``; an abbreviation such as ``GPU memory`` stays."""
    return text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"


def format_factor(factor: float) -> str:
    """Return ``8.3×`` for 8.31, with two decimals below 2."""
    return f"{factor:.2f}×" if factor < 2 else f"{factor:.1f}×"


def spread(summary: Summary, unit: str) -> str:
    """Return low and high, their kind, and n."""
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
    """Return the range or interval of a ratio, and the verdict if n allows one."""
    if ratio.n == 1:
        return f"one pair; no verdict below {MIN_PROCESSES}"
    limits = f"{ratio.low:.2f}–{ratio.high:.2f}"
    if ratio.verdict == "n too small":
        return f"min–max {limits} of {ratio.n} pairs; no verdict below {MIN_PROCESSES}"
    word = "no clear difference" if ratio.verdict == "same" else ratio.verdict
    return f"{100 * (1 - VERDICT_ALPHA):g} % interval {limits}, {ratio.n} pairs: {word}"
