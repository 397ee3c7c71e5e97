"""Prove on real commits that ``slr-bench gate`` stops growth and passes everything else.

``python -m benchmarks.proofs.gate_proof`` makes a repository of this project's files. One commit changes nothing, one
holds 0.5 % more bytes, and one takes 15 % longer. Each is gated against the first commit, and the rule on times is
resampled from recorded runs. An interrupted command continues when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas

from benchmarks.proofs.gate_text import page, verdicts
from benchmarks.proofs.proof_results import SLOWDOWN, Collected, compared
from benchmarks.proofs.resampling import rate
from slr_bench.compare.comparison import compare_runs
from slr_bench.compare.gate import judge_gate
from slr_bench.compare.rules import gather_rules
from slr_bench.errors import EXIT_NOT_COMPARABLE, EXIT_OK, EXIT_REGRESSION, SlrBenchError
from slr_bench.record import Record
from slr_bench.run.revisions import git
from slr_bench.run.store import Store

ROOT = Path(__file__).resolve().parents[2]
OUT = Path("reports/latest-gate")
RECORDED = ROOT / "reports" / "comparison_cpu_2026-11-24"
BYTES_RULE, TIME_RULES = "peak_tensor_bytes:0%", ("step_time_s:5%", "step_time_s:10%")
BALLAST = "size_bytes: Annotated[int, Field(strict=True, ge=0)] = 0"
SLOWER = "slower_ratio: Annotated[float, Field(ge=0)] = 0.0"
COMMITS = {
    "noop": ("models/__init__.py", "", "# A comment changes nothing.\n"),
    "bytes": ("benchmarks/proofs/ballast.py", BALLAST, f"{BALLAST.removesuffix('0')}25090"),
    "slow": ("benchmarks/proofs/ballast.py", SLOWER, f"{SLOWER.removesuffix('0.0')}{SLOWDOWN - 1:.2f}"),
}
"""Tag -> file, what stands there, what the commit makes of it: 25,090 B are 0.5 % of the step's peak."""
PAIRS = {"noop": 100, "bytes": 20, "slow": 96}


def make_repository(top: Path) -> None:
    """The project's files as they are, as the first commit, and a commit beside it for each of `COMMITS`."""
    git.copy_working_tree(ROOT, top)
    _git(top, "init", "-q", "-b", "main")
    _commit(top, "base")
    for tag, (name, before, after) in COMMITS.items():
        _git(top, "checkout", "-q", "--detach", "base")
        path = top / name
        text = path.read_text()
        assert before in text, f"{name} has changed: {before!r} is not in it"
        path.write_text(text.replace(before, after, 1) if before else text + after)
        _commit(top, tag)


def _commit(top: Path, tag: str) -> None:
    _git(top, "add", "-A")
    _git(top, "-c", "user.name=proof", "-c", "user.email=proof@localhost", "commit", "-q", "-m", tag)
    _git(top, "tag", tag)


