"""Options of the Python interface that a command has too, grouped by the function that takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

DEFAULT_GRID: Final = Path("configs/ablation.yml")
"""Grid file that revisions are measured with."""
DEFAULT_RUN_DIRECTORY: Final = Path("reports/latest")


@dataclass(frozen=True)
class PlanOptions:
    """The budget of a plan and the knobs that it may change; the options of ``slr-bench plan``."""

    gpu_memory: str | None = None
    """GPU memory to use, including the CUDA context, like ``6GiB``; None: all memory of the device."""
    device: str | None = None
    """GPU, by name or size: its memory, speed, context and workspaces are assumed."""
    headroom: float = 5.0
    """Percent of the budget that stays free."""
    slower: float | None = None
    """Look for the least memory that costs at most this many percent more time, in place of a budget."""
    keep: Sequence[str] = ()
    """Knobs that must not change."""
    allow: Sequence[str] = ()
    """Knobs that may change although they change the model."""
    vary: Sequence[str] = ()
    """``KEY=A,B``: values to choose from in place of a knob's own."""
    alloc_conf: str = ""
    """Settings of the allocator, as in ``PYTORCH_ALLOC_CONF``."""
    measure: bool = False
    """Calibrate and verify on this machine's GPU."""


@dataclass(frozen=True)
class RunOptions:
    """Options of ``slr-bench run``."""

    out: Path | None = None
    """Run directory; None: ``reports/latest``. A run of another source that is there is renamed."""
    fresh: bool = False
    """Rename an existing run directory and start anew."""
    device: str | None = None
    """``auto``, ``cpu`` or ``cuda``, in place of the grid's."""
    fake: bool = False
    """Trace bytes on fake tensors."""
    retry: bool = False
    """Repeat crashed and timed-out runs."""
    skip: bool = True
    """Skip a cell that is larger than one that ran out of memory."""
    twice: bool = False
    """Measure every cell against itself (A/A test)."""
    repeats: int | None = None
    """Processes per cell, in place of the grid's. On fake tensors one is enough: they give the same bytes in each."""


@dataclass(frozen=True)
class CompareOptions:
    """The measurement of two revisions before they are compared; the options of ``slr-bench compare`` and ``gate``."""

    config: Path | None = None
    """Grid file [default: ``configs/ablation.yml``]."""
    overrides: Mapping[str, Any] | None = None
    """Dotted keys that replace values of the grid's settings."""
    workload: str | None = None
    """Only this workload of the grid."""
    repeats: int | None = None
    """Pairs of processes per cell, in place of the grid's."""
    device: str | None = None
    """``auto``, ``cpu`` or ``cuda``, in place of the grid's."""
    fake: bool = False
    """Trace bytes on fake tensors."""
    out: Path | None = None
    """Keep the runs in ``DIR/base`` and ``DIR/head``; None: keep no runs."""

    @property
    def first_set(self) -> str | None:
        """The first option that was set, as the commands write it."""
        names = [field.name for field in fields(self) if getattr(self, field.name)]
        return f"--{names[0]}".replace("--overrides", "--set") if names else None
