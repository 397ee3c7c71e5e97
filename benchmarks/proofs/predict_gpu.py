"""Compare predictions with a GPU: measure settings, predict them, and run them again limited to the prediction.

    python -m benchmarks.proofs.predict_gpu [--settings 64] [--device NAME] [--out reports/latest-predict-gpu]

Each chosen setting of ``configs/predict_grid.yml`` is run once in a process of its own and predicted on fake tensors.
Then it is run once more with torch's allocator limited to the predicted reserved bytes + 3 %. A hash decides which
half of the settings is held out, so that no one tunes on them. ``results.json`` and ``README.md`` are written after
every stage; an interrupted command continues when it is started again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.proofs.predict_gpu_text import KINDS, page, summary
from slr_bench.errors import ConfigError, SlrBenchError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA
from slr_bench.files import write_atomically
from slr_bench.grid.cells import Cell, expand
from slr_bench.grid.config import load_grid, with_device
from slr_bench.predict.allocator.rules import rules_of, settings_of
from slr_bench.predict.calibrate import NO_GPU, GpuProcesses, card_name, gpu_processes
from slr_bench.predict.device import Device, any_device, find_device, known_devices
from slr_bench.predict.peak import predict_step
from slr_bench.predict.trace_pool import Refusal, TraceResult, trace_steps
from slr_bench.record import Outcome, Record
from slr_bench.run.runner import Runner
from slr_bench.run.schedule import Run
from slr_bench.run.store import Store

SETTINGS: Final = 64
ALLOWED: Final = 1.03
"""Limit of a run, as a factor of its predicted reserved bytes."""
_GRID: Final = Path("configs/predict_grid.yml")
_OUT: Final = Path("reports/latest-predict-gpu")
_METRICS: Final = {
    "requested": ("peak_requested_bytes",),
    "allocated": ("peak_allocated_bytes",),
    "reserved": ("peak_reserved_bytes",),
    "nvml": ("nvml_process_peak_bytes", "nvml_device_over_idle_bytes"),
}
"""The first that has a value counts."""
_ALLOCATOR: Final = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


class Gpu(Protocol):
    """The measuring side."""

    def measured(self, cells: Sequence[Cell]) -> Sequence[Record]:
        """Return one record per cell, existing ones included."""

    def is_out_of_memory(self, cell: Cell, limit_bytes: int) -> bool:
        """Return whether the cell fails if the allocator may not reserve more.

        Raises:
            SlrBenchError: the run ended neither out of memory nor ok.
        """


class Predict(Protocol):
    """The predicted side: ``predict.trace_pool.trace_steps``."""

    def __call__(self, cells: Sequence[Cell], cuda_rules: bool) -> Sequence[TraceResult]: ...


def is_held_out(cell_id: str) -> bool:
    """By a hash of the setting: the same half everywhere and for good."""
    return _draw(cell_id)[0] % 2 == 1


def drawn(cells: Sequence[Cell], count: int) -> list[Cell]:
    """``count`` settings, half of them held out; fewer are the first of more.

    Raises:
        ConfigError: an odd number, or more than there are.
    """
    ordered = sorted(cells, key=lambda cell: _draw(cell.cell_id))
    halves = [[cell for cell in ordered if is_held_out(cell.cell_id) is held] for held in (False, True)]
    most = 2 * min(map(len, halves))
    if count % 2 or not 2 <= count <= most:
        raise ConfigError(f"--settings: {count}; give an even number from 2 to {most}, half are held out")
    pairs = zip(halves[0][: count // 2], halves[1][: count // 2], strict=True)
    return [cell for pair in pairs for cell in pair]


def _draw(cell_id: str) -> bytes:
    return hashlib.sha256(f"predict_gpu {cell_id}".encode()).digest()


def prove(cells: Sequence[Cell], gpu: Gpu, predict: Predict, device: str | None, out: Path) -> dict[str, Any]:
    """Measure, predict, run under the prediction; the results, which are also in ``out``."""
    records = {record.cell_id: record for record in gpu.measured(cells)}
    environment = next(record.environment for record in records.values() if "gpu" in record.environment)
    card = _card(environment, device)
    found = predict(cells, cuda_rules=True)
    rows = [_row(cell, records[cell.cell_id], one, card, environment) for cell, one in zip(cells, found, strict=True)]
    _write(rows, card, environment, out)
    for cell, row in zip(cells, rows, strict=True):
        if row["measured"] and row["predicted"]:
            row["capped"] = _capped(cell, round(ALLOWED * row["predicted"]["reserved"]["value"]), gpu, out)
            _write(rows, card, environment, out)
    return _write(rows, card, environment, out)


def _card(environment: Mapping[str, Any], named: str | None) -> Device:
    if named is not None:
        return find_device(named)
    known, capacity = known_devices(), int(environment["gpu_memory_bytes"])
    name = card_name(environment["gpu"], capacity, known)
    unknown = replace(any_device(), name=name, title=environment["gpu"], capacity_bytes=capacity)
    return known.get(name, unknown)


def _row(
    cell: Cell, record: Record, found: TraceResult, card: Device, environment: Mapping[str, Any]
) -> dict[str, Any]:
    conf = next((str(environment[name]) for name in _ALLOCATOR if name in environment), "")
    row = {
        "cell_id": cell.cell_id,
        "coordinates": dict(cell.coordinates),
        "held_out": is_held_out(cell.cell_id),
        "outcome": str(record.outcome),
        "reason": record.reason,
        "measured": _measured(record) if record.outcome is Outcome.OK else None,
        "predicted": None,
        "capped": None,
    }
    if isinstance(found, Refusal):
        return {**row, "reason": f"not predicted: {found.reason}"}
    one = predict_step(found, card, settings_of(conf, rules=rules_of(str(environment["torch"]))))
    return {**row, "predicted": {kind: getattr(one, kind).to_dict() for kind in KINDS}, "fits": one.fit.json_value}


def _measured(record: Record) -> dict[str, Any]:
    """Kind -> ``{value, source, reason}``."""
    found = {}
    for kind, names in _METRICS.items():
        metrics = [record.metrics[name] for name in names if name in record.metrics]
        best = next((metric for metric in metrics if metric.value is not None), metrics[0] if metrics else None)
        found[kind] = (
            {"value": None, "source": None, "reason": "the record has no such figure"}
            if best is None
            else {"value": best.value, "source": best.source, "reason": best.reason}
        )
    return found


def _capped(cell: Cell, limit_bytes: int, gpu: Gpu, out: Path) -> dict[str, Any]:
    """Return the result of an earlier call under the same limit, or of a new run."""
    path = out / "capped" / f"{cell.cell_id}.json"
    if path.is_file():
        earlier: dict[str, Any] = json.loads(path.read_text())
        if earlier["limit_bytes"] == limit_bytes:
            return earlier
    found: dict[str, Any] = {"limit_bytes": limit_bytes, "out_of_memory": None, "reason": None}
    try:
        found["out_of_memory"] = gpu.is_out_of_memory(cell, limit_bytes)
    except SlrBenchError as error:
        return {**found, "reason": str(error)}  # not kept: the next call tries again
    _replace(path, json.dumps(found) + "\n")
    return found


def _write(
    rows: Sequence[Mapping[str, Any]], card: Device, environment: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    results = {
        "device": card.name,
        "calibration": card.calibration,
        "environment": dict(environment),
        "summary": summary(rows),
        "settings": list(rows),
    }
    _replace(out / "results.json", json.dumps(results, indent=1) + "\n")
    _replace(out / "README.md", page(results))
    return results


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


class _PrintProgress:
    """Prints one line per run."""

    def scheduled(self, runs: Sequence[Run], finished: int, note: str | None) -> None:
        _print_line(f"{len(runs)} settings, {finished} are measured already")

    def started(self, run: Run) -> None: ...

    def progressed(self, run: Run, phase: str) -> None: ...

    def finished(self, run: Run, record: Record) -> None:
        _print_line(f"measured {run.name}: {record.outcome}, {record.duration_s:.1f} s")


class _RealGpu:
    """The GPU of this machine."""

    def __init__(self, runner: Runner, processes: GpuProcesses) -> None:
        self._runner, self._processes = runner, processes

    def measured(self, cells: Sequence[Cell]) -> Sequence[Record]:
        return self._runner.run(_PrintProgress()).records

    def is_out_of_memory(self, cell: Cell, limit_bytes: int) -> bool:
        _print_line(f"under its prediction: {cell.cell_id}")
        return self._processes.is_out_of_memory(cell, limit_bytes)


def _print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit code 0; as the errors' own where nothing can be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=SETTINGS)
    parser.add_argument("--device", help="predict for this card [default: the one that is here]")
    parser.add_argument("--data-dir", type=Path, default=Path("data/synthetic"))
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    try:
        # Other work on the machine changes no byte: nothing is run again for it.
        grid = with_device(load_grid(_GRID), "cuda").repeated(1).model_copy(update={"invalid_reruns": 0})
        overrides = {"data.dir": str(arguments.data_dir), "model.num_classes": 20}
        cells = drawn(expand(grid, overrides), arguments.settings)
        store = Store(arguments.out / "run")
        runner = Runner(grid, cells, store, fake=False, command="python -m benchmarks.proofs.predict_gpu", retry=True)
        with gpu_processes(cells) as processes:
            prove(cells, _RealGpu(runner, processes), trace_steps, arguments.device, arguments.out)
    except SlrBenchError as error:
        is_none = isinstance(error, UnsupportedSettingError) and str(error) == NO_CUDA
        sys.stderr.write(f"predict_gpu: {NO_GPU if is_none else error}\n")
        return error.exit_code
    _print_line((arguments.out / "README.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
