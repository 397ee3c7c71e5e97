"""Evaluate predictions without a GPU: their cost, the planner against the whole grid, and the CPU's peak.

    python -m benchmarks.proofs.predict_proof [--part PART] [--out DIR]

There are three parts.
``cost``: seconds for one setting in a fresh process, for a grid of 100, and the RAM for a step of 100 GiB.
``planner``: plans for 60 simulated cards. The true context and workspaces of each are drawn from the intervals. Plans
that do not fit are counted, and the time of a plan is compared with the best of the whole grid.
``host``: predicted and measured high-water marks of real steps (needs ``make data``).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from slr_bench.grid.cells import Cell, own_cell
from slr_bench.grid.config import load_grid
from slr_bench.predict.device import Bound, Device, find_device
from slr_bench.predict.host import predict_step_on_cpu
from slr_bench.predict.peak import predict_step
from slr_bench.predict.plan.choices import Choices, at_size, choices_of
from slr_bench.predict.plan.result import DoesNotFitError, Evaluated, Point
from slr_bench.predict.plan.search import find_fastest
from slr_bench.predict.replays import replay_requests
from slr_bench.predict.trace_pool import Refusal, StepProfile, trace_steps
from slr_bench.trace.requests import TRANSIENT, UNMODELLED
from slr_bench.units import MIB, format_bytes

CAPACITIES: Final = 60
_SMALL: Final = Path("configs/ablation_techniques_small.yml")
_GRID: Final = Path("configs/predict_grid.yml")
_HOST: Final = Path("configs/predict_host.yml")


def cost() -> dict[str, Any]:
    """Seconds, and the largest process behind them."""
    command = [sys.executable, "-m", "slr_bench", "predict", str(_GRID), "--json", "--device", "rtx3060"]
    one_s = _timed(command)
    large = ["--set", "training.batch_size=64", "--set", "model.num_frames=128", "--set", "training.recompute=none"]
    large += ["--set", "training.precision=fp32", "--set", "data.max_frames_in_memory=null"]
    answer = json.loads(subprocess.run([*command, *large], capture_output=True, check=False).stdout)
    ram = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    grid_s = _timed([*command, "--grid"])
    return {
        "seconds_one_setting": one_s,
        "seconds_grid_of_100": grid_s,
        "large_step_bytes": answer["peak_tensor_bytes"],
        "largest_process_bytes": ram,
    }


def _timed(command: Sequence[str]) -> float:
    start_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode not in (0, 6):
        raise SystemExit(done.stderr.decode())
    return time.perf_counter() - start_s


def planner() -> dict[str, Any]:
    """Every option at every size traced once; then the search on it, for each simulated card."""
    own = own_cell(load_grid(_SMALL), {}, "optimized", "train_step")
    choices, device, rng = choices_of(own), find_device("rtx3060"), random.Random(0)
    traced = _trace_all(own, choices)
    unlimited = replace(device, capacity_bytes=None)
    needs = [predict_step(step, unlimited).nvml.high for step in traced.values()]
    low, high = min(needs) * 0.97, max(needs) * 1.03
    found: list[_Searched] = []
    for _ in range(CAPACITIES):
        capacity = round(low * (high / low) ** rng.random())
        context, share = rng.uniform(device.context.low, device.context.high), rng.random()
        runs = {point for point, step in traced.items() if _runs(step, device, capacity - context, share)}
        found.append(_search(traced, choices, replace(device, capacity_bytes=capacity), runs))
    plans = [one for one in found if one.looked]
    late = [one.late for one in plans]
    return {
        "capacities": CAPACITIES,
        "settings": len(traced),
        "plans_that_do_not_fit": sum(one.is_wrong for one in found),
        "nothing_fits": len(found) - len(plans),
        "fit_by_giving_cached_memory_back": sum(one.is_tight for one in plans),
        "worst_regret": max(one.regret for one in plans),
        "worst_regret_against_the_truth": max(late),
        "mean_regret_against_the_truth": sum(late) / len(late),
        "mean_settings_traced": sum(one.looked for one in plans) / len(plans),
    }


class _Searched(NamedTuple):
    """The outcome of the search on one card."""

    is_wrong: bool
    """The plan does not run, or nothing was found although something fits."""
    looked: int = 0
    """Settings that the search traced; 0 if it found nothing that fits."""
    is_tight: bool = False
    regret: float = 0.0
    """Time over that of the fastest setting that should fit, less 1."""
    late: float = 0.0
    """Time over that of the fastest setting that runs, less 1."""


def _trace_all(own: Cell, choices: Choices) -> dict[Point, StepProfile]:
    points = [Point(option, size) for option in range(len(choices.options)) for size in choices.sizes]
    changes = [{**choices.options[point.option], **at_size(own, point.size)} for point in points]
    cells = [own_cell(load_grid(_SMALL), change, "optimized", "train_step") for change in changes]
    traced: dict[Point, StepProfile] = {}
    for point, result in zip(points, trace_steps(cells, cuda_rules=True), strict=True):
        assert not isinstance(result, Refusal), result.reason
        traced[point] = result
    return traced


def _search(traced: Mapping[Point, StepProfile], choices: Choices, card: Device, runs: set[Point]) -> _Searched:
    table = {point: _evaluated(one, card) for point, one in traced.items()}
    capacity = card.capacity_bytes
    assert capacity is not None
    fitting = {point for point, found in table.items() if found.need_bytes <= capacity}
    fitting = {point for point in fitting if not table[point].is_tight} or fitting
    looked: list[Point] = []

    def evaluate(points: Sequence[Point]) -> list[Evaluated | Refusal]:
        looked.extend(points)
        return [table[point] for point in points]

    try:
        chosen = find_fastest(len(choices.options), choices.sizes, evaluate, capacity).chosen
    except DoesNotFitError:
        return _Searched(is_wrong=bool(fitting))
    chosen_s, by_time = table[chosen].seconds, sorted(table, key=lambda point: table[point].seconds)
    regret = chosen_s / next(table[point].seconds for point in by_time if point in fitting) - 1
    fastest = next((point for point in by_time if point in runs), chosen)
    late = chosen_s / table[fastest].seconds - 1
    return _Searched(chosen not in runs, len(looked), table[chosen].is_tight, regret, late)


def _evaluated(traced: StepProfile, card: Device) -> Evaluated:
    found = predict_step(traced, card)
    return Evaluated(found.nvml.high, card.rates.step_seconds(traced.work), found)


def _runs(traced: StepProfile, device: Device, room: float, share: float) -> bool:
    """Return whether the step runs with workspaces at ``share`` of the way from none to the most."""
    from slr_bench.predict.allocator.rules import AllocatorSettings

    requests = [
        [kind, round(second * share), 0] if kind in (TRANSIENT, UNMODELLED) else [kind, first, second]
        for kind, first, second in traced.requests
    ]
    settings = AllocatorSettings(capacity_bytes=max(0, int(room)))
    return replay_requests(requests, device, Bound.LIKELY, settings).failure is None


def host() -> dict[str, Any]:
    """Each arm of ``configs/predict_host.yml``, predicted and run twice."""
    grid = load_grid(_HOST)
    cells = [own_cell(grid, {}, arm, "train_step") for arm in grid.arms]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "slr_bench", "run", str(_HOST), "--out", place], stdout=2, check=True)
        for cell, traced in zip(cells, trace_steps(cells, cuda_rules=False), strict=True):
            assert not isinstance(traced, Refusal), traced.reason
            found = predict_step_on_cpu(traced).rss_over_start
            for file in sorted(Path(place).glob(f"records/{cell.cell_id}-*.json")):
                metrics = json.loads(file.read_text())["metrics"]
                measured = metrics["rss_over_start_bytes"]["value"]
                rows.append(
                    {
                        "arm": cell.arm,
                        "predicted_bytes": found.value,
                        "measured_bytes": measured,
                        "tensors_equal": metrics["peak_tensor_bytes"]["value"] == traced.peak_tensor_bytes,
                        "within": abs(found.value - measured) <= max(0.1 * measured, 100 * MIB),
                        "in_interval": found.low <= measured <= found.high,
                    }
                )
    return {"runs": rows}


def main() -> None:
    """Run the parts, print their results, and write them with ``--out``."""
    parts = {"cost": cost, "planner": planner, "host": host}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(parts))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    for name in arguments.part or parts:
        found[name] = parts[name]()
        sys.stdout.write(f"{name}: {json.dumps(_readable(found[name]), indent=1)}\n")
        sys.stdout.flush()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "predict.json").write_text(json.dumps(found, indent=1) + "\n")


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: format_bytes(one) if key.endswith("_bytes") and isinstance(one, (int, float)) else _readable(one)
            for key, one in value.items()
        }
    return [_readable(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
