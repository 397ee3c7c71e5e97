"""What the parent sees of a running cell: its phase, the PSS of its process tree, and what watching cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from slr_bench.probes import host
from slr_bench.record import Metric

PSS_PERIOD_S = 2.0  # one reading walks the page tables of the whole tree: 7-20 ms a torch process
TIMED_PREFIX = "step "
TRACE_PHASE = "trace"


class Watch:
    """Made when a cell is started; asked for its readings when the cell has ended."""

    def __init__(self, progressed: Callable[[str], None]) -> None:
        self._progressed = progressed
        self._phase = ""
        self._pss_peak_bytes: int | None = None
        self._pss_cpu_s = 0.0
        self._start_s, self._cpu_start_s = time.monotonic(), time.process_time()

    def on_message(self, message: dict[str, Any]) -> None:
        """A line of the child: where it is."""
        if "phase" not in message:
            return
        self._phase = message["phase"]
        self._progressed(self._phase)
        if self._phase == TRACE_PHASE:
            self._read_pss(message["pid"])

    def on_tick(self, pid: int) -> None:
        """Every ``PSS_PERIOD_S``; not while a step is timed: a reading holds up the page faults of whom it reads."""
        if not self._phase.startswith(TIMED_PREFIX):
            self._read_pss(pid)

    def _read_pss(self, pid: int) -> None:
        before_s = time.process_time()
        pss = host.tree_pss_bytes(pid)
        self._pss_peak_bytes = max(filter(None, (self._pss_peak_bytes, pss)), default=None)
        self._pss_cpu_s += time.process_time() - before_s

    def readings(self, work_s: float) -> dict[str, Metric]:
        """``peak_pss_bytes``, ``harness_s``, ``parent_cpu_ratio``; ``work_s`` is the child's own time at work."""
        duration_s = time.monotonic() - self._start_s
        cpu_s = time.process_time() - self._cpu_start_s - self._pss_cpu_s
        pss, source = (
            self._pss_peak_bytes,
            f"smaps_rollup of the tree: every {PSS_PERIOD_S:g} s, and as the trace begins",
        )
        clock, own = "runner's clock minus the work's", "process_time of the runner, PSS reads apart"
        return {
            "peak_pss_bytes": Metric.unavailable("bytes", source, "no reading succeeded while the cell ran")
            if pss is None
            else Metric(value=pss, unit="bytes", source=source, quality="sampled"),
            "harness_s": Metric(value=max(0.0, duration_s - work_s), unit="s", source=clock, quality="measured"),
            "parent_cpu_ratio": Metric(value=cpu_s / duration_s, unit="ratio", source=own, quality="measured"),
        }
