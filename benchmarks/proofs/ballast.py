"""A training step that can really allocate more memory than it needs, or take longer, and that reads more clocks.

Registered by `plugins/ballast-0.dist-info`, which only `benchmarks.proofs.comparison_proof`
and `benchmarks.proofs.gate_proof` put on their path. Imports no torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from benchmarks import workloads
from models.config import Frozen, Settings
from slr_bench.grid.workload import BuildContext, WorkloadSpec
from slr_bench.record import Metric


class Ballast(Frozen):
    """Memory and time that are added to the step."""

    size_bytes: Annotated[int, Field(strict=True, ge=0)] = 0
    """A tensor of this size is alive during the whole step; 0: none."""
    slower_ratio: Annotated[float, Field(ge=0)] = 0.0
    """Fraction of its own time for which the step keeps its core busy longer."""


class BallastSettings(Settings):
    """The settings of ``train_step`` and the ballast."""

    ballast: Ballast = Ballast()


def _build(settings: BallastSettings, context: BuildContext) -> Any:
    import torch

    from benchmarks.workload_steps import TrainStep

    class BallastStep(TrainStep):
        """``train_step`` with a further tensor; all its steps but the first are on its own clocks."""

        def __init__(self) -> None:
            super().__init__(settings, context)
            self._wall_s: list[float] = []
            self._cpu_s: list[float] = []

        def step(self) -> None:
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            size = settings.ballast.size_bytes
            held = torch.zeros(size, dtype=torch.uint8, device=context.device) if size else None
            super().step()
            del held
            end_s = wall_s + (1 + settings.ballast.slower_ratio) * (time.perf_counter() - wall_s)
            while settings.ballast.slower_ratio and time.perf_counter() < end_s:
                pass
            self._wall_s.append(time.perf_counter() - wall_s)
            self._cpu_s.append(time.process_time() - cpu_s)

        def metrics(self) -> Mapping[str, Metric]:
            """Return other summaries of the steps of a process, to check the choice of the median."""
            own = {
                "step_time_min_s": (min(self._wall_s[1:]), "perf_counter, least of the steps"),
                "step_cpu_time_s": (statistics.median(self._cpu_s[1:]), "process_time, median of the steps"),
            }
            readings = {
                name: Metric(value=value, unit="s", source=source, quality="measured")
                for name, (value, source) in own.items()
            }
            return {**super().metrics(), **readings}

    return BallastStep()


train_step_ballast = WorkloadSpec(
    name="train_step_ballast",
    settings=BallastSettings,
    build=_build,
    preload=(*workloads.train_step.preload, "benchmarks.proofs.ballast"),
    packages=workloads.train_step.packages,
    prepare=workloads.train_step.prepare,
)
"""``train_step`` that holds ``ballast.size_bytes`` more and takes ``ballast.slower_ratio`` longer."""
