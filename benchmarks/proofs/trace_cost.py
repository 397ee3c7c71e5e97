"""Measure the cost of tracing: one step plain, counted, attributed, and under torch's MemTracker, in one process.

    python -m benchmarks.proofs.trace_cost [--rounds 9] [--arm baseline --arm optimized] [--config configs/ablation.yml]

The ratio of each round is taken against that round's untraced step, so a machine that slows down slows both. Time is
processor time of one thread: on a shared machine it is the steadier clock.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed._tools.mem_tracker import MemTracker

from slr_bench.execute.job import Work
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import load_grid
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.allocations import CpuAllocations
from slr_bench.trace.recorder import Recorder
from slr_bench.worker.context import Context, open_work

Meter = Callable[[Any, Context], AbstractContextManager[Any]]

CPU = torch.device("cpu")


def _plain(work: Any, context: Context) -> AbstractContextManager[Any]:
    return LiveBytes(CPU, work.tensors())


def _attributed(work: Any, context: Context) -> AbstractContextManager[Any]:
    return Recorder(CPU, work.tensors())


@contextlib.contextmanager
def _checked(work: Any, context: Context) -> Iterator[None]:
    log = CpuAllocations()
    with log, Recorder(CPU, work.tensors(), mark=log.mark):
        yield


@contextlib.contextmanager
def _mem_tracker(work: Any, context: Context) -> Iterator[None]:
    tracker = MemTracker()
    tracker.track_external(work._model)
    with tracker:
        yield


METERS: dict[str, Meter] = {
    "not traced": lambda work, context: contextlib.nullcontext(),
    "byte count (LiveBytes)": _plain,
    "attribution (Recorder)": _attributed,
    "attribution + allocator's events": _checked,
    "torch MemTracker": _mem_tracker,
}


def measure(setting: Any, workload: str, rounds: int) -> dict[str, list[float]]:
    """Meter -> processor seconds of one step, a value a round; the order turns with the rounds."""
    spec, settings, context = open_work(Work(workload, setting), "cpu")
    work = spec.build(settings, context)
    context.phase.enabled = False
    work.load()
    for _ in range(2):
        work.step()
    times: dict[str, list[float]] = {name: [] for name in METERS}
    names = list(METERS)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            gc.disable()
            # MemTracker does not take a second forward pass, so no accumulated micro-batches: then it gives no time.
            with contextlib.suppress(NotImplementedError), METERS[name](work, context):
                start_s = time.process_time()
                work.step()
                times[name].append(time.process_time() - start_s)
            gc.enable()
    return {name: values for name, values in times.items() if len(values) == rounds}


def main() -> None:
    """Print the table; ``--json`` prints the ratios instead."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/ablation.yml"))
    parser.add_argument("--arm", action="append", help="repeatable; default: every arm")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = load_grid(options.config)
    results = {}
    for arm in options.arm or grid.arms:
        cell = own_cell(grid, {}, arm)
        cell.spec.prepare(cell.settings)
        times = measure(cell.settings.model_dump(mode="json"), cell.spec.name, options.rounds)
        results[arm] = summarized(times)
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")
        return
    for arm, rows in results.items():
        _print(arm, rows, options.rounds)


def summarized(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Meter -> median step and median, least and largest ratio to the same round's untraced step."""
    base = times["not traced"]
    found = {}
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, base, strict=True)]
        found[name] = {
            "step_s": statistics.median(values),
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
    return found


def _print(arm: str, rows: dict[str, dict[str, float]], rounds: int) -> None:
    table = Table(title=f"train_step, {arm}: processor time of a step, {rounds} rounds in turn, one thread", box=None)
    for heading in ("meter", "step", "× untraced", "min–max"):
        table.add_column(heading, justify="left" if heading == "meter" else "right")
    for name, row in rows.items():
        spread = f"{row['low']:.2f}–{row['high']:.2f}"
        table.add_row(name, f"{row['step_s'] * 1000:.0f} ms", f"{row['ratio']:.2f}", spread)
    Console().print(table)


if __name__ == "__main__":
    main()
