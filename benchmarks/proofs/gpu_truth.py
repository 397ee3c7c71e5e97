"""Hold the simulated allocator and the predictions against what real GPUs recorded and what others published.

    python -m benchmarks.proofs.gpu_truth [--data DIR] [--part PART] [--out DIR]

``recordings``: every memory snapshot in ``DIR/snapshots`` is replayed; reserved bytes, segments and addresses are
compared after every event.
``published``: every setting in ``DIR/published.json`` is predicted on fake tensors and compared with the memory that
the driver showed for the whole device.

The files belong to others and are not part of this repository. Without them the command says so and ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from slr_bench.errors import SlrBenchError
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import load_grid
from slr_bench.predict.allocator.verdict import SnapshotReplay, Verdict, replay_snapshot
from slr_bench.predict.device import find_device
from slr_bench.predict.peak import predict_step
from slr_bench.predict.trace_pool import Refusal, TraceResult, trace_steps
from slr_bench.units import MIB

DATA: Final = Path("../shared/data/gpu_truth")
ALL: Final = "all"
_GRID: Final = Path(__file__).parent / "published" / "grid.yml"
_CARD: Final = "a100-40g"
"""Card of the published figures."""


class Setting(NamedTuple):
    """A published figure."""

    source: str
    name: str
    values: Mapping[str, Any]
    nvml_bytes: int


def recordings(data: Path) -> dict[str, Any]:
    """Replay every snapshot, and count what was compared."""
    rows, start_s = [], time.perf_counter()
    for path in sorted((data / "snapshots").glob("*")):
        try:
            found = replay_snapshot(path, None, None, None, "2.14")
        except SlrBenchError as error:
            rows.append({"file": path.name, "verdict": "refused", "reason": str(error)})
            continue
        rows += [_row(path.name, one) for one in (found, *found.others)]
    compared = [row for row in rows if row.get("allocations")]
    return {
        "files": len({row["file"] for row in rows}),
        "histories_with_allocations": len(compared),
        "agree": sum(row["verdict"] == Verdict.AGREES.value for row in compared),
        "events": sum(row["events"] for row in compared),
        "addresses": sum(row["addresses"] for row in compared),
        "equal_addresses": sum(row["equal_addresses"] for row in compared),
        "blocks_of_unknown_size": sum(row["unknown_blocks"] for row in compared),
        "agreements_without_an_allocation": sum(
            row["verdict"] == Verdict.AGREES.value and not row["allocations"] for row in rows if "allocations" in row
        ),
        "seconds": time.perf_counter() - start_s,
        "rows": rows,
    }


def _row(name: str, found: SnapshotReplay) -> dict[str, Any]:
    return {
        "file": name,
        "device": found.recording.device,
        "verdict": found.verdict.value,
        "reason": found.nothing_reason or (found.difference.cause if found.difference else None),
        "events": len(found.recording.events),
        "allocations": found.recording.allocations,
        "addresses": found.addresses.compared,
        "equal_addresses": found.addresses.equal,
        "unknown_blocks": found.recording.unknown_blocks,
        "start_reserved_bytes": found.recording.start_reserved_bytes,
        "peak_reserved_bytes": found.simulated.peak_reserved_bytes,
    }


def published(data: Path) -> dict[str, Any]:
    """Predict every published setting whose model can be built here."""
    settings = list(_published_settings(json.loads((data / "published.json").read_text())))
    has_timm = find_spec("timm") is not None
    tried = [one for one in settings if has_timm or one.values["library"] != "timm"]
    grid = load_grid(_GRID)
    cells = [own_cell(grid, dict(one.values), "published") for one in tried]
    start_s = time.perf_counter()
    rows = [_prediction(*pair) for pair in zip(tried, trace_steps(cells, cuda_rules=True), strict=True)]
    names = [*dict.fromkeys(one.source for one in settings), ALL]
    sources = {name: _summary([one for one in settings if name in (one.source, ALL)], rows) for name in names}
    return {"sources": sources, "seconds": time.perf_counter() - start_s, "rows": rows}


def _summary(settings: Sequence[Setting], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the errors over the settings of one source that could be predicted."""
    names = {(one.source, one.name) for one in settings}
    own = [row for row in rows if (row["source"], row["name"]) in names and "reason" not in row]
    found: dict[str, Any] = {"settings": len(settings), "predicted": len(own), "covered": 0}
    if own:
        found["covered"] = sum(row["is_covered"] for row in own)
        errors = [row["error"] for row in own]
        found["median_error"] = statistics.median(map(abs, errors))
        found["worst_error"] = max(errors, key=abs)
        found["widest"] = max(row["width"] for row in own)
    return found


