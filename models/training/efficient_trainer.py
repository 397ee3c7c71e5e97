"""The training loop: epochs of accumulated steps that fit in memory, validation, checkpoints, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from rich.console import Console
from torch import nn

from models.config import Settings, TrainingConfig
from models.training.batch_size import MicroBatchSize
from models.training.checkpoint import Bond, load_checkpoint, save_checkpoint, set_random_state
from models.training.evaluation import Evaluation
from models.training.fitting import Event, FittingStepper
from models.training.interruption import Interruption, TrainingInterrupted
from models.training.loaded_epoch import EpochLoader, LoadedEpoch
from models.training.memory import MemoryTracker
from models.training.optimization import AUTOCAST_DTYPES
from models.training.output_files import CHECKPOINT_NAME, CONFIG_NAME, METRICS_NAME
from models.training.pressure import MemoryPressure
from models.training.progress import EpochResult, Tally, TrainingDisplay
from models.training.stepper import Phase, no_phase
from slr_bench.errors import DataError, SlrBenchError
from slr_bench.files import write_atomically

__all__ = ["CHECKPOINT_NAME", "EfficientTrainer", "MemoryTracker", "Phase", "TrainingDiverged", "no_phase"]

METRICS_SCHEMA = 2  # 1: first version; 2: events


class TrainingDiverged(SlrBenchError):
    """The loss is no finite number any more."""


@dataclass
class _Progress:
    """Where a training stands: the epoch it is in, what that has seen, and the epochs before."""

    epoch: int = 0
    tally: Tally = field(default_factory=Tally)
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> _Progress:
        return cls(saved["epoch"], Tally(**saved["tally"]), [EpochResult(**epoch) for epoch in saved["history"]])


class EfficientTrainer(FittingStepper):
    """Trains ``model`` as ``config`` says; :meth:`step` takes one optimizer step, :meth:`fit` all of them."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device | str,
        total_steps: int,
        phase: Phase = no_phase,
        settings: Settings | None = None,
        data_fingerprint: str | None = None,
    ) -> None:
        """``settings``: the whole setting, kept in checkpoints; without it they keep ``config`` alone.

        ``data_fingerprint``: of the clips (``Manifest.fingerprint``); a checkpoint is resumed on no others.
        """
        super().__init__(model, config, device, total_steps, phase)
        self.last_evaluation: Evaluation | None = None
        whole = settings.model_dump(mode="json") if settings else {}
        sections = whole | {"training": config.model_dump(mode="json")}
        self._bond = Bond(sections, total_steps, data_fingerprint)
        self._config_text = yaml.safe_dump(sections, sort_keys=False) if settings else None

    def fit(
        self,
        train_loader: EpochLoader,
        val_loader: EpochLoader,
        output_dir: Path | None,
        resume: bool = False,
        console: Console | None = None,
    ) -> list[EpochResult]:
        """Train ``config.epochs`` epochs; the last one is the result: no epoch is chosen by its accuracy.

        ``output_dir`` gets ``config.yml`` (of the whole setting, if there is one), ``checkpoint.pt`` (after every
        epoch, and on SIGINT or SIGTERM after the running step or batch of validation) and ``metrics.json``. ``resume``
        goes on from that checkpoint exactly: an interrupted run ends with the weights of an uninterrupted one, provided
        that memory changes the micro-batch at the same steps. Batches of the epoch that were used already are not
        loaded again.

        Raises:
            ConfigError: no checkpoint that fits, or the directory cannot be written.
            DataError: a clip cannot be read, or a split is empty.
            TrainingDiverged: the loss is NaN or infinite; nothing is saved after that.
            TrainingInterrupted: after a signal, with all that resuming needs saved.
            torch.OutOfMemoryError, MemoryError, RuntimeError: memory ran out and the micro-batch may not be, or cannot
                be, halved any more.
        """
        for name, loader in (("training", train_loader), ("validation", val_loader)):
            if not loader.indices:
                raise DataError(f"the {name} split has no clips; check the split file and the videos")
        progress = self._resumed(output_dir) if resume else _Progress()
        if output_dir is not None and self._config_text is not None:  # not before the checkpoint was found to fit
            _write_text(output_dir / CONFIG_NAME, self._config_text)
        pressure = self.pressure(train_loader)
        console = console or Console(stderr=True)
        with Interruption() as signalled, TrainingDisplay(console, self.total_steps, self._steps_taken()) as display:
            self.tell = display.note

            def end_if_told() -> None:
                if signalled.signal_number is not None:
                    self._end_early(signalled.signal_number, progress, output_dir)

            if progress.epoch >= self.config.epochs:
                display.note(f"already complete: all {self.config.epochs} epochs are done; nothing is left to train")
            while progress.epoch < self.config.epochs:
                accumulation = self.config.gradient_accumulation_steps
                loaded = LoadedEpoch(train_loader, accumulation, progress.epoch, progress.tally.steps)
                while progress.tally.clips < loaded.clips:
                    self._next_step(loaded, progress.tally, pressure, display)
                    end_if_told()
                evaluation = self.fitting_evaluation(val_loader, end_if_told)
                self.last_evaluation = evaluation
                result = EpochResult.of(progress.epoch, progress.tally, evaluation, self.device, self.peaks)
                progress = _Progress(progress.epoch + 1, Tally(), [*progress.history, result])
                display.epoch(result, self.config.epochs)
                self._save(progress, output_dir)
                end_if_told()
        return progress.history

    def _resumed(self, output_dir: Path | None) -> _Progress:
        assert output_dir is not None, "resuming needs the directory of the checkpoint"
        path = output_dir / CHECKPOINT_NAME
        saved, random = load_checkpoint(path, self._parts(), self._bond)
        if "micro_batch" in saved:
            self.micro_batch = MicroBatchSize(self.config.batch_size, **saved["micro_batch"])
        self.events = [Event(**event) for event in saved.get("events", [])]
        set_random_state(random)
        return _Progress.of(saved)

    def _next_step(self, loaded: LoadedEpoch, tally: Tally, pressure: MemoryPressure, display: TrainingDisplay) -> None:
        clips = min(self.config.effective_batch, loaded.clips - tally.clips)
        start_s = time.monotonic()
        learning_rate = self.schedule.get_last_lr()[0]
        loss, ids = self.fitting_step(loaded, tally.steps, clips)
        if not math.isfinite(loss):
            self._diverged(ids)
        tally.add(clips, loss, int(self.last_correct), time.monotonic() - start_s)
        memory = self.tracker.check_memory() if self.tracker else None
        display.step(loss, learning_rate, tally.clips_per_s, memory)
        if self.adapt(memory, pressure):
            loaded.restart(tally.steps)

    def _diverged(self, ids: list[Sequence[str]]) -> NoReturn:
        losses = torch.stack(self.last_losses).tolist()
        first = next(index for index, loss in enumerate(losses) if not math.isfinite(loss))
        wider = " or set training.precision: fp32" if self.config.precision in AUTOCAST_DTYPES else ""
        raise TrainingDiverged(
            f"the loss became {losses[first]} on clips {', '.join(ids[first])}; "
            f"lower training.learning_rate{wider}, and look at these clips"
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
        events = [asdict(event) for event in self.events]
        saved = asdict(progress) | {"events": events, "micro_batch": self.micro_batch.state()}
        save_checkpoint(output_dir / CHECKPOINT_NAME, self._parts(), self._bond, saved)
        metrics = {"schema": METRICS_SCHEMA, "epochs": saved["history"], "events": events}
        _write_text(output_dir / METRICS_NAME, json.dumps(metrics, indent=2))

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}

    def _steps_taken(self) -> int:
        return int(self.schedule.last_epoch)


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, text, make_directory=True)
