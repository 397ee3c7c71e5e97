"""Output of the streaming command: a table that is redrawn on a terminal, lines elsewhere.

K sign class
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from models.command import class_name
from models.data.video.live import LiveFrame

TOP = 5
LATENCIES_KEPT = 1000
"""Number of last frames whose latency counts, so that an endless stream needs no endless list."""


class StreamDisplay:
    """Shows the running top-5 on stdout, as one line per frame or a live table, and the latency at the end."""

    def __init__(
        self, names: Mapping[int, str], stride: int, fps: float | None, console: Console | None = None
    ) -> None:
        self._names = names
        console = console or Console()
        rate = f" of {fps:.3g} per second" if fps else ""
        self._pace = f"every frame{rate}" if stride == 1 else f"one frame in {stride}{rate}"
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._frames = 0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif kind is None:
            print(self._summary(), flush=True)

    def show(self, frame: LiveFrame, probabilities_K: Tensor, latency_s: float) -> None:
        """Show the likeliest classes at ``frame``, known ``latency_s`` after it was decoded."""
        self._latencies_s.append(latency_s)
        self._frames += 1
        values, classes = probabilities_K.topk(min(TOP, len(probabilities_K)))
        top = [
            (class_name(self._names, label), value)
            for label, value in zip(classes.tolist(), values.tolist(), strict=True)
        ]
        position = f"frame {frame.number:6d}" + ("" if frame.time_s is None else f"  {frame.time_s:8.2f} s")
        if self._live:
            self._live.update(self._table(position, top), refresh=True)
        else:
            signs = "  ".join(f"{name} {value:.2f}" for name, value in top)
            print(f"{position}  {signs}  ({1000 * latency_s:.1f} ms)", flush=True)

    def _table(self, position: str, top: list[tuple[str, float]]) -> Table:
        table = Table(title=position, caption=self._summary(), box=None, show_header=False, min_width=48)
        for name, value in top:
            table.add_row(escape(name), f"{value:.2f}", "\u2588" * round(20 * value))
        return table

    def _summary(self) -> str:
        if not self._frames:
            return "no frames"
        median_ms, slow_ms = 1000 * np.percentile(self._latencies_s, [50, 95])
        last = f" (of the last {LATENCIES_KEPT})" if self._frames > LATENCIES_KEPT else ""
        return f"{self._frames} frames ({self._pace}): {median_ms:.1f} ms per frame, 95 % within {slow_ms:.1f} ms{last}"
