"""What one reading is against another, in words: the change, what it stands on, and what it does not allow to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from slr_bench.compare.cells import Reading, pair, why_not_comparable
from slr_bench.compare.judgement import SAME, TOO_FEW
from slr_bench.compare.statistics import MIN_PROCESSES, VERDICT_ALPHA, Ratio, signed_rank_p
from slr_bench.report.formats.table import Tone
from slr_bench.report.text.words import describe, format_factor, plain, spread

Mark = Literal["", "~", "n too small"]


@dataclass(frozen=True)
class Change:
    """Head against base."""

    text: str = ""
    """``12.4× less``, ``1.38× as long``, ``+2.5 points``; empty where there is no pair of runs."""
    basis: str = ""
    """Processes, range or interval, verdict: what carries it."""
    tone: Tone = ""
    mark: Mark = ""
    """``~``: not significant. ``n too small``: no verdict can be had."""

    @property
    def marked(self) -> str:
        """The text with its mark: ``~ 1.01× as long``, ``1.38× as long, n too small``."""
        if not self.text or not self.mark:
            return self.text
        return f"{SAME} {self.text}" if self.mark == SAME else f"{self.text}, {self.mark}"


NO_CHANGE: Final = Change()


def change(base: Reading, head: Reading, *, is_disturbed: bool = False) -> Change:
    """``head`` against ``base``; both have a value. Of a disturbed run a time is not compared.

    Bytes, seconds and shares are known; of other units there is no word for more or less.
    """
    problem = why_not_comparable(base, head)
    if problem:
        return Change("not comparable", plain(problem), "warn")
    if head.unit == "ratio":
        return _points(base, head)
    ratio = pair(base, head)
    if ratio is None:
        return Change(basis="no repeat that both arms finished")
    if head.unit == "bytes":
        return _bytes(base, head, ratio)
    if is_disturbed:
        return Change("disturbed", f"runs were disturbed, no ratio; {describe(ratio)}", "warn")
    return Change(f"{ratio.ratio:.2f}× as long", describe(ratio), _tone(ratio), _mark(ratio))


def _points(base: Reading, head: Reading) -> Change:
    """A difference of shares. One training an arm has no spread: it is shown, and judged from 8 pairs on."""
    assert base.value is not None
    assert head.value is not None
    text = f"{100 * (head.value - base.value):+.1f} points"
    both = sorted(base.by_repeat.keys() & head.by_repeat.keys())
    if len(both) < MIN_PROCESSES:
        n = min(len(base.by_repeat), len(head.by_repeat))
        basis = (
            "one training an arm: no verdict" if n == 1 else f"{n} trainings an arm: no verdict below {MIN_PROCESSES}"
        )
        return Change(text, basis, mark=TOO_FEW)
    differences = [head.by_repeat[repeat] - base.by_repeat[repeat] for repeat in both]
    p = signed_rank_p(differences)
    basis = f"{len(both)} pairs of trainings, p = {p:.2g} (signed-rank test)"
    if p > VERDICT_ALPHA:
        return Change(text, basis, mark=SAME)
    return Change(text, basis, "good" if head.value > base.value else "bad")


def _bytes(base: Reading, head: Reading, ratio: Ratio) -> Change:
    assert base.summary is not None
    assert head.summary is not None
    less = base.summary.median / head.summary.median
    text = f"{format_factor(less)} less" if less > 1 else f"{format_factor(1 / less)} more" if less < 1 else "equal"
    if {base.summary.kind, head.summary.kind} == {"exact"}:
        n = min(base.summary.n, head.summary.n)
        basis = f"to the byte the same in all {n} processes" if n > 1 else "counted in one process"
        return Change(text, basis, "good" if less > 1 else "bad" if less < 1 else "")
    basis = f"medians; {spread(base.summary, 'bytes')} against {spread(head.summary, 'bytes')}"
    return Change(text, basis, mark=_mark(ratio))


def _mark(ratio: Ratio) -> Mark:
    return {"same": SAME, "n too small": TOO_FEW}.get(ratio.verdict, "")  # type: ignore[return-value]


def _tone(ratio: Ratio) -> Tone:
    return {"faster": "good", "slower": "bad"}.get(ratio.verdict, "")  # type: ignore[return-value]
