"""The proof as a page and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proofs.proof_results import ALARM_LIMIT, DETECTION_LIMIT, SLOWDOWN
from benchmarks.proofs.resampling import Pair

CLOCK_WORDS = {
    "step_time_s": "wall time, median of the steps (what `step_time_s` is)",
    "step_time_min_s": "wall time, least of the steps",
    "step_cpu_time_s": "processor time, median of the steps",
}


def percent(rate: Mapping[str, Any]) -> str:
    """``0.78 % (0.70–0.87 %)``: the rate with its bounds."""
    value, low, high = (100 * number for number in (rate["count"] / rate["n"], rate["low"], rate["high"]))
    return f"{value:.2f} % ({low:.2f}–{high:.2f} %)"


def verdicts(results: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return (target, result, whether the bound meets it) for each claim."""
    whole = results["end_to_end"]
    lines = [
        (
            f"times of equal things: false alarms ≤ {ALARM_LIMIT:.0%}",
            percent(results["false_alarms"]),
            results["false_alarms"]["high"] <= ALARM_LIMIT,
        ),
        (
            "the same in the order run, AB or BA by the runner's coin",
            percent(results["in_order"]["false_alarms"]),
            results["in_order"]["false_alarms"]["high"] <= ALARM_LIMIT,
        ),
        (
            f"+15 % of time found ≥ {DETECTION_LIMIT:.0%}, from 8 pairs",
            percent(results["found_15"]),
            results["found_15"]["low"] >= DETECTION_LIMIT,
        ),
    ]
    enough = next((row for row in results["by_pairs"] if row["found_15"]["low"] >= DETECTION_LIMIT), None)
    if not lines[-1][2] and enough:
        lines.append((f"the same from {enough['n']} pairs", percent(enough["found_15"]), True))
    equal = whole["equal"]["peak_tensor_bytes"]
    lines.append(("bytes of equal things: false alarms 0", f"{equal['count']} of {equal['n']}", equal["count"] == 0))
    for name, row in whole.items():
        if name.startswith("ballast_"):
            found = row["peak_tensor_bytes"]
            size = int(name.removeprefix("ballast_"))
            text = f"{size:,} B more really allocated ({100 * (row['bytes_ratio'] - 1):.5f} %): found always"
            lines.append((text, f"{found['count']} of {found['n']}", found["count"] == found["n"]))
    return lines


def page(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    asked = [(text, found, "yes" if met else "**no**") for text, found, met in verdicts(results)]
    clocks = [
        (CLOCK_WORDS[name], f"{100 * row['spread']:.1f} %", percent(row["found_15"]))
        for name, row in results["clocks"].items()
    ]
    by_pairs = [
        (row["n"], *(percent(row[name]) for name in ("false_alarms", "found_15", "found_5")))
        for row in results["by_pairs"]
    ]
    rules = [
        (
            f"{row['alpha']:g}",
            f"{row['minimum_effect']:.0%}",
            *(f"{100 * row[name]:.2f} %" for name in ("false_alarms", "found_15", "found_5")),
        )
        for row in results["rules"]
    ]
    rates = ("false alarms", "+15 % found", "+5 % found")
    parts = [
        "# False alarms and detections of the comparison",
        _measured(results, environment),
        _table(("target", "result (95 % bounds, Clopper–Pearson)", "met"), asked),
        "![Pairs and detection](figure.svg)",
        _of_times(results),
        _of_bytes(results["end_to_end"]),
        "## More pairs",
        _table(("pairs", *rates), by_pairs),
        "## Other rules, 8 pairs",
        _table(("p ≤", "difference ≥", *rates), rules),
        "## Other clocks, 8 pairs",
        _table(("what a process's time is", "spread of a pair", "+15 % found"), clocks),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(value) for value in line)} |" for line in lines)


