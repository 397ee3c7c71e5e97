"""Measure the false alarms and the detections of ``slr_bench.compare`` on real runs of this machine.

``python -m benchmarks.proofs.comparison_proof`` collects the runs of ``configs/aa.yml`` (some minutes; an
interrupted command continues when it is started again), then resamples comparisons from them.
``--from step_times.csv`` skips the collection.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from benchmarks.proofs.proof_results import CLOCKS, Collected, results
from benchmarks.proofs.proof_text import draw, page, verdicts
from slr_bench.compare.notebook import tabulate
from slr_bench.errors import EXIT_REGRESSION, NothingMeasuredError, SlrBenchError
from slr_bench.run.store import Store

OUT = Path("reports/latest-compare")
PLUGINS = Path(__file__).resolve().parent / "plugins"
COLUMNS = ("size_bytes", "repeat", "started_at", *CLOCKS, "peak_tensor_bytes")
MINIMUM_RUNS = 100


def collect(grid: Path, run_dir: Path) -> int:
    """Run the grid with ``slr-bench run`` and return the exit code.

    Each process gets one OpenMP thread unless the user sets another number. Two threads wait for each other whenever
    another program takes a core; a step of 0.06 s then took up to 0.9 s.
    """
    path = os.pathsep.join(filter(None, (str(PLUGINS), os.environ.get("PYTHONPATH"))))
    threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, "-m", "slr_bench", "run", str(grid), "--out", str(run_dir)]
    return subprocess.run(command, env={**os.environ, **threads, "PYTHONPATH": path}, check=False).returncode


def read_runs(run_dir: Path) -> tuple[pandas.DataFrame, dict[str, Any]]:
    """Return the successful processes as a table, and the environment they ran in.

    Raises:
        NothingMeasuredError: none did.
    """
    records = [record for record in Store(run_dir).read_records()[0] if record.reason is None]
    if not records:
        raise NothingMeasuredError(f"{run_dir} has no run that ended ok; run without --from to collect some")
    frame = tabulate(records).rename(columns={"setting.ballast.size_bytes": "size_bytes"})
    return frame[list(COLUMNS)].sort_values(["size_bytes", "repeat"]), dict(records[0].environment)


def write(frame: pandas.DataFrame, environment: Mapping[str, Any], out: Path) -> bool:
    """Write the table, figures and page into ``out`` and print the results. Return True if all targets are met.

    Raises:
        NothingMeasuredError: fewer than `MINIMUM_RUNS` runs.
    """
    collected = Collected.from_table(frame)
    if len(collected.plain) < MINIMUM_RUNS:
        raise NothingMeasuredError(
            f"the proof needs {MINIMUM_RUNS} runs that ended ok, got {len(collected.plain)}; run it again to go on"
        )
    print(f"resampling comparisons from {len(collected.plain)} runs", flush=True)
    found = results(collected)
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "step_times.csv", index=False, float_format="%.6g")
    (out / "results.json").write_text(json.dumps({"environment": environment} | found, indent=1) + "\n")
    (out / "README.md").write_text(page(found, environment))
    draw(collected.pairs(), found, out)
    for text, figure, met in verdicts(found):
        print(f"{'met' if met else 'NOT MET':8}{text}: {figure}")
    print(f"whole: {out / 'README.md'}")
    return all(met for _, _, met in verdicts(found))


def main() -> int:
    """Collect, resample, write. Exit code 0: every number met; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs.comparison_proof", description=__doc__)
    parser.add_argument("--grid", type=Path, default=Path("configs/aa.yml"))
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the answers; the runs go to OUT/runs")
    parser.add_argument("--from", dest="table", type=Path, help="step_times.csv of an earlier collection")
    arguments = parser.parse_args()
    try:
        if arguments.table is not None:
            beside = arguments.table.with_name("results.json")
            environment = json.loads(beside.read_text())["environment"] if beside.is_file() else {}
            frame = pandas.read_csv(arguments.table)
        else:
            code = collect(arguments.grid, arguments.out / "runs")
            if code:
                return code
            frame, environment = read_runs(arguments.out / "runs")
        return 0 if write(frame, environment, arguments.out) else EXIT_REGRESSION
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
