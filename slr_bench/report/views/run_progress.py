"""Show the progress of a grid: a live table in a terminal, one line per run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from slr_bench.record import Outcome, Record
from slr_bench.run.schedule import Run
from slr_bench.units import format_bytes, format_seconds, plain

_REFRESHES_PER_S = 1  # drawing costs the parent CPU that the cell could use


class LiveView:
    """Receives progress events from the runner. As a context manager it owns a region of the screen."""

    def __init__(self, console: Console, sides: tuple[str, str] | None = None) -> None:
        """``sides`` are the names of a and b if they are two sources."""
        self._console = console
        self._sides = dict(zip("ab", sides, strict=True)) if sides else {}
        self._records: dict[str, list[Record]] = {}
        self._labels: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("starting", total=None)
        self._live = Live(self._render(), console=console, auto_refresh=False) if console.is_terminal else None
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._draw(now=True)
            self._live.__exit__(kind, error, trace)

    def scheduled(self, runs: Sequence[Run], finished: int, note: str | None) -> None:
        """Print the number of runs. ``finished`` of them have records already; ``note`` is printed as a warning."""
        self._labels = {self._key(run): self._label(run) for run in runs}
        self._progress.update(self._task, total=len(runs), completed=finished)
        kept = f", {finished} of them finished earlier" if finished else ""
        self._console.print(f"{len(runs)} runs of {len({run.cell.cell_id for run in runs})} cells{kept}")
        if note:
            self._console.print(note, style="yellow", highlight=False, markup=False)

    def started(self, run: Run) -> None:
        """Show that a process begins."""
        self._describe(run, "starting")

    def progressed(self, run: Run, phase: str) -> None:
        """Show the phase of a process."""
        self._describe(run, phase)

    def finished(self, run: Run, record: Record) -> None:
        """Show a stored record."""
        self._records.setdefault(self._key(run), []).append(record)
        self._progress.advance(self._task)
        if self._live:
            self._draw(now=True)
        else:
            done = self._progress.tasks[0]
            print_line = (
                f"[{done.completed:.0f}/{done.total:.0f}] {self._label(run)} #{run.repeat + 1}: {_outcome(run, record)}"
            )
            self._console.print(print_line, highlight=False, markup=False, soft_wrap=True)

    def _key(self, run: Run) -> str:
        return f"{run.cell.cell_id}-{run.side}" if self._sides else run.cell.cell_id

    def _label(self, run: Run) -> str:
        return f"{self._sides[run.side]} {cell_label(run)}" if self._sides else cell_label(run)

    def _describe(self, run: Run, phase: str) -> None:
        self._progress.update(self._task, description=f"{self._label(run)} #{run.repeat + 1}: {phase}")
        if self._live:
            self._draw()

    def _draw(self, now: bool = False) -> None:
        if self._live and (now or time.monotonic() - self._drawn_s > 1 / _REFRESHES_PER_S):
            self._live.update(self._render(), refresh=True)
            self._drawn_s = time.monotonic()

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="bold")
        for name in ("cell", "runs", "peak tensors", "step", "outcome"):
            table.add_column(name, justify="left" if name in ("cell", "outcome") else "right")
        rows = list(self._records.items())[-(max(4, self._console.height - 6)) :]
        for key, records in rows:
            last = records[-1]
            table.add_row(
                self._labels.get(key, key),
                str(len(records)),
                format_bytes(last.value("peak_tensor_bytes")),
                format_seconds(last.value("step_time_s")),
                ", ".join(f"{outcome} {count}" for outcome, count in Counter(r.outcome for r in records).items()),
            )
        return Group(table, self._progress)


def cell_label(run: Run) -> str:
    """Return ``my_step baseline size=4 precision=fp32``."""
    coordinates = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in run.cell.coordinates.items())
    return plain(f"{run.cell.spec.name} {run.cell.arm} {coordinates}".strip())


def _outcome(run: Run, record: Record) -> str:
    if record.outcome is not Outcome.OK:
        return f"{record.outcome}: {record.reason}"
    name = run.cell.spec.accuracy_metric or ""
    accuracy, text = record.value(name), run.cell.spec.metric_text(name)
    readings = [
        format_bytes(record.value("peak_tensor_bytes")) if record.value("peak_tensor_bytes") is not None else None,
        f"step {format_seconds(record.value('step_time_s'))}" if record.value("step_time_s") is not None else None,
        f"{text.label if text else name} {accuracy:.1%}" if accuracy is not None else None,
        f"in {format_seconds(record.duration_s)}",
    ]
    line = "ok, " + ", ".join(reading for reading in readings if reading)
    line += "".join(f"; after step {event.step}: {event.text}" for event in record.events if event.changes_batch)
    return f"{line}; interference, kept with a warning: {'; '.join(record.marks)}" if record.marks else line
