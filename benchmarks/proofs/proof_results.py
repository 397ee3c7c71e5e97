"""Evaluate the comparison on the collected runs: false alarms, detections, and the rules that were not chosen."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from benchmarks.proofs.resampling import (
    Pair,
    adjacent_pairs,
    alarms,
    detections,
    in_order,
    rate,
    resampled,
    spread_of,
    taking_turns,
    with_rule,
)
from slr_bench.compare.cells import CellSummary
from slr_bench.compare.comparability import PairingKind
from slr_bench.compare.comparison import Comparison, compare_cells
from slr_bench.compare.statistics import MIN_PROCESSES, MINIMUM_EFFECT, VERDICT_ALPHA
from slr_bench.record import Metric, Outcome, Record
from slr_bench.run.store import CellEntry

SLOWDOWN = 1.15
SMALL_SLOWDOWN = 1.05
ALARM_LIMIT, DETECTION_LIMIT = 0.01, 0.95
CLOCKS = ("step_time_s", "step_time_min_s", "step_cpu_time_s")
PAIR_COUNTS = (8, 12, 16, 24, 32, 48)
RULES = [(alpha, effect) for alpha in (0.05, 0.02, 0.01) for effect in (0.0, 0.01, 0.03, 0.05, 0.10)]


@dataclass(frozen=True)
class Collected:
    """The real runs, in the order in which they ran."""

    plain: pandas.DataFrame
    """One row per process of the unchanged cell: ``step_time_s``, the other clocks, ``peak_tensor_bytes``."""
    ballast: dict[int, list[int]]
    """Peaks of the processes that held additional bytes, by that number of bytes."""

    @classmethod
    def from_table(cls, frame: pandas.DataFrame) -> Collected:
        """Read the table that the proof writes."""
        plain = frame[frame.size_bytes == 0].sort_values("repeat")
        held = frame[frame.size_bytes > 0]
        return cls(plain, {int(size): [int(v) for v in g.peak_tensor_bytes] for size, g in held.groupby("size_bytes")})

    def pairs(self, clock: str = "step_time_s") -> list[Pair]:
        """Return pairs of processes that ran one after the other."""
        return adjacent_pairs([float(value) for value in self.plain[clock]])


def results(collected: Collected, count: int = 40_000, end_to_end: int = 1_000) -> dict[str, Any]:
    """Every figure of the proof, as JSON values. ``count`` comparisons of time through the test alone; ``end_to_end``
    through the whole of ``slr_bench.compare``, of time and bytes."""
    pairs = collected.pairs()
    equal = list(resampled(pairs, MIN_PROCESSES, count))
    slower = list(resampled(pairs, MIN_PROCESSES, count, SLOWDOWN, seed=1))
    little = list(resampled(pairs, MIN_PROCESSES, count, SMALL_SLOWDOWN, seed=2))
    return {
        "runs": len(collected.plain),
        "pairs": len(pairs),
        "disjoint_comparisons": len(pairs) // MIN_PROCESSES,
        "alpha": VERDICT_ALPHA,
        "minimum_effect": MINIMUM_EFFECT,
        "core_share": float(statistics.median(collected.plain.step_cpu_time_s / collected.plain.step_time_s)),
        "false_alarms": vars(alarms(equal)),
        "found_15": vars(detections(slower)),
        "found_5": vars(detections(little)),
        "in_order": {
            "false_alarms": vars(alarms(list(in_order(pairs, MIN_PROCESSES, count)))),
            "found_15": vars(detections(list(in_order(pairs, MIN_PROCESSES, count, SLOWDOWN)))),
            "false_alarms_abba": vars(alarms(list(taking_turns(pairs, MIN_PROCESSES)))),
        },
        "clocks": {clock: _clock(collected.pairs(clock), count // 20) for clock in CLOCKS},
        "by_pairs": [_by_pairs(pairs, n, count // 20) for n in PAIR_COUNTS if n <= len(pairs) // 2],
        "rules": [
            {"alpha": alpha, "minimum_effect": effect}
            | {
                name: with_rule(found, alpha, effect).value
                for name, found in (("false_alarms", equal), ("found_15", slower), ("found_5", little))
            }
            for alpha, effect in RULES
        ],
        "end_to_end": _end_to_end(collected, end_to_end),
    }


def _clock(pairs: Sequence[Pair], count: int) -> dict[str, Any]:
    found = detections(list(resampled(pairs, MIN_PROCESSES, count, SLOWDOWN)))
    return {"spread": spread_of(pairs), "found_15": vars(found)}


def _by_pairs(pairs: Sequence[Pair], n: int, count: int) -> dict[str, Any]:
    return {
        "n": n,
        "false_alarms": vars(alarms(list(resampled(pairs, n, count)))),
        "found_15": vars(detections(list(resampled(pairs, n, count, SLOWDOWN, seed=1)))),
        "found_5": vars(detections(list(resampled(pairs, n, count, SMALL_SLOWDOWN, seed=2)))),
    }


def _end_to_end(collected: Collected, count: int) -> dict[str, Any]:
    """Comparisons of records by `compare_cells`, as a run directory with two sides gives them."""
    found: dict[str, Any] = {"n": count}
    peaks = [int(value) for value in collected.plain.peak_tensor_bytes]
    for name, factor, heads in [
        ("equal", 1.0, peaks),
        ("slower", SLOWDOWN, peaks),
        *((f"ballast_{size}", 1.0, held) for size, held in collected.ballast.items()),
    ]:
        verdicts = list(compared(collected, heads, factor, count))
        rows = {
            metric: [next(row for row in comparison.cells if row.metric == metric) for comparison in verdicts]
            for metric in ("step_time_s", "peak_tensor_bytes")
        }
        found[name] = {
            metric: vars(rate(sum(row.is_significant for row in of_metric), count))
            for metric, of_metric in rows.items()
        } | {"bytes_ratio": rows["peak_tensor_bytes"][0].ratio}
    found["peaks"] = sorted(set(peaks))
    found["peaks_equal"] = vars(rate(sum(peak != statistics.mode(peaks) for peak in peaks), len(peaks)))
    return found


def compared(
    collected: Collected, heads: Sequence[int], factor: float, count: int, n: int = MIN_PROCESSES
) -> Iterator[Comparison]:
    """``count`` comparisons of ``n`` pairs each; the head's times are multiplied, its peaks are some of ``heads``."""
    generator, pairs = random.Random(3), collected.pairs()
    peaks = [int(value) for value in collected.plain.peak_tensor_bytes]
    for _ in range(count):
        sides: dict[str, list[Record]] = {"a": [], "b": []}
        for repeat, pair in enumerate(generator.sample(pairs, n)):
            base_s, head_s = pair if generator.random() < 0.5 else pair[::-1]
            sides["a"].append(_record("a", repeat, base_s, generator.choice(peaks)))
            sides["b"].append(_record("b", repeat, factor * head_s, generator.choice(heads)))
        base, head = (CellSummary(_ENTRY, side, tuple(records)) for side, records in sides.items())  # type: ignore[arg-type]
        yield compare_cells([base], [head], PairingKind.ONE_RUN)


_ENTRY = CellEntry(
    cell_id="tiny", arm="tiny", workload="train_step", setting={}, coordinates={}, is_own=True, repeats=MIN_PROCESSES
)


def _record(side: str, repeat: int, time_s: float, peak_bytes: int) -> Record:
    """A run's readings under the cell's name, whatever it held beside its step: as if a commit had added it."""
    return Record(
        cell_id=_ENTRY.cell_id,
        side=side,  # type: ignore[arg-type]
        repeat=repeat,
        workload=_ENTRY.workload,
        setting={},
        outcome=Outcome.OK,
        reason=None,
        environment={},
        metrics={
            "step_time_s": Metric(value=time_s, unit="s", source="perf_counter", quality="measured"),
            "peak_tensor_bytes": Metric(value=peak_bytes, unit="bytes", source="cpu-real", quality="exact"),
        },
        phases={},
        started_at="",
        duration_s=0.0,
    )
