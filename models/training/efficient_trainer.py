"""The training loop: epochs of accumulated steps, validation, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from rich.console import Console
from torch import nn

from models.config import TrainingConfig
from models.training.checkpoint import load_checkpoint, save_checkpoint, set_random_state, write_whole
from models.training.evaluation import ClipBatch, Evaluation
from models.training.interruption import Interruption, TrainingInterrupted
from models.training.memory import MemoryTracker
from models.training.progress import EpochResult, Tally, TrainingDisplay
from models.training.stepper import Phase, Stepper, no_phase
from slr_bench.errors import DataError, SlrBenchError

__all__ = ["CHECKPOINT_NAME", "EfficientTrainer", "MemoryTracker", "Phase", "TrainingDiverged", "no_phase"]

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.json"
METRICS_SCHEMA = 1  # 1: first version


class TrainingDiverged(SlrBenchError):
    """The loss is no finite number any more."""


class EpochLoader(Protocol):
    """A split: ``len(indices)`` clips in batches; the order of epoch n is the same every time."""

    @property
    def indices(self) -> Sequence[int]: ...
    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[ClipBatch]: ...


@dataclass
class _Progress:
    """Where a training stands: the epoch it is in, what that has seen, and the epochs before."""

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> _Progress:
        return cls(saved["epoch"], Tally(**saved["tally"]), [EpochResult(**epoch) for epoch in saved["history"]])


class EfficientTrainer(Stepper):
    """Trains ``model`` as ``config`` says; :meth:`step` takes one optimizer step, :meth:`fit` all of them."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device | str,
        total_steps: int,
        phase: Phase = no_phase,
    ) -> None:
        super().__init__(model, config, device, total_steps, phase)
        self.last_evaluation: Evaluation | None = None
        self.tracker: MemoryTracker | None = None
        if config.enable_memory_tracking:
            self.tracker = MemoryTracker(config.memory_warning_threshold, config.memory_critical_threshold)

    def fit(
        self,
        train_loader: EpochLoader,
        val_loader: EpochLoader,
        output_dir: Path | None,
        resume: bool = False,
        console: Console | None = None,
    ) -> list[EpochResult]:
        """Train ``config.epochs`` epochs; the last one is the result: no epoch is chosen by its accuracy.

        ``output_dir`` gets ``checkpoint.pt`` (after every epoch, and on SIGINT or SIGTERM after the running step) and
        ``metrics.json``. ``resume`` goes on from that checkpoint exactly: an interrupted run ends with the weights of
        an uninterrupted one. Within an epoch, the batches that were used already are loaded again and dropped.

        Raises:
            ConfigError: no checkpoint that fits, or the directory cannot be written.
            DataError: a clip cannot be read, or a split is empty.
            TrainingDiverged: the loss is NaN or infinite; nothing is saved after that.
            TrainingInterrupted: after a signal, with all that resuming needs saved.
        """
        if not train_loader.indices:
            raise DataError("the training split has no clips; check the split file and the videos")
        progress, random = _Progress(), None
        if resume:
            assert output_dir is not None, "resuming needs the directory of the checkpoint"
            parts, config = self._parts(), self.config.model_dump(mode="json")
            saved, random = load_checkpoint(output_dir / CHECKPOINT_NAME, parts, config, self.total_steps)
            progress = _Progress.of(saved)
        console = console or Console(stderr=True)
        with Interruption() as signalled, TrainingDisplay(console, self.total_steps, self._steps_taken()) as display:
            while progress.epoch < self.config.epochs:
                batches = _batches_left(train_loader, progress, self.config.gradient_accumulation_steps, random)
                random = None
                while progress.tally.clips < len(train_loader.indices):
                    self._next_step(batches, progress.tally, len(train_loader.indices), display)
                    if signalled.signal_number is not None:
                        self._end_early(signalled.signal_number, progress, output_dir)
                evaluation = self.evaluate(val_loader)
                self.last_evaluation = evaluation
                result = EpochResult.of(progress.epoch, progress.tally, evaluation, self.device)
                progress = _Progress(progress.epoch + 1, Tally(), [*progress.history, result])
                display.epoch(result, self.config.epochs)
                self._save(progress, output_dir)
                if signalled.signal_number is not None:
                    self._end_early(signalled.signal_number, progress, output_dir)
        return progress.history

    def _next_step(
        self, batches: Iterator[ClipBatch], tally: Tally, clips_in_epoch: int, display: TrainingDisplay
    ) -> None:
        ids: list[Sequence[str]] = []

        def noted(batch: ClipBatch) -> ClipBatch:  # by map, not by a generator: that would keep a batch alive
            ids.append(tuple(batch.video_ids))
            return batch

        clips = min(self.config.effective_batch, clips_in_epoch - tally.clips)
        start_s = time.monotonic()
        learning_rate = self.schedule.get_last_lr()[0]
        loss = self.step(map(noted, islice(batches, self.config.gradient_accumulation_steps)), clips).item()
        if not math.isfinite(loss):
            self._diverged(ids)
        tally.add(clips, loss, int(self.last_correct), time.monotonic() - start_s)
        memory = self.tracker.check_memory() if self.tracker else None
        display.step(loss, learning_rate, tally.clips_per_s, memory)
        advice = self.tracker.advice(memory) if self.tracker and memory else None
        if advice:
            display.note(advice)

    def _diverged(self, ids: list[Sequence[str]]) -> NoReturn:
        losses = self.last_losses.tolist()
        first = next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
        raise TrainingDiverged(
            f"the loss became {losses[first]} on clips {', '.join(ids[first])}; "
            "lower training.learning_rate or set training.precision: fp32, and look at these clips"
        )

    def _end_early(self, signal_number: int, progress: _Progress, output_dir: Path | None) -> NoReturn:
        self._save(progress, output_dir)
        done = f"interrupted in epoch {progress.epoch + 1} of {self.config.epochs}"
        if output_dir is None:
            raise TrainingInterrupted(signal_number, f"{done}; nothing was saved, there is no output directory")
        raise TrainingInterrupted(signal_number, f"{done}; saved {output_dir / CHECKPOINT_NAME}, go on with --resume")

    def _save(self, progress: _Progress, output_dir: Path | None) -> None:
        if output_dir is None:
            return
        config, saved = self.config.model_dump(mode="json"), asdict(progress)
        save_checkpoint(output_dir / CHECKPOINT_NAME, self._parts(), config, self.total_steps, saved)
        metrics = {"schema": METRICS_SCHEMA, "epochs": saved["history"]}
        write_whole(output_dir / METRICS_NAME, lambda file: file.write(json.dumps(metrics, indent=2).encode()))

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def _steps_taken(self) -> int:
        return int(self.schedule.last_epoch)


def _batches_left(
    loader: EpochLoader, progress: _Progress, accumulation: int, random: dict[str, Any] | None
) -> Iterator[ClipBatch]:
    """The rest of the epoch. ``random`` (of a checkpoint) is set where it was taken: after the batches used before."""
    loader.set_epoch(progress.epoch)
    if random is not None and not progress.tally.steps:
        set_random_state(random)
    batches = iter(loader)
    for _ in islice(batches, progress.tally.steps * accumulation):
        pass
    if random is not None and progress.tally.steps:
        set_random_state(random)
    return batches
