"""The training loop: epochs of accumulated steps that fit in memory, validation, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import torch
import yaml
from rich.console import Console
from torch import nn

from models.command import resume_command
from models.config import Settings, TrainingConfig
from models.training import CHECKPOINT_NAME, CONFIG_NAME, METRICS_NAME
from models.training.checkpoint import TrainingIdentity, load_checkpoint, save_checkpoint, set_random_state
from models.training.evaluation import Evaluation
from models.training.loaders import EpochLoader, LoadedEpoch, Splits
from models.training.memory import MemoryPressure, MemoryTracker, Relief
from models.training.micro_batches import Event, FittedStep, MicroBatches
from models.training.optimization import AUTOCAST_DTYPES, steps_per_epoch
from models.training.pace import TrainingSize
from models.training.progress import EpochResult, Tally, TrainingDisplay
from models.training.stepper import Stepper, StepResult
from slr_bench.errors import DataError, SlrBenchError
from slr_bench.files import write_atomically

__all__ = ["MemoryTracker", "Trainer", "TrainingDiverged", "TrainingInterrupted", "TrainingResult", "build_trainer"]

METRICS_SCHEMA = 2  # 1: first version; 2: events, later with their kind and bytes
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingDiverged(SlrBenchError):
    """The loss is not a finite number any more."""


class TrainingInterrupted(SlrBenchError):
    """A signal ended the training; ``exit_code`` is 128 + its number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Interruption:
    """Notes and answers the first SIGINT or SIGTERM while open; a second one acts as it would have without.

    A thread calls ``answer`` at once, even while the main thread computes. In a thread other than the main one it does
    nothing.
    """

    def __init__(self, answer: Callable[[signal.Signals], None]) -> None:
        self.signal_number: int | None = None
        self._answer = answer
        self._previous: dict[signal.Signals, Any] = {}
        self._close = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._answer_from_a_thread()
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        self._close.close()

    def _answer_from_a_thread(self) -> None:
        """Let the interpreter write each signal into a pipe that a thread reads; callbacks undo it in reverse order."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        thread = threading.Thread(target=self._answer_first, args=(reading,), daemon=True)
        previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        thread.start()
        for undo in (
            partial(os.close, reading), partial(os.close, writing), thread.join,
            partial(os.write, writing, bytes(1)),  # loader processes keep the pipe open, so closing does not end it
            partial(signal.set_wakeup_fd, previous),
        ):  # fmt: skip
            self._close.callback(undo)

    def _answer_first(self, reading: int) -> None:
        while number := os.read(reading, 1)[0]:
            if number in _SIGNALS:
                self._answer(signal.Signals(number))
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


@dataclass
class _Progress:
    """The position of a training: the current epoch, its tally, and the results of the epochs before."""

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def from_saved(cls, saved: dict[str, Any]) -> _Progress:
        return cls(saved["epoch"], Tally(**saved["tally"]), [EpochResult(**epoch) for epoch in saved["history"]])


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a whole training."""

    epochs: list[EpochResult]
    evaluation: Evaluation | None
    """Validation after the last epoch; None if a resumed training was already complete."""
    events: list[Event]
    """Changes that the training made to itself."""


