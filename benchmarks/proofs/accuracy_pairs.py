"""Compare the accuracy of two arms: trainings of several seeds, paired over the clips of the validation split.

``python -m benchmarks.proofs.accuracy_pairs RUN_DIR`` reads what ``slr-bench run configs/accuracy_dgs30.yml`` left.
Arms that were trained into directories of their own (``--arm``) are read together: name both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from slr_bench.errors import EXIT_OK, EXIT_REGRESSION, NotComparableError, NothingMeasuredError, SlrBenchError
from slr_bench.record import Record
from slr_bench.run.store import Store
from slr_bench.units import format_count

LEVEL = 0.90
RESAMPLES = 10_000
Hits = Mapping[int, Mapping[str, bool]]
"""Seed -> video id -> whether the true class came first."""


@dataclass(frozen=True)
class Pairs:
    """Accuracies are fractions; differences are head - base."""

    seeds: tuple[int, ...]
    clips: int
    base: tuple[float, ...]
    """Accuracy of each seed."""
    head: tuple[float, ...]
    difference: float
    low_over_clips: float
    """Lower end of the 90 % interval of the difference over clips, with these seeds fixed."""
    low_over_both: float | None
    """The same over clips and seeds (crossed bootstrap), as for other seeds; None with one seed."""


def pairs(base: Hits, head: Hits) -> Pairs:
    """Compare two arms on the seeds that both have.

    Raises:
        NotComparableError: no common seed, or other clips.
    """
    seeds = tuple(sorted(base.keys() & head.keys()))
    if not seeds:
        raise NotComparableError("the arms have no training of the same seed; run both with the same training.seed")
    clips = sorted(base[seeds[0]])
    if any(sorted(hits[seed]) != clips for hits in (base, head) for seed in seeds):
        raise NotComparableError("the trainings were evaluated on different clips; use one data directory for all")
    base_SC, head_SC = (
        np.array([[hits[seed][clip] for clip in clips] for seed in seeds], float) for hits in (base, head)
    )
    gain_SC = head_SC - base_SC
    gain_C = gain_SC.mean(0)
    error = gain_C.std(ddof=1) / np.sqrt(len(clips)) if len(clips) > 1 else np.inf
    return Pairs(
        seeds=seeds,
        clips=len(clips),
        base=tuple(base_SC.mean(1).tolist()),
        head=tuple(head_SC.mean(1).tolist()),
        difference=float(gain_SC.mean()),
        low_over_clips=float(gain_SC.mean() - NormalDist().inv_cdf(0.5 + LEVEL / 2) * error),
        low_over_both=_crossed_low(gain_SC) if len(seeds) > 1 else None,
    )


def _crossed_low(gain_SC: NDArray[np.float64]) -> float:
    """Return the lower end over 10,000 bootstrap samples of seeds and clips, drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, clips = gain_SC.shape
    drawn = []
    for _ in range(RESAMPLES):
        times_S = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds)
        times_C = np.bincount(rng.integers(clips, size=clips), minlength=clips)
        drawn.append(times_S @ gain_SC @ times_C / (seeds * clips))
    return float(np.quantile(drawn, 0.5 - LEVEL / 2))


def read_hits(run_dirs: Sequence[Path]) -> dict[str, dict[int, dict[str, bool]]]:
    """Return the finished trainings of each arm, from all directories.

    Raises:
        NothingMeasuredError: there is none.
        NotComparableError: the directories are of another torch or data, or a training changed its batches on the way.
    """
    found: dict[str, dict[int, dict[str, bool]]] = {}
    bound: dict[str, Path] = {}
    for run_dir in run_dirs:
        store = Store(run_dir)
        manifest = store.read_manifest()
        records = [record for record in store.read_records()[0] if record.reason is None]
        for entry in manifest.cells if manifest else ():
            for record in records:
                samples = store.read_samples(record.name) if record.cell_id == entry.cell_id else None
                if samples and "details" in samples:
                    facts = {key: record.environment.get(key) for key in ("torch", "data_fingerprint")}
                    bound.setdefault(json.dumps(facts), run_dir)
                    _require_unchanged_batches(record, entry.arm)
                    seed = entry.setting["training"]["seed"]  # type: ignore[index,call-overload]
                    ranks = samples["details"]["val_ranks"]
                    found.setdefault(entry.arm, {})[seed] = {clip: rank == 0 for clip, rank in ranks.items()}
    if not found:
        first = run_dirs[0]
        raise NothingMeasuredError(f"{first} holds no finished training; make some with slr-bench run --out {first}")
    if len(bound) > 1:
        names = " and ".join(str(path) for path in bound.values())
        raise NotComparableError(f"{names} were trained with another torch or data; train both with one")
    return found


def _require_unchanged_batches(record: Record, arm: str) -> None:
    for event in record.events:
        if event.changes_batch:
            raise NotComparableError(
                f"{record.name} (arm {arm!r}) changed its batches after step {event.step} ({event.text}); train it "
                "again with training.dynamic_batch_size: false, or with a micro-batch that fits"
            )


def text(found: Pairs, names: Sequence[str], margin: float) -> str:
    """Return the comparison as text for the terminal."""
    lines = [f"{format_count(len(found.seeds), 'seed')}, {found.clips} clips"]
    lines += [
        f"{name:>12}: {100 * np.mean(values):.1f} %  ({', '.join(f'{100 * value:.1f}' for value in values)})"
        for name, values in zip(names, (found.base, found.head), strict=True)
    ]
    over_both = "unknown" if found.low_over_both is None else f"{100 * found.low_over_both:+.2f}"
    lines.append(
        f"{names[1]} - {names[0]}: {100 * found.difference:+.2f} points; lower end of the 90 % interval "
        f"{100 * found.low_over_clips:+.2f} over clips, {over_both} over clips and seeds"
    )
    verdict = "met" if found.low_over_clips >= -margin else "NOT met"
    lines.append(f"at least {-100 * margin:+.1f} points required: {verdict}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where the margin is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--base", default="baseline", help="arm that the other is compared with")
    parser.add_argument("--head", default="optimized", help="arm that must not be less accurate")
    parser.add_argument("--margin", type=float, default=3.0, metavar="POINTS", help="allowed loss of accuracy")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    try:
        hits = read_hits(options.run_dirs)
        for arm in (options.base, options.head):
            if arm not in hits:
                named = " and ".join(map(str, options.run_dirs))
                raise NotComparableError(f"{named} has no training of arm {arm!r}, only {', '.join(hits)}")
        found = pairs(hits[options.base], hits[options.head])
    except SlrBenchError as error:
        print(f"accuracy_pairs: {error}", file=sys.stderr)
        return error.exit_code
    print(
        json.dumps(asdict(found)) if options.json else text(found, (options.base, options.head), options.margin / 100)
    )
    return EXIT_OK if found.low_over_clips >= -options.margin / 100 else EXIT_REGRESSION


if __name__ == "__main__":
    sys.exit(main())