def _measured(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    seen = [f"{key} {environment[key]}" for key in ("cpu", "cores", "threads", "torch") if key in environment]
    return (
        f"{results['runs']} real processes of one tiny training step (`configs/aa.yml`), one after the other: "
        f"{results['pairs']} pairs of neighbours. {', '.join(seen)}. While a step ran, the process had "
        f"{results['core_share']:.0%} of a core (median): the rest of it other programs took. "
        f"Verdict: p ≤ {results['alpha']:g} and a difference of {results['minimum_effect']:.0%} or more."
    )


def _of_times(results: Mapping[str, Any]) -> str:
    order = results["in_order"]
    return (
        "**What a resample shows.** Each comparison draws 8 different pairs, and a coin decides which process of a "
        f"pair is the head; the bounds are those of {results['false_alarms']['n']:,} such comparisons. They show the "
        f"rate over these {results['pairs']} pairs, which make only {results['disjoint_comparisons']} comparisons "
        "without a common pair. They cannot show another machine or day, and the coin removes any advantage of being "
        "first. The slowdown is the head's real times multiplied by 1.15, not slower code.\n\n"
        "**In the order run.** Neighbours in time are alike, so pairs in a row are not independent, and no resample of "
        "them shows what that does. Here each comparison is 8 pairs in a row, in the order in which they ran. Only "
        "the side that goes first is drawn, by the coin with which `slr-bench run` orders a grid. If both sides "
        "are equal, the coin alone decides each sign: the test is exact for whatever the times were, and alarms at 8 "
        f"pairs in 1 of 128 draws (0.78 %). {order['false_alarms']['n']:,} comparisons: false alarms "
        f"{percent(order['false_alarms'])}, +15 % found {percent(order['found_15'])}. Taking turns (ABBA), the order "
        f"before, alarms on the same runs in {percent(order['false_alarms_abba'])} of "
        f"{order['false_alarms_abba']['n']} (they overlap: the bounds are too narrow)."
    )


def _of_bytes(whole: Mapping[str, Any]) -> str:
    peaks, equal = whole["peaks"], whole["peaks_equal"]
    counted = f"{peaks[0]:,} B" if len(peaks) == 1 else f"different bytes, {peaks[0]:,} to {peaks[-1]:,}: A FAULT"
    return (
        f"**Bytes.** All {equal['n']} processes counted {counted} (so a share of at most {100 * equal['high']:.2f} % "
        "would differ, with 97.5 %); drawing again and again from equal numbers adds nothing to that. A ballast is a "
        "tensor that the step of other real processes held. "
        f"{whole['n']:,} comparisons of each kind went through `slr_bench.compare` whole; of times it alarmed in "
        f"{percent(whole['equal']['step_time_s'])} of the equal ones and called "
        f"{percent(whole['slower']['step_time_s'])} of the +15 % different."
    )


def draw(pairs: Sequence[Pair], results: Mapping[str, Any], directory: Path) -> None:
    """``figure.svg`` and ``.png``: how far neighbours are apart, and detection by pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist([100 * math.expm1(abs(math.log(b / a))) for a, b in pairs], bins=24, color="#4477aa")
    left.axvline(100 * (SLOWDOWN - 1), color="#cc3311", label="+15 %")
    left.set(xlabel="slower over faster of a pair of equal processes, %", ylabel="pairs")
    left.legend(frameon=False)
    counts = [row["n"] for row in results["by_pairs"]]
    for name, label, color in (("found_15", "+15 %", "#cc3311"), ("found_5", "+5 %", "#ee9944")):
        rates = [100 * row[name]["count"] / row[name]["n"] for row in results["by_pairs"]]
        right.plot(counts, rates, marker="o", color=color, label=f"{label} found")
    alarms = [100 * row["false_alarms"]["count"] / row["false_alarms"]["n"] for row in results["by_pairs"]]
    right.plot(counts, alarms, marker="o", color="#4477aa", label="false alarms")
    right.axhline(95, color="#bbbbbb", linewidth=0.8)
    right.set(xlabel="pairs of processes", ylabel="% of comparisons", ylim=(-3, 103))
    right.legend(frameon=False)
    figure.savefig(directory / "figure.svg", metadata={"Date": None})
    figure.savefig(directory / "figure.png", dpi=110)