class Trainer:
    """Trains a network on its splits: :meth:`fit` runs all epochs, :meth:`step` takes one optimizer step."""

    def __init__(
        self,
        stepper: Stepper,
        micro_batches: MicroBatches,
        loaders: Splits,
        settings: Settings | None = None,
        data_fingerprint: str | None = None,
        glosses: tuple[str, ...] | None = None,
    ) -> None:
        """``settings`` is the whole setting, which checkpoints keep; without it they keep the training section alone.

        ``data_fingerprint`` identifies the clips (``Manifest.fingerprint``). A checkpoint is resumed only on the same
        clips. ``glosses`` are the words of the classes, which checkpoints keep.
        """
        self.stepper, self.micro_batches, self.loaders = stepper, micro_batches, loaders
        self.config = stepper.config
        whole = settings.model_dump(mode="json") if settings else {}
        sections = whole | {"training": self.config.model_dump(mode="json")}
        self._identity = TrainingIdentity(sections, stepper.total_steps, data_fingerprint, glosses)
        self._config_text = yaml.safe_dump(sections, sort_keys=False) if settings else None
        self._pressure = MemoryPressure(_reliefs(loaders.train), micro_batches.halve, stepper.device.type)

    def fit(
        self,
        output_dir: Path | None,
        resume: bool = False,
        console: Console | None = None,
        when_slow: str | None = None,
    ) -> TrainingResult:
        """Train ``config.epochs`` epochs. The last epoch is the result; none is selected by its accuracy.

        ``output_dir`` gets ``config.yml`` (the whole setting, if there is one), ``checkpoint.pt`` and ``metrics.json``.
        The checkpoint is written after every epoch, and on SIGINT or SIGTERM after the running step or batch of
        validation. ``resume`` continues exactly from that checkpoint: an interrupted run ends with the weights of an
        uninterrupted one, provided that memory changes the micro-batch at the same steps. Batches of the epoch that
        were already used are not loaded again. ``when_slow`` is printed if it would take half a day or more.

        Raises:
            ConfigError: no checkpoint fits, or the directory cannot be written.
            DataError: a clip cannot be read, or a split is empty.
            TrainingDiverged: the loss is NaN or infinite; nothing is saved after that.
            TrainingInterrupted: a signal arrived; everything that resuming needs is saved.
            torch.OutOfMemoryError, MemoryError, RuntimeError: memory ran out, and the micro-batch cannot be halved (any
                more) or dynamic_batch_size is off.
        """
        self._refuse_empty_splits()
        progress = self._resumed(output_dir) if resume else _Progress()
        self._write_config(output_dir)  # only after the checkpoint was found to fit
        evaluation, epochs = None, self.config.epochs
        display = self._open_display(progress, console or Console(stderr=True), when_slow)
        with display, Interruption(partial(_answer, display.note, is_saved=output_dir is not None)) as interruption:

            def end_if_interrupted() -> None:
                if interruption.signal_number is not None:
                    self._end_early(interruption.signal_number, progress, output_dir)

            def before_validating() -> None:
                display.validation()
                end_if_interrupted()

            self._note_start(progress, display)
            while progress.epoch < epochs:
                self._train_epoch(progress, display, end_if_interrupted)
                evaluation = self.micro_batches.evaluate(self.loaders.val, display.note, before_validating)
                result = EpochResult.from_epoch(
                    progress.epoch, progress.tally, evaluation, self.stepper.device, self.micro_batches.peaks
                )
                progress = _Progress(progress.epoch + 1, Tally(), [*progress.history, result])
                display.epoch(result, epochs)
                self._save(progress, output_dir)
                end_if_interrupted()
        return TrainingResult(progress.history, evaluation, self.micro_batches.events)

    def _write_config(self, output_dir: Path | None) -> None:
        if output_dir is not None and self._config_text is not None:
            write_atomically(output_dir / CONFIG_NAME, self._config_text, make_directory=True)

    def _refuse_empty_splits(self) -> None:
        for name, loader in (("training", self.loaders.train), ("validation", self.loaders.val)):
            if not loader.indices:
                raise DataError(f"the {name} split has no clips; check the split file and the videos")

    def _open_display(self, progress: _Progress, console: Console, when_slow: str | None) -> TrainingDisplay:
        clips, val_clips = len(self.loaders.train.indices), len(self.loaders.val.indices)
        size = TrainingSize(self.config.epochs, steps_per_epoch(clips, self.config), clips, val_clips)
        steps_done = progress.epoch * size.steps_per_epoch + progress.tally.steps
        display = TrainingDisplay(console, size, steps_done, when_slow=when_slow)
        self.micro_batches.on_micro_batch = display.micro_batch
        return display

    def _note_start(self, progress: _Progress, display: TrainingDisplay) -> None:
        if progress.epoch >= self.config.epochs:
            display.note(f"already complete: all {self.config.epochs} epochs are done; nothing is left to train")
        elif progress.epoch or progress.tally.steps:
            display.note(f"continuing at {display.position}")

    def _train_epoch(
        self, progress: _Progress, display: TrainingDisplay, end_if_interrupted: Callable[[], None]
    ) -> None:
        accumulation = self.config.gradient_accumulation_steps
        loaded = LoadedEpoch(self.loaders.train, accumulation, progress.epoch, progress.tally.steps)
        while progress.tally.clips < loaded.clips:
            self.step(loaded, progress.tally, display)
            end_if_interrupted()

    def step(self, loaded: LoadedEpoch, tally: Tally, display: TrainingDisplay) -> StepResult:
        """Take the next optimizer step of the epoch, add it to ``tally``, show it, and react to full memory.

        Raises:
            TrainingDiverged: the loss is NaN or infinite.
        """
        clips = min(self.config.effective_batch, loaded.clips - tally.clips)
        start_s = time.monotonic()
        fitted = self.micro_batches.step(loaded, tally.steps, clips, display.note)
        result, loss = fitted.result, fitted.result.loss.item()
        if not math.isfinite(loss):
            self._diverged(fitted)
        step_s = time.monotonic() - start_s
        tally.add(clips, loss, int(result.correct), step_s)
        tracker = self.micro_batches.tracker
        memory = tracker.check_memory() if tracker else None
        display.step(step_s, loss, result.learning_rate, tally.clips_per_s, memory)
        if self.micro_batches.adapt(memory, self._pressure, display.note):
            loaded.restart(tally.steps)
        return result

    def _diverged(self, fitted: FittedStep) -> NoReturn:
        losses: Sequence[float] = torch.stack(fitted.result.losses).tolist()
        first = next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
        precision = " or set training.precision: fp32" if self.config.precision in AUTOCAST_DTYPES else ""
        raise TrainingDiverged(
            f"the loss became {losses[first]} on clips {', '.join(fitted.video_ids[first])}; "
            f"lower training.learning_rate{precision}, and check these clips"
        )

    def _resumed(self, output_dir: Path | None) -> _Progress:
        assert output_dir is not None, "resuming needs the directory of the checkpoint"
        saved, random = load_checkpoint(output_dir / CHECKPOINT_NAME, self._parts(), self._identity)
        self.micro_batches.restore(saved)
        set_random_state(random)
        return _Progress.from_saved(saved)

    def _end_early(self, signal_number: int, progress: _Progress, output_dir: Path | None) -> NoReturn:
        self._save(progress, output_dir)
        done = f"interrupted in epoch {progress.epoch + 1} of {self.config.epochs}"
        if output_dir is None:
            raise TrainingInterrupted(signal_number, f"{done}; nothing was saved, there is no output directory")
        raise TrainingInterrupted(
            signal_number, f"{done}; saved {output_dir / CHECKPOINT_NAME}, continue with: {resume_command(output_dir)}"
        )

    def _save(self, progress: _Progress, output_dir: Path | None) -> None:
        if output_dir is None:
            return
        saved = asdict(progress) | self.micro_batches.state()
        save_checkpoint(output_dir / CHECKPOINT_NAME, self._parts(), self._identity, saved)
        metrics = {"schema": METRICS_SCHEMA, "epochs": saved["history"], "events": saved["events"]}
        write_atomically(output_dir / METRICS_NAME, json.dumps(metrics, indent=2), make_directory=True)

    def _parts(self) -> dict[str, Any]:
        stepper = self.stepper
        return {
            "model": stepper.model, "optimizer": stepper.optimizer, "schedule": stepper.schedule,
            "scaler": stepper.scaler,
        }  # fmt: skip


def _answer(note: Callable[[str], None], signal_number: signal.Signals, is_saved: bool) -> None:
    then = "then saving the checkpoint" if is_saved else "then stopping"
    again = "press Ctrl-C again" if signal_number is signal.SIGINT else f"send {signal_number.name} again"
    note(f"finishing the step, {then}; {again} to stop now")


def _reliefs(loader: EpochLoader) -> list[Relief]:
    return [
        Relief("shed_cache", lambda: loader.shed("cache"), lambda: loader.cache_bytes),
        Relief("shed_prefetch", lambda: loader.shed("prefetch")),
        Relief("shed_workers", lambda: loader.shed("workers")),
    ]


def build_trainer(
    model: nn.Module,
    config: TrainingConfig,
    device: torch.device | str,
    total_steps: int,
    loaders: Splits,
    settings: Settings | None = None,
    data_fingerprint: str | None = None,
    glosses: tuple[str, ...] | None = None,
) -> Trainer:
    """Compose a :class:`Trainer`; ``model`` is on ``device``, and ``total_steps`` are its optimizer steps."""
    stepper = Stepper(model, config, device, total_steps)
    return Trainer(stepper, MicroBatches(stepper), loaders, settings, data_fingerprint, glosses)
