"""The gate's verdict in a line: the same in the terminal, in Markdown and in JUnit XML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from slr_bench.compare.gate import GateResult, GateVerdict
from slr_bench.units import plain

WORDS: Final[Mapping[GateVerdict, tuple[str, str, str]]] = {
    "pass": ("passed", "green", "✅"),
    "regression": ("REGRESSION", "bold red", "❌"),
    "crashed": ("A CELL CRASHED", "bold red", "❌"),
    "not comparable": ("NOT COMPARABLE", "bold yellow", "⚠️"),
}
"""Word, colour, mark."""
RENEW: Final = "baseline can be renewed"


def headline(result: GateResult) -> str:
    """The verdict in a line: what broke, and whether something got better."""
    broken = sum(one.verdict == "fail" for one in result.rules)
    parts = [f"{broken} of {len(result.rules)} rules broken", *_left_open(result)]
    parts += [f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'} {word}" for cells, word in _ends(result) if cells]
    if result.better:
        parts.append(f"{len(result.better)} better: {RENEW}")
    return f"{WORDS[result.verdict][0]}: {', '.join(parts)} (exit code {result.exit_code})"


def _left_open(result: GateResult) -> Iterable[str]:
    """Of how many rules nothing, or not everything, could be judged: they are not broken, nor are they kept."""
    judged = [len(one.cells) - len(one.of("unjudged")) for one in result.rules]
    nowhere = judged.count(0)
    in_part = sum(bool(count and one.of("unjudged")) for count, one in zip(judged, result.rules, strict=True))
    return [f"{count} {words}" for count, words in ((nowhere, "not judged"), (in_part, "judged in part")) if count]


def look(result: GateResult) -> tuple[str, str]:
    """Colour and mark of the verdict; what passed because nothing could be judged is not green."""
    is_empty = all(len(one.of("unjudged")) == len(one.cells) for one in result.rules)
    return WORDS["not comparable" if result.verdict == "pass" and is_empty else result.verdict][1:]


def _ends(result: GateResult) -> Iterable[tuple[tuple[object, ...], str]]:
    return (
        (result.missing, "missing"),
        (result.no_longer, "out of memory"),
        (result.comparison.crashed, "crashed"),
    )


def no_verdict(reason: str, exit_code: int) -> str:
    """The line in place of a verdict, where the gate ended by an error."""
    return f"NO VERDICT: {plain(reason, 600)} (exit code {exit_code})"