def _git(top: Path, *arguments: str) -> None:
    # Dates that never change: the same files make the same commits, with which the same command goes on.
    dates = {f"GIT_{who}_DATE": "2026-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}
    subprocess.run(["git", *arguments], cwd=top, env={**os.environ, **dates}, check=True, stdout=subprocess.DEVNULL)


def gate(top: Path, tag: str, out: Path, data: Path) -> int:
    """``slr-bench gate base TAG`` in the repository, one OpenMP thread a process; its exit code."""
    command = [sys.executable, "-m", "slr_bench", "gate", "base", tag, "--config", "configs/gate_proof.yml"]
    command += ["--set", f"data.dir={data.resolve()}", "--repeats", str(PAIRS[tag]), "--out", str(out.resolve() / tag)]
    command += ["--rule", BYTES_RULE] + [word for rule in TIME_RULES for word in ("--rule", rule)]
    command += ["--markdown", str(out.resolve() / f"{tag}.md")]
    path = os.pathsep.join([str(top / "benchmarks" / "proofs" / "plugins"), str(ROOT)])
    threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return subprocess.run(command, cwd=top, env={**os.environ, **threads, "PYTHONPATH": path}, check=False).returncode


def pair_by_pair(run: Path) -> tuple[int, int]:
    """Each real pair of processes in two run directories of its own, gated by bytes: how many passed, of how many."""
    rules = gather_rules([BYTES_RULE], [], [])
    sides = [Store(run / side) for side in ("base", "head")]
    records = [{record.repeat: record for record in store.read_records()[0]} for store in sides]
    repeats = sorted(records[0].keys() & records[1].keys())
    passed = 0
    with tempfile.TemporaryDirectory() as place:
        for repeat in repeats:
            pair = [Path(place) / f"{repeat}-{side}" for side in ("base", "head")]
            for store, own, directory in zip(sides, records, pair, strict=True):
                _write_alone(store, own[repeat], directory)
            passed += judge_gate(compare_runs(*pair), rules).exit_code == EXIT_OK
    return passed, len(repeats)


def _write_alone(store: Store, record: Record, directory: Path) -> None:
    alone, manifest = Store(directory), store.read_manifest()
    assert manifest is not None
    with alone.locked():
        alone.write_manifest(manifest)
        alone.write_record(record)


def resampled(table: Path, count: int = 1_000) -> list[dict[str, Any]]:
    """Apply the rule on times to comparisons drawn from recorded pairs: rates of false alarms and of detections."""
    collected = Collected.from_table(pandas.read_csv(table))
    peaks = [int(value) for value in collected.plain.peak_tensor_bytes]
    found = []
    for n in (8, 24, 48):
        kinds = {"stopped": list(compared(collected, peaks, 1.0, count, n))}
        kinds["found"] = list(compared(collected, peaks, SLOWDOWN, count, n))
        for rule in TIME_RULES:
            rules = gather_rules([rule], [], [])
            shares = {
                kind: vars(rate(sum(judge_gate(one, rules).exit_code == EXIT_REGRESSION for one in drawn), count))
                for kind, drawn in kinds.items()
            }
            found.append({"machine": table.parent.name, "pairs": n, "rule": rule, **shares})
    return found


def measured(tag: str, out: Path, code: int) -> dict[str, Any]:
    """Return the result of the real run of a commit."""
    comparison = compare_runs(out / tag / "base", out / tag / "head")
    rows = {row.metric: row.to_dict() for row in comparison.cells if row.metric in ("peak_tensor_bytes", "step_time_s")}
    kept = ("base", "head", "ratio", "low", "high", "significant", "n")
    passed, n = pair_by_pair(out / tag)
    rules = {rule: judge_gate(comparison, gather_rules([rule], [], [])).exit_code for rule in (BYTES_RULE, *TIME_RULES)}
    figures = {metric: {key: row[key] for key in kept} for metric, row in rows.items()}
    disturbed = sum(pair.disturbed for pair in comparison.outcomes)
    return {"exit_code": code, "rules": rules, "pairs_passed": vars(rate(passed, n)), "disturbed": disturbed, **figures}


def main() -> int:
    """Make, gate, resample, write. Exit code 0: every number met; 1: not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proofs.gate_proof", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the answers and the runs")
    parser.add_argument("--data", type=Path, default=Path("data/synthetic"), help="what `make data` rendered")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as place:
            top = Path(place) / "project"
            make_repository(top)
            codes: dict[str, int] = {}
            for tag in COMMITS:
                codes[tag] = gate(top, tag, out, arguments.data)
                if codes[tag] not in (EXIT_OK, EXIT_REGRESSION, EXIT_NOT_COMPARABLE):
                    return codes[tag]
        found: dict[str, Any] = {tag: measured(tag, out, code) for tag, code in codes.items()}
        found["environment"] = Store(out / "noop" / "base").read_records()[0][0].environment
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    found["resampled"] = [row for name in (".", "busy") for row in resampled(RECORDED / name / "step_times.csv")]
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "README.md").write_text(page(found))
    for text, figure, met in verdicts(found):
        print(f"{'met' if met else 'NOT MET':8}{text}: {figure}")
    print(f"whole: {out / 'README.md'}")
    return EXIT_OK if all(met for _, _, met in verdicts(found)) else EXIT_REGRESSION


if __name__ == "__main__":
    sys.exit(main())
