"""Progress of a training on screen: a live line in a terminal, sparse lines elsewhere, one line per epoch anywhere."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from models.training.evaluation import Evaluation
from models.training.memory import MemoryReading, OwnPeaks
from models.training.pace import HALF_A_DAY_S, Pace, TrainingSize, duration_text
from slr_bench.probes.live import LiveReader
from slr_bench.units import format_bytes, sparkline

PANEL_PERIOD_S = 2.0
_SPARK_WIDTH = 24
_POSITION_WIDTH = 44
_WIDTH_WITH_BAR = 110


@dataclass
class Tally:
    """Sums over the training clips of the current epoch so far."""

    steps: int = 0
    clips: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0

    def add(self, clips: int, loss: float, correct: int, seconds: float) -> None:
        """Add an optimizer step over ``clips`` clips with mean loss ``loss``."""
        self.steps += 1
        self.clips += clips
        self.correct += correct
        self.loss_sum += loss * clips
        self.seconds += seconds

    @property
    def loss(self) -> float:
        """Mean loss over the clips so far."""
        return self.loss_sum / max(1, self.clips)

    @property
    def clips_per_s(self) -> float:
        """Training speed with loading and without validation."""
        return self.clips / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class EpochResult:
    """One entry of ``metrics.json``. Accuracies are fractions; peaks cover the process since its start."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    train_top1: float
    """Accuracy on the training clips during training: augmented, with dropout, while the weights moved."""
    val_top1: float
    val_top5: float
    val_per_class_top1: float
    val_loss: float
    clips_per_s: float
    train_s: float
    peak_rss_bytes: int | None
    """Kernel high-water mark of the training process; null if the kernel does not report it."""
    peak_gpu_allocated_bytes: int | None
    """Peak of torch's allocator; null on the CPU."""
    val_top10: float | None = None
    """This and the two fields below are null only in epochs resumed from a checkpoint that did not have them yet."""
    val_per_class_top5: float | None = None
    val_per_class_top10: float | None = None

    @classmethod
    def from_epoch(
        cls, epoch: int, tally: Tally, evaluation: Evaluation, device: torch.device, peaks: OwnPeaks
    ) -> EpochResult:
        """Return the result of the finished epoch number ``epoch`` (from 0)."""
        return cls(
            epoch=epoch + 1,
            loss=tally.loss,
            train_top1=tally.correct / tally.clips,
            val_top1=evaluation.top1,
            val_top5=evaluation.top5,
            val_top10=evaluation.top10,
            val_per_class_top1=evaluation.per_class_top1,
            val_per_class_top5=evaluation.per_class_top5,
            val_per_class_top10=evaluation.per_class_top10,
            val_loss=evaluation.loss,
            clips_per_s=tally.clips_per_s,
            train_s=tally.seconds,
            peak_rss_bytes=peaks.rss_bytes(),
            peak_gpu_allocated_bytes=peaks.gpu_bytes(device),
        )


