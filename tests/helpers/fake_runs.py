"""Run directories made by hand: valid manifests and records with figures that are easy to compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slr_bench.grid.config import AblationChain
from slr_bench.record import Metric, Outcome, Record, RunEvent
from slr_bench.run.store import CellEntry, Manifest, Pairing, Store

MIB = 1024**2
HALVED = RunEvent(
    step=12,
    kind="halved",
    text="memory critical, RAM is 96 % full: micro-batch 8 -> 4 clips",
    changes_batch=True,
    used_bytes=96 * MIB,
    own_bytes=80 * MIB,
)
SHED = RunEvent(step=3, kind="shed_cache", text="memory warning, RAM is 91 % full: the clip cache is dropped")
NO_GPU = Metric.unavailable("bytes", "torch.cuda", "the cell ran on the CPU, which has no caching allocator")


def setting(batch: int, steps: int, precision: str, recompute: str = "none") -> dict[str, Any]:
    """Return a nested setting, as the manifest stores it."""
    return {
        "model": {"num_frames": 16, "base_channels": 16, "pyramid_levels": [1, 2, 4]},
        "data": {"frame_size": 112},
        "training": {
            "batch_size": batch,
            "gradient_accumulation_steps": steps,
            "precision": precision,
            "recompute": recompute,
        },
    }


def step_metrics(memory_bytes: int, time_s: float, source: str = "cpu-real") -> dict[str, Metric]:
    """Return the readings of one train_step process on the CPU."""
    return {
        "peak_tensor_bytes": Metric(value=memory_bytes, unit="bytes", source=source, quality="exact"),
        "peak_allocated_bytes": NO_GPU,
        "rss_over_start_bytes": Metric(value=memory_bytes + 50 * MIB, unit="bytes", source="VmHWM", quality="measured"),
        "step_time_s": Metric(value=time_s, unit="s", source="perf_counter", quality="measured"),
        "throughput_clips_per_s": Metric(value=16 / time_s, unit="1/s", source="perf_counter", quality="measured"),
        "parameters": Metric(value=701234, unit="1", source="model", quality="exact"),
        "harness_s": Metric(value=0.08, unit="s", source="parent", quality="measured"),
        "parent_cpu_ratio": Metric(value=0.002, unit="ratio", source="times", quality="measured"),
        "sampler_overhead_ratio": Metric(value=0.004, unit="ratio", source="pairs", quality="measured"),
    }


def epoch_metrics(accuracy: float, time_s: float) -> dict[str, Metric]:
    """Return the readings of one train_epochs process."""
    reason = "a whole training is not traced"
    return {
        "accuracy_top1": Metric(value=accuracy, unit="ratio", source="val split", quality="measured"),
        "training_time_s": Metric(value=time_s, unit="s", source="perf_counter", quality="measured"),
        "peak_tensor_bytes": Metric.unavailable("bytes", "cpu-real", reason),
    }


def samples(peak_bytes: int) -> dict[str, Any]:
    """Return samples of a step that rises to its peak in forward and falls in backward, and RAM over two seconds."""
    live = [peak_bytes * place // 40 for place in range(41)] + [peak_bytes * place // 40 for place in range(40, 9, -1)]
    phase = ["forward"] * 41 + ["backward"] * 25 + ["optimizer"] * 6
    times_s = [place / 20 for place in range(40)]
    return {
        "columns": ["rss_bytes", "nvml_process_bytes"],
        "times_s": times_s,
        "rows": [[int(200 * MIB + peak_bytes * min(1, time_s)), None] for time_s in times_s],
        "phases": [
            {"name": "build", "start_s": 0.0, "end_s": 0.4},
            {"name": "forward", "start_s": 0.5, "end_s": 1.2},
            {"name": "backward", "start_s": 1.2, "end_s": 1.9},
        ],
        "traced": {"operators": 72, "live_bytes": live, "phase": phase},
    }


def traced_by_category(peak_bytes: int, micro_batches: int = 2, points: int = 400) -> dict[str, Any]:
    """Return the traced part of samples: categories over a step that saves and frees, and modules at the peak.

    The parts add up to the whole: state is a quarter of the peak, the rest rises and falls once per micro-batch.
    """
    state, rest = peak_bytes // 8, peak_bytes - 2 * (peak_bytes // 8)
    rising = points // micro_batches // 2
    saved, temporary, phase = [], [], []
    for place in range(points):
        within = place % (2 * rising)
        height = within if within <= rising else 2 * rising - within
        saved.append(int(rest * 0.8) * height // rising)
        temporary.append(rest - int(rest * 0.8) if height == rising else (place * 7919) % (rest // 10 + 1))
        phase.append("forward" if within < rising else "backward")
    series = {"parameter": [state] * points, "optimizer state": [state] * points}
    series |= {"saved activation": saved, "temporary": temporary}
    blocks = {f"backbone.layer{place // 4}.{place % 4}.conv": rest * 0.8 / 2 ** (place + 1) for place in range(24)}
    modules = {name: {"saved activation": int(size)} for name, size in blocks.items() if size >= 1}
    missing = peak_bytes - sum(size for parts in modules.values() for size in parts.values())
    modules["AdamW"] = {"parameter": state, "optimizer state": state, "temporary": missing - 2 * state}
    live = [sum(values) for values in zip(*series.values(), strict=True)]
    return {"operators": points, "live_bytes": live, "phase": phase, "by_category": series, "by_module": modules}


class FakeRun:
    """Builds a run directory cell by cell; ``write`` stores it on disk."""

    def __init__(self, directory: Path, workload: str = "train_step") -> None:
        self.directory, self.workload = directory, workload
        self.store = Store(directory)
        self.entries: list[CellEntry] = []
        self.ladder: AblationChain | None = None
        self.pairing: Pairing | None = None
        self.records: list[tuple[Record, dict[str, Any] | None]] = []
        self.environment: dict[str, Any] = {"torch": "2.15.0", "cpu": "Fake CPU", "cores": 2}

    def cell(self, arm: str, workload: str = "train_step", *, own: bool = True, repeats: int = 3, **more: Any) -> str:
        """Add a cell and return its id. ``more``: setting, coordinates."""
        cell_id = f"c{len(self.entries):03d}"
        self.entries.append(
            CellEntry(
                cell_id=cell_id,
                arm=arm,
                workload=workload,
                setting=more.get("setting", setting(16, 1, "fp32")),
                coordinates=more.get("coordinates", {}),
                is_own=own,
                repeats=repeats,
            )
        )
        return cell_id

    def record(
        self,
        cell_id: str,
        repeat: int,
        metrics: dict[str, Metric] | None = None,
        outcome: Outcome = Outcome.OK,
        reason: str | None = None,
        series: dict[str, Any] | None = None,
        marks: tuple[str, ...] = (),
        events: tuple[RunEvent, ...] = (),
    ) -> None:
        """Add a record of a cell. A record with the outcome ``invalid_env`` is stored as discarded."""
        entry = next(entry for entry in self.entries if entry.cell_id == cell_id)
        record = Record(
            cell_id=cell_id,
            repeat=repeat,
            workload=entry.workload,
            setting=entry.setting,
            outcome=outcome,
            reason=reason,
            environment=self.environment | {"device": "cpu"},
            metrics=metrics or {},
            phases={},
            started_at=f"2026-01-01T00:00:{len(self.records) % 60:02d}Z",
            duration_s=1.0,
            marks=marks,
            events=events,
        )
        self.records.append((record, series))

    def write(self, command: str = "slr-bench run configs/ablation.yml") -> Path:
        """Write manifest and records, and return the directory."""
        with self.store.locked():
            self.store.write_manifest(
                Manifest(
                    workload=self.workload,
                    source_hash="abc123",
                    config_hash="def456",
                    environment=self.environment,
                    command=command,
                    cells=tuple(self.entries),
                    ladder=self.ladder,
                    pairing=self.pairing,
                )
            )
            for record, series in self.records:
                if record.outcome is Outcome.INVALID_ENV:
                    self.store.write_discarded(record, 1)
                else:
                    self.store.write_record(record, series)
        return self.directory


def fill_usual(run: FakeRun) -> FakeRun:
    """Add two arms and a grid: baseline 800 MiB, optimized 100 MiB (8x less), an OOM cell, accuracies 50 and 52 %."""
    own = {"baseline": setting(16, 1, "fp32"), "optimized": setting(4, 4, "bf16", "block")}
    figures = {"baseline": (800 * MIB, (1.0, 1.1, 1.2)), "optimized": (100 * MIB, (1.5, 1.65, 1.8))}
    for arm, (memory, times) in figures.items():
        cell = run.cell(arm, setting=own[arm])
        for repeat, time_s in enumerate(times):
            run.record(cell, repeat, step_metrics(memory, time_s), series=samples(memory))
    for arm, batch, precision in (("baseline", 8, "fp32"), ("optimized", 8, "fp32"), ("optimized", 8, "bf16")):
        axes = {"training.batch_size": batch, "training.precision": precision}
        cell = run.cell(arm, own=False, setting=setting(batch, 2, precision), coordinates=axes)
        memory = {"baseline": 420, "optimized": 260}[arm] - (90 if precision == "bf16" else 0)
        for repeat in range(3):
            run.record(cell, repeat, step_metrics(memory * MIB, 1.3 + repeat / 20))
    cell = run.cell("baseline", own=False, coordinates={"training.batch_size": 64}, setting=setting(64, 1, "fp32"))
    for repeat in range(3):
        run.record(cell, repeat, outcome=Outcome.OOM_HOST, reason="the kernel killed it: oom_kill rose by 1")
    for arm, accuracy, time_s in (("baseline", 0.5, 60.0), ("optimized", 0.52, 66.0)):
        cell = run.cell(arm, "train_epochs", repeats=1, setting=own[arm])
        run.record(cell, 0, epoch_metrics(accuracy, time_s))
    return run


def fill_large(run: FakeRun, cells: int = 200, repeats: int = 3) -> FakeRun:
    """Add ``cells`` cells of train_step (arms x batch sizes x precisions) and one training per arm.

    Every tenth cell is out of memory; every other cell has a timeline by category and by module.
    """
    axes = [(batch, precision) for precision in ("fp32", "bf16") for batch in (2, 4, 8, 16, 32)]
    for number in range(cells):
        place, (batch, precision) = number // len(axes), axes[number % len(axes)]
        arm = ["baseline", "optimized"][place] if place < 2 else f"technique {place}"
        own = (batch, precision) == (8, "fp32")
        coordinates = {"training.batch_size": batch, "training.precision": precision}
        made = setting(batch, 32 // batch, precision, f"budget:{place}")
        cell = run.cell(arm, own=own, repeats=repeats, coordinates=coordinates, setting=made)
        if number % 10 == 9:
            run.record(cell, 0, outcome=Outcome.OOM_GPU, reason=f"tried to allocate {number} MiB of {number // 2} free")
            continue
        peak = (40 + number * 37 % 900) * MIB // (1 if precision == "fp32" else 2)
        floor = Metric(value=peak * 9 // 10, unit="bytes", source="cpu-real", quality="exact")
        over = Metric(value=10 / 9, unit="1", source="cpu-real; split: attention", quality="exact")
        extra = {"floor_bytes": floor, "peak_over_floor": over}
        for repeat in range(repeats):
            time_s = 0.4 + (number * 53 % 97) / 50 + repeat / 30
            series = samples(peak) | {"traced": traced_by_category(peak, 32 // batch)}
            run.record(cell, repeat, step_metrics(peak, time_s) | extra, series=series)
        if own:
            run.record(
                run.cell(arm, "train_epochs", repeats=1, setting=made), 0, epoch_metrics(0.5 + place / 100, 60.0)
            )
    return run


def values_without_checksum(path):
    """Return the values of a file as an earlier version wrote it; a test that changes them changes no checksum."""
    values = json.loads(path.read_text())
    values.pop("checksum", None)
    return values
