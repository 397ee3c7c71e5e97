"""Run directories to compare: known environments, one cell of known figures after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_runs import MIB, FakeRun, step_metrics

from slr_bench.record import Metric, Outcome
from slr_bench.run.store import Pairing

ENVIRONMENT = {
    "torch": "2.14.1",
    "torchvision": "0.29",
    "trace_rules": 1,
    "isolation": "fork",
    "system": "Linux x86_64",
}
HOSTILE = (
    '<script>alert("1")</script> | pipe `tick` [red]markup[/red] @octocat #12 &amp;\nline\x1b[2J\x00 \u202eabc\u200f '
    + "x" * 10_000
)
"""A hostile text: in a name or a reason, it must not break any output."""


def side_run(directory: Path, **environment: Any) -> FakeRun:
    """An empty run whose environment differs from the usual as named."""
    run = FakeRun(directory)
    run.environment = ENVIRONMENT | environment
    return run


def filled(
    run: FakeRun,
    memory: int = 100 * MIB,
    times: Any = (1.0,) * 3,
    arm: str = "tiny",
    more: dict[str, Metric] | None = None,
    source: str = "cpu-real",
) -> FakeRun:
    """The run with a further cell that ended ok once a time."""
    cell = run.cell(arm)
    for repeat, time_s in enumerate(times):
        run.record(cell, repeat, step_metrics(memory, time_s, source) | (more or {}))
    return run


def failed(
    run: FakeRun, outcome: Outcome = Outcome.CRASH, reason: str = "ended by SIGKILL", arm: str = "tiny"
) -> FakeRun:
    """The run with a further cell that did not end ok."""
    run.record(run.cell(arm), 0, outcome=outcome, reason=reason)
    return run


def in_turn(run: FakeRun, pair: str = "one", name: str = "main (1a2b3c4d5)", **refused: str) -> FakeRun:
    """The run as one half of a measurement in turn."""
    run.pairing = Pairing(pair=pair, name=name, refused=refused)
    return run


def with_sides(
    run: FakeRun, base: Any, head: Any, memory: tuple[int, int] = (1000, 1000), arm: str = "tiny"
) -> FakeRun:
    """The run with a further cell of both sides: a pair of times a repeat."""
    cell = run.cell(arm)
    for repeat, times in enumerate(zip(base, head, strict=True)):
        for side, size, time_s in zip("ab", memory, times, strict=True):
            run.record(cell, repeat, step_metrics(size, time_s))
            record, series = run.records[-1]
            run.records[-1] = (record.model_copy(update={"side": side}), series)
    return run
