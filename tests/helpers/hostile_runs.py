"""A run whose names and messages try to inject markup into every format."""

from __future__ import annotations

from pathlib import Path

from fake_runs import MIB, FakeRun, samples, setting, step_metrics, traced_by_category

from slr_bench.record import Metric, Outcome

HOSTILE = (
    "<script>alert(1);window.taken=1</script> | pipe `tick` $x_1$ \"quote\" 'one' [red]markup[/red]\nline\x1b[2J "
    "\u202eabc\u200f שלום <img src=x onerror=alert(2)> &lt;b&gt; --> </style></details></table> " + "x" * 10_000
)


def fill_hostile(run: FakeRun) -> Path:
    """Foreign text wherever a run can carry any; the directory."""
    run.environment["cpu"] = HOSTILE
    bad = setting(16, 1, HOSTILE)
    axes = {f"training.{HOSTILE[:60]}": HOSTILE, "training.batch_size": 2}
    metrics = step_metrics(5 * MIB, 1.0) | {"energy_j": Metric.unavailable("J", HOSTILE, HOSTILE)}
    for place, arm in enumerate((HOSTILE, "_hidden", "$math", "y" * 10_000)):
        cell = run.cell(arm, setting=bad)
        series = samples(5 * MIB)
        series["phases"][0]["name"] = HOSTILE
        traced = traced_by_category(5 * MIB)
        traced["phase"] = [HOSTILE if name == "forward" else name for name in traced["phase"]]
        for parts in ("by_category", "by_module"):
            traced[parts] = {f"{HOSTILE[: 80 + place]}{name}": value for name, value in traced[parts].items()}
        run.record(cell, 0, metrics, series=series | {"traced": traced}, marks=(HOSTILE,))
        run.record(run.cell(arm, own=False, coordinates=axes, setting=bad), 0, outcome=Outcome.CRASH, reason=HOSTILE)
        run.record(run.cell(arm, f"w {HOSTILE}", setting=bad), 0, metrics)
    return run.write(command=f"slr-bench ```` run '{HOSTILE}'")
