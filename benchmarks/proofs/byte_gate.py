"""Fail if the bytes of the gate's cells grew over `reports/baseline`. Bytes are compared exactly.

    python -m benchmarks.proofs.byte_gate check
    python -m benchmarks.proofs.byte_gate renew

``check`` writes reports/latest-check/gate.md and fails if a cell needs more. ``renew`` measures a new baseline.

Bytes of different versions of torch, torchvision or the rules are not comparable. The commit that made the baseline is
then measured beside this tree in this environment, and a note reports that the baseline is old.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.errors import (
    EXIT_NOT_COMPARABLE,
    EXIT_OK,
    EXIT_REGRESSION,
    NothingMeasuredError,
    SlrBenchError,
)
from slr_bench.record import Outcome, Record
from slr_bench.run.store import Store

BASELINE, FRESH = Path("reports/baseline"), Path("reports/latest-check")
RULE = ("--rule", "peak_tensor_bytes:0%")
RENEW = "renew it with this environment: make bench-baseline, and commit reports/baseline"

Command = Callable[[Sequence[str]], int]
"""Runs ``slr-bench`` with arguments; its exit code."""


class Part(NamedTuple):
    """One grid of the gate."""

    name: str
    """Directory below the baseline's and the fresh one's."""
    config: str
    options: tuple[str, ...] = ()


PARTS = (Part("real", "configs/gate.yml"), Part("fake", "configs/gate_fake.yml", ("--fake",)))


def slr_bench(arguments: Sequence[str]) -> int:
    """Run the command in a process of its own; return its exit code."""
    return subprocess.run([sys.executable, "-m", "slr_bench", *arguments], check=False).returncode


def measure(part: Part, command: Command) -> int:
    """Measure a part anew into the fresh directory."""
    out = FRESH / part.name
    shutil.rmtree(out, ignore_errors=True)
    return command(["run", part.config, *part.options, "--out", str(out)])


def check(command: Command, maker: Callable[[], str | None]) -> int:
    """Measure and judge every part; the exit code of the worst. ``maker`` finds the commit that made the baseline."""
    codes, texts = [], []
    verdict = FRESH / "gate.md"
    for page in (verdict, *map(_page, PARTS)):  # an old verdict must not outlive a measurement that fails
        page.unlink(missing_ok=True)
    for part in PARTS:
        code = measure(part, command) or _judge(part, command, maker)
        codes.append(code)
        page = _page(part)
        texts.append(page.read_text() if page.is_file() else f"`{part.name}`: no verdict, exit code {code}\n")
    FRESH.mkdir(parents=True, exist_ok=True)
    verdict.write_text("\n".join(texts))
    return EXIT_REGRESSION if EXIT_REGRESSION in codes else next(filter(None, codes), EXIT_OK)


def _page(part: Part) -> Path:
    return FRESH / f"{part.name}.md"


def _judge(part: Part, command: Command, maker: Callable[[], str | None]) -> int:
    page = _page(part)
    outputs = (*RULE, "--markdown", str(page))
    code = command(["gate", str(BASELINE / part.name), str(FRESH / part.name), *outputs])
    if code != EXIT_NOT_COMPARABLE:
        return code
    commit = maker()
    if commit is None:
        _print_notice(f"{BASELINE / part.name} does not compare, and git does not know what made it; {RENEW}")
        return code
    note = (
        f"{BASELINE / part.name} was measured in another environment and does not compare. Measured instead, side by "
        f"side in this one: {commit[:12]}, which made it, and this tree. To save the time, {RENEW}"
    )
    _print_notice(note)
    code = command(["gate", commit, ".", "--config", part.config, *part.options, *outputs])
    if page.is_file():
        page.write_text(f"> {note}\n\n{page.read_text()}")
    return code


def _print_notice(text: str) -> None:
    if "GITHUB_ACTIONS" in os.environ:  # shown on the run's page and at the pull request
        sys.stdout.write(f"::warning title=Byte gate::{text}\n")
    sys.stdout.write(f"\n{'!' * 100}\n{text}\n{'!' * 100}\n\n")
    sys.stdout.flush()


def baseline_commit() -> str | None:
    """The commit that last changed the baseline, and is not all that a shallow clone has; None where git has none."""
    command = ["git", "log", "-1", "--format=%H", "--", str(BASELINE)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found if found and shallow.stdout.strip() == "false" else None


def renew(command: Command) -> int:
    """Measure every part, and keep what a rule set fixes as the baseline.

    Raises:
        NothingMeasuredError: a cell did not end ok, so that the baseline would lack it.
    """
    for part in PARTS:
        code = measure(part, command)
        if code != EXIT_OK:
            return code
    for part in PARTS:
        keep(FRESH / part.name, BASELINE / part.name)
    sys.stdout.write(f"the baseline is in {BASELINE}; look at its difference (git diff) and commit it\n")
    return EXIT_OK


def keep(source: Path, target: Path) -> None:
    """Copy a run directory without what differs from process to process: times, RAM, series, pages.

    Raises:
        NothingMeasuredError: a cell did not end ok.
    """
    store, kept = Store(source), Store(target)
    manifest = store.read_manifest()
    records, problems = store.read_records()
    failed = [record.name for record in records if record.outcome is not Outcome.OK] + problems
    if manifest is None or not records or failed:
        raise NothingMeasuredError(f"{source}: {', '.join(failed) or 'no records'}; a baseline needs every cell")
    shutil.rmtree(target, ignore_errors=True)
    kept.records_directory.mkdir(parents=True)
    kept.write_manifest(manifest)
    for record in records:
        kept.write_record(_fixed(record))


def _fixed(record: Record) -> Record:
    metrics = {name: metric for name, metric in record.metrics.items() if name in DETERMINISTIC}
    return record.model_copy(update={"metrics": metrics, "phases": {}, "marks": ()})


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("action", choices=["check", "renew"])
    action = parser.parse_args().action
    try:
        code = check(slr_bench, baseline_commit) if action == "check" else renew(slr_bench)
    except SlrBenchError as error:
        sys.stderr.write(f"byte_gate: {error}\n")
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