class MemoryPanel:
    """RAM of the trainer and its loader workers in one line, read as ``slr-bench watch`` reads it.

    It reads at most every ``PANEL_PERIOD_S`` and spends at most 1 % of the time on walking page tables.
    """

    def __init__(self, reader: LiveReader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader, self._clock = reader, clock
        self._next_s = clock()
        self._history: deque[float] = deque(maxlen=_SPARK_WIDTH)
        self.line = ""

    def update(self) -> None:
        """Read again if the period is over."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + PANEL_PERIOD_S
        reading = self._reader.read()
        if reading is None:
            return
        self._history.append(reading.ram_bytes)
        count = len(reading.processes)
        processes = "1 process" if count == 1 else f"{count} processes"
        self.line = (
            f"RAM of {processes} {format_bytes(reading.ram_bytes)} ({reading.ram_kind}), "
            f"peak {format_bytes(self._reader.peaks.ram_bytes[reading.ram_kind])} "
            f"{sparkline(self._history, _SPARK_WIDTH)}"
        )


class _ProgressOverPanel(Progress):
    panel: MemoryPanel | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.panel and self.panel.line:
            yield Text(self.panel.line, style="dim", overflow="ellipsis", no_wrap=True)


class _NoteHandler(logging.Handler):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


@contextmanager
def _noting_logs(note: Callable[[str], None]) -> Iterator[None]:
    """Print what the layers log while open, for example the attention that ``auto`` chose."""
    logger, handler = logging.getLogger("models"), _NoteHandler(note)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class TrainingDisplay:
    """Shows where a training is: live in a terminal, in sparse plain lines elsewhere.

    In a terminal a bar runs over all optimizer steps, with epoch, step, micro-batch and remaining time in words, and
    the memory below. Anywhere it prints the time of a step once it is known, a line per epoch, and what the layers log
    while it is open.
    """

    def __init__(
        self,
        console: Console,
        size: TrainingSize,
        steps_done: int,
        panel: MemoryPanel | None = None,
        when_slow: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``when_slow`` is printed if the training would take half a day or more."""
        self._console, self._when_slow = console, when_slow
        self._pace = Pace(size, steps_done, clock)
        position = TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=_POSITION_WIDTH))
        bar = (BarColumn(20),) if console.width >= _WIDTH_WITH_BAR else ()
        columns = (position, *bar, TextColumn("{task.fields[now]}"))
        self._progress = _ProgressOverPanel(*columns, console=console, disable=not console.is_terminal)
        if console.is_terminal:
            self._progress.panel = panel or MemoryPanel(LiveReader(os.getpid()))
        self._task = self._progress.add_task("", total=size.steps, completed=steps_done, now="")
        self._now = ""
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(_noting_logs(self.note))
        self._open.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def micro_batch(self, number: int, count: int) -> None:
        """Show that micro-batch ``number`` (from 1) of ``count`` begins in the current step."""
        self._update(f"{self.position}  micro-batch {number}/{count}")

    def validation(self) -> None:
        """Show that the epoch is being validated."""
        epochs = self._pace.size.epochs
        self._update(f"epoch {max(1, self._pace.steps_done // self._pace.size.steps_per_epoch)}/{epochs}  validating")

    def step(
        self, step_s: float, loss: float, learning_rate: float, clips_per_s: float, memory: MemoryReading | None
    ) -> None:
        """Show a finished optimizer step."""
        position = self.position
        self._pace.add(step_s)
        remaining = f"{duration_text(self._pace.remaining_s or 0.0)} remaining"
        self._now = f"{remaining}  loss {loss:.3f}  lr {learning_rate:.1e}  {clips_per_s:.1f} clips/s"
        if memory:
            self._now += f"  RAM {memory['ram_used']:.1f}/{memory['ram_total']:.1f} GiB"
        if memory and memory["gpu_available"]:
            self._now += f"  GPU {memory['gpu_peak_allocated']:.2f}/{memory['gpu_total']:.1f} GiB peak"
        if memory and self._progress.panel:
            self._progress.panel.update()
        self._update(position)
        if announcement := self._pace.announcement():
            self.note(announcement)
            if self._when_slow and self._pace.total_s >= HALF_A_DAY_S:
                self.note(self._when_slow)
        elif not self._console.is_terminal and self._pace.is_line_due():
            self.note(f"at {position}: loss {loss:.3f}, about {remaining}")

    def epoch(self, result: EpochResult, epochs: int) -> None:
        """Print the line of a finished epoch."""
        self._update(f"epoch {result.epoch}/{epochs}  done")
        peak = result.peak_gpu_allocated_bytes or result.peak_rss_bytes
        self.note(
            f"epoch {result.epoch}/{epochs}  loss {result.loss:.3f}  train top-1 {result.train_top1:.1%}  "
            f"val top-1 {result.val_top1:.1%}  {result.clips_per_s:.1f} clips/s  "
            f"peak {'GPU' if result.peak_gpu_allocated_bytes else 'RAM'} {format_bytes(peak)}"
        )

    def note(self, line: str) -> None:
        """Print a line that stays, above the live one. It may be called from another thread."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    @property
    def position(self) -> str:
        """``epoch 1/20  step 12/77``: the epoch and step that is running."""
        size, done = self._pace.size, self._pace.steps_done
        epoch, step = divmod(done, size.steps_per_epoch)
        return f"epoch {epoch + 1}/{size.epochs}  step {step + 1}/{size.steps_per_epoch}"

    def _update(self, description: str) -> None:
        self._progress.update(self._task, description=description, completed=self._pace.steps_done, now=self._now)
