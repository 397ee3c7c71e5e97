"""The proof of the gate as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.proofs.proof_text import percent
from slr_bench.errors import EXIT_OK, EXIT_REGRESSION

DETECTION_LIMIT = 0.95


def verdicts(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return (target, result, whether it is met) for each claim."""
    noop, more, slow = (found[tag] for tag in ("noop", "bytes", "slow"))
    rule = "peak_tensor_bytes:0%"
    passed, stopped = noop["pairs_passed"], more["pairs_passed"]
    quiet = next(row for row in found["resampled"] if (row["pairs"], row["rule"]) == (24, "step_time_s:5%"))
    time = slow["step_time_s"]
    return [
        (
            "a commit that changes nothing passes 100 of 100 times by bytes",
            f"{passed['count']} of {passed['n']}; all together: exit code {noop['rules'][rule]}",
            passed["count"] == passed["n"] >= 100 and noop["rules"][rule] == EXIT_OK,
        ),
        (
            "+0.5 % of bytes is stopped every time",
            f"{stopped['n'] - stopped['count']} of {stopped['n']}; all together: exit code {more['rules'][rule]}",
            stopped["count"] == 0 and more["rules"][rule] == EXIT_REGRESSION,
        ),
        (
            f"a commit that takes 15 % longer is stopped by step_time_s:5% ({time['n']} pairs)",
            f"{time['ratio'] - 1:+.1%} (99 % interval {time['low'] - 1:+.1%} to {time['high'] - 1:+.1%}), "
            f"exit code {slow['rules']['step_time_s:5%']}",
            slow["rules"]["step_time_s:5%"] == EXIT_REGRESSION,
        ),
        (
            "+15 % is found in ≥ 95 % of comparisons of 24 pairs, recorded times, step_time_s:5%",
            percent(quiet["found"]),
            quiet["found"]["low"] >= DETECTION_LIMIT,
        ),
        (
            "equal things are stopped in ≤ 1 % of them",
            percent(quiet["stopped"]),
            quiet["stopped"]["count"] / quiet["stopped"]["n"] <= 0.01,
        ),
    ]


def page(found: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    environment = found["environment"]
    machine = ", ".join(
        f"{key} {environment[key]}" for key in ("cpu", "cores", "threads", "torch") if key in environment
    )
    lines = ["# What the gate stops and what it passes", ""]
    lines += [
        f"`make bench-gate`: real commits of a repository made of this project's files, measured in pairs by "
        f"`slr-bench gate base TAG` with `configs/gate_proof.yml`. {machine}.",
        "",
        "| target | result | met |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {text} | {figure} | {'yes' if met else '**no**'} |" for text, figure, met in verdicts(found)]
    lines += [
        "",
        "## The commits, measured",
        "",
        "| commit | pairs | bytes | time | " + _rules(found, "noop", " | ") + " |",
    ]
    lines.append("| --- | --- | --- | --- | " + " | ".join(["---"] * len(found["noop"]["rules"])) + " |")
    for tag in ("noop", "bytes", "slow"):
        memory, time = found[tag]["peak_tensor_bytes"], found[tag]["step_time_s"]
        codes = " | ".join(str(code) for code in found[tag]["rules"].values())
        change = f"{time['ratio'] - 1:+.1%} [{time['low'] - 1:+.1%}, {time['high'] - 1:+.1%}]"
        lines.append(f"| {tag} | {time['n']} | {memory['base']:,.0f} → {memory['head']:,.0f} | {change} | {codes} |")
    lines += [
        "",
        "The last columns are exit codes under that rule alone: 0 passed, 1 regression, 4 not comparable. "
        + _disturbed(found),
        "",
        "## The rule on times, resampled from the recorded runs of `reports/comparison_cpu_2026-11-24`",
        "",
        "| machine | rule | pairs | equal, stopped | +15 %, stopped |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {'busy' if row['machine'] == 'busy' else 'calm'} | {row['rule']} | {row['pairs']} | "
        f"{percent(row['stopped'])} | {percent(row['found'])} |"
        for row in found["resampled"]
    ]
    lines += [
        "",
        "A rule stops a commit if it is significantly slower (p ≤ 0.01) *and* its median pair exceeds the limit. A "
        "limit near the slowdown itself finds it less often than a limit well below it.",
    ]
    return "\n".join(lines) + "\n"


def _disturbed(found: Mapping[str, Any]) -> str:
    runs = 2 * sum(found[tag]["step_time_s"]["n"] for tag in ("noop", "bytes", "slow"))
    disturbed = sum(found[tag]["disturbed"] for tag in ("noop", "bytes", "slow"))
    return f"Other programs took more than 10 % of the cores beside {disturbed} of the {runs} runs."


def _rules(found: Mapping[str, Any], tag: str, joint: str) -> str:
    return joint.join(f"`{rule}`" for rule in found[tag]["rules"])