def _published_settings(content: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings of torchvision and timm. The file does not give the widths of the MLPs' layers."""
    for name, mib in content["torchvision_adam"].items():
        model, _, batch = name.rpartition("_")
        values = {"library": "torchvision", "model": model, "batch_size": int(batch), "optimizer": "adam"}
        yield Setting("GPUMemNet, torchvision, Adam", name, values, mib * MIB)
    for model, mib in content["timm_sgd_momentum_batch_8"].items():
        values = {"library": "timm", "model": model, "batch_size": 8, "optimizer": "sgd"}
        yield Setting("GPUMemNet, timm, SGD with momentum", model, values, mib * MIB)


def _prediction(setting: Setting, step: TraceResult) -> dict[str, Any]:
    row: dict[str, Any] = {"source": setting.source, "name": setting.name, "published_bytes": setting.nvml_bytes}
    if isinstance(step, Refusal):
        return row | {"reason": step.reason}
    found = predict_step(step, find_device(_CARD))
    nvml, truth = found.nvml, setting.nvml_bytes
    return row | {
        "nvml_bytes": nvml.value,
        "low_bytes": nvml.low,
        "high_bytes": nvml.high,
        "reserved_bytes": found.reserved.value,
        "error": nvml.value / truth - 1,
        "is_covered": nvml.low <= truth <= nvml.high,
        "width": nvml.high / nvml.low,
    }


def _recordings_table(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| Recording | Events | Addresses equal | Sizes open | Peak reserved (MiB) | Verdict |"
    yield "|---|---:|---:|---:|---:|---|"
    for row in found["rows"]:
        if row["verdict"] == "refused":
            yield f"| {row['file']} | | | | | refused: {row['reason']} |"
            continue
        equal = f"{row['equal_addresses']:,} of {row['addresses']:,}"
        peak = f"{row['peak_reserved_bytes'] / MIB:,.0f}"
        verdict = row["verdict"] + (f": {row['reason'].partition(';')[0]}" if row["reason"] else "")
        yield f"| {row['file']} | {row['events']:,} | {equal} | {row['unknown_blocks']} | {peak} | {verdict} |"
    yield (
        f"\n{found['agree']} of {found['histories_with_allocations']} histories with an allocation agree after each of "
        f"{found['events']:,} events; {found['equal_addresses']:,} of {found['addresses']:,} addresses are equal; "
        f"{found['agreements_without_an_allocation']} agreements without an allocation; {found['seconds']:.1f} s\n"
    )


def _published_tables(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| Setting | Published (MiB) | Predicted | Least to most | Error |"
    yield "|---|---:|---:|---:|---:|"
    for row in found["rows"]:
        mib = {key: f"{value / MIB:,.0f}" for key, value in row.items() if key.endswith("_bytes")}
        if "reason" in row:
            yield f"| {row['name']} | {mib['published_bytes']} | {row['reason']} | | |"
            continue
        bounds = f"{mib['low_bytes']} to {mib['high_bytes']}{'' if row['is_covered'] else ' (outside)'}"
        yield f"| {row['name']} | {mib['published_bytes']} | {mib['nvml_bytes']} | {bounds} | {row['error']:+.1%} |"
    yield "\n| Source | Predicted | Median error | Worst | Inside the interval | Widest interval |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, one in found["sources"].items():
        count = f"{one['predicted']} of {one['settings']}"
        if not one["predicted"]:
            yield f"| {name} | {count} (timm is not installed) | | | | |"
            continue
        errors = f"{one['median_error']:.1%} | {one['worst_error']:.1%}"
        yield f"| {name} | {count} | {errors} | {one['covered']} | {one['widest']:.2f}× |"
    yield f"\n{found['seconds']:.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts, print their tables, and write the rows with ``--out``."""
    parts = {"recordings": recordings, "published": published}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--part", action="append", choices=list(parts))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if not (options.data / "snapshots").is_dir():
        sys.stdout.write(f"skipped: there are no recordings in {options.data}; name their directory with --data\n")
        return
    found = {name: parts[name](options.data) for name in options.part or parts}
    tables = {"recordings": _recordings_table, "published": _published_tables}
    sys.stdout.write("\n".join(line for name, part in found.items() for line in tables[name](part)) + "\n")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu_truth.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
