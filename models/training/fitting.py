"""Steps that fit: a smaller micro-batch after an out-of-memory or near one, a larger one when there is room again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.config import TrainingConfig
from models.training.batch_size import BeforeStep, MicroBatchSize, OutOfMemory, attempt, pieces_of
from models.training.evaluation import ClipBatch, Evaluation
from models.training.loaded_epoch import EpochLoader, LoadedEpoch
from models.training.memory import MemoryTracker, OwnPeaks, fullest
from models.training.pressure import MemoryPressure
from models.training.stepper import Phase, Stepper, no_phase
from slr_bench.probes.host import address_space_is_limited, keep_large_blocks_apart
from slr_bench.units import format_count


@dataclass(frozen=True)
class Event:
    """Something that a training changed about itself. ``metrics.json`` keeps them."""

    step: int
    """Optimizer steps taken before it."""
    micro_batch: int
    """Clips, from it on."""
    text: str
    """Why, and what."""


class FittingStepper(Stepper):
    """Cuts micro-batches out of loaded batches: with ``dynamic_batch_size`` smaller ones once memory runs out, and with
    memory tracking at ``memory_critical_threshold``.

    The optimizer sees the same clips a step. Gradients are equal but for rounding where no module looks across clips;
    batch norm averages over the smaller micro-batch. Costs with ``dynamic_batch_size``: a copy of the buffers a step.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device | str,
        total_steps: int,
        phase: Phase = no_phase,
    ) -> None:
        super().__init__(model, config, device, total_steps, phase)
        self.micro_batch = MicroBatchSize(config.batch_size)
        self.events: list[Event] = []
        self.tell: Callable[[str], None] = lambda line: None
        self.peaks = OwnPeaks()
        self.tracker: MemoryTracker | None = None
        if config.enable_memory_tracking:
            thresholds = config.memory_warning_threshold, config.memory_critical_threshold
            self.tracker = MemoryTracker(*thresholds, peaks=self.peaks)
        self._weights_moving = False
        if config.dynamic_batch_size and self.device.type == "cpu" and address_space_is_limited():
            keep_large_blocks_apart()  # before the first step: what one that failed has mapped stays mapped
        if config.dynamic_batch_size and config.batch_size == 1:
            warnings.warn(
                "training.dynamic_batch_size has nothing to halve at training.batch_size: 1; use a larger batch_size "
                "with fewer gradient_accumulation_steps",
                stacklevel=3,
            )

    def fitting_step(self, loaded: LoadedEpoch, step: int, clips: int) -> tuple[float, list[Sequence[str]]]:
        """Optimizer step ``step`` of the epoch: its mean loss, and the clips of each micro-batch.

        Whenever memory runs out, it is taken anew with half the micro-batch, its clips loaded again.
        """
        before = BeforeStep(self.model) if self.config.dynamic_batch_size else None
        while True:
            outcome = attempt(lambda: self._one_step(loaded.window(), clips), self._may_halve)
            if not isinstance(outcome, OutOfMemory):
                return outcome
            assert before is not None
            before.restore()  # gradients of the half-done step are dropped by the next
            self._changed("out of memory", self._halve())
            loaded.restart(step)

    def fitting_evaluation(self, loader: EpochLoader, between: Callable[[], None] = lambda: None) -> Evaluation:
        """Accuracy on a split, in pieces no larger than the micro-batch: they change no result but by rounding.

        ``between`` is called before each piece; what it raises ends the evaluation.

        Raises:
            DataError: the split has no clips.
        """

        def next_piece(batch: ClipBatch) -> ClipBatch:  # by map, as in _one_step
            between()
            return batch

        while True:
            outcome = attempt(
                lambda: self.evaluate(map(next_piece, pieces_of(loader.batches(), self.micro_batch.size))),
                self._may_halve,
            )
            if not isinstance(outcome, OutOfMemory):
                return outcome
            self._changed("out of memory in validation", self._halve())

    def micro_batch_text(self) -> str:
        """The size in use, in words: after an out-of-memory the one that was tried last."""
        size, largest = self.micro_batch.size, self.config.batch_size
        return f"a micro-batch of {format_count(size, 'clip')} (training.batch_size: {largest})"

    @property
    def halving_could_help(self) -> bool:
        """Whether ``dynamic_batch_size`` is off, and on could take smaller micro-batches."""
        config = self.config
        return config.batch_size > 1 and not config.dynamic_batch_size and not config.optimizer_in_backward

    def pressure(self, loader: EpochLoader) -> MemoryPressure:
        """What this training can do about full memory."""
        shed = [partial(loader.shed, what) for what in ("cache", "prefetch", "workers")]
        return MemoryPressure(shed, self._halve, self.device.type)

    def adapt(self, memory: dict[str, Any] | None, pressure: MemoryPressure) -> bool:
        """After a step, to a reading of the tracker: True if something changed, which may have ended the loading."""
        if self.config.dynamic_batch_size:
            before = self.micro_batch.size
            room = not self.tracker or not memory or self.tracker.doubling_fits(memory)
            if self.micro_batch.step_done(room):
                self._changed("room in memory", self._change_from(before))
        if not self.tracker or not memory:
            return False
        advice = self.tracker.advice(memory)
        done = pressure.react(memory)
        if done:
            self._changed(f"memory {memory['level']}, {fullest(memory)}", done)
        elif advice:
            self.tell(advice)
        return done is not None

    def _one_step(self, window: Iterator[ClipBatch], clips: int) -> tuple[float, list[Sequence[str]]]:
        ids: list[Sequence[str]] = []

        def noted(batch: ClipBatch) -> ClipBatch:  # by map, not by a generator: that would keep a batch alive
            ids.append(tuple(batch.video_ids))
            return batch

        loss = self.step(map(noted, pieces_of(window, self.micro_batch.size)), clips)
        return loss.item(), ids

    def _update(self) -> None:
        self._weights_moving = True
        super()._update()
        self._weights_moving = False

    def _may_halve(self) -> bool:
        """After an out-of-memory: not where nobody asked for it, and not in the update, half of which may be done."""
        return self.config.dynamic_batch_size and self.micro_batch.size > 1 and not self._weights_moving

    def _halve(self) -> str | None:
        """Halve the micro-batch; the change in words, None if it cannot be halved."""
        before = self.micro_batch.size
        if self.config.optimizer_in_backward or not self.micro_batch.shrink():
            return None
        return self._change_from(before)

    def _change_from(self, before: int) -> str:
        config, size = self.config, self.micro_batch.size
        count = config.gradient_accumulation_steps * math.ceil(config.batch_size / size)
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        return (
            f"micro-batch {before} -> {size} clips, {count} of them a step; effective batch {config.effective_batch} "
            f"as before{f', batch norm averages over {size} clips' if has_batch_norm else ''}"
        )

    def _changed(self, why: str, what: str | None) -> None:
        assert what is not None, "asked for only where it can be done"
        self.events.append(Event(self.schedule.last_epoch, self.micro_batch.size, f"{why}: {what}"))
        self.tell(self.events[-1].text)
        self.peaks.set_back()  # what was needed before the change says nothing of what comes
