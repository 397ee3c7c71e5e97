"""Micro-batches that fit in memory: halved after an out-of-memory error or near one, enlarged when there is room."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.training.checkpoint import random_state, set_random_state
from models.training.evaluation import ClipBatch, Evaluation
from models.training.loaders import EpochLoader, LoadedEpoch, SplitBatches
from models.training.memory import ChangeKind, MemoryPressure, MemoryReading, MemoryTracker, OwnPeaks, fuller_memory
from models.training.out_of_memory import OutOfMemory, run_or_catch_oom
from models.training.stepper import Gradients, Stepper, StepResult
from slr_bench.probes.host import address_space_is_limited, keep_large_blocks_apart
from slr_bench.record import RunEvent
from slr_bench.units import GIB, format_count

GROW_AFTER_STEPS = 50

Notify = Callable[[str], None]
"""Shows a line to the user."""


@dataclass(frozen=True)
class Event:
    """A change that a training made to itself. ``metrics.json`` keeps them."""

    step: int
    """Optimizer steps taken before it."""
    micro_batch: int
    """Clips per micro-batch from then on."""
    text: str
    """Cause and change in words."""
    kind: ChangeKind | None = None
    """None in checkpoints that did not have it yet, like the two fields below."""
    used_bytes: int | None = None
    """Use of the fuller memory that caused the change; None if memory ran out before it was read."""
    own_bytes: int | None = None
    """Part of it that this training held; None if it was not read."""

    def to_record(self) -> RunEvent:
        """Return the event as records keep it."""
        return RunEvent(
            step=self.step,
            kind=self.kind or "not recorded",
            text=self.text,
            changes_batch=self.kind in ("halved", "grown"),
            used_bytes=self.used_bytes,
            own_bytes=self.own_bytes,
        )


class FittedStep(NamedTuple):
    """An optimizer step, with the video ids of the clips in each micro-batch."""

    result: StepResult
    video_ids: list[tuple[str, ...]]


class StateBeforeStep:
    """Restores what a half-done step changes beside gradients: buffers (running statistics) and random numbers.

    A repeated step then equals one that began with the smaller micro-batch, bit for bit. Dropout draws per micro-batch,
    so its masks differ from those of the larger one, as they do between any two micro-batch sizes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._random = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Restore buffers and random numbers."""
        for buffer, before in self._buffers:
            buffer.copy_(before)
        set_random_state(self._random)


@dataclass
class MicroBatchSize:
    """The micro-batch size in use: ``largest``, or a halving of it.

    A size that did not fit is tried again after ``grow_after_steps`` steps that left room. After each failure the wait
    doubles, so a size that can never fit costs less and less.
    """

    largest: int
    size: int = 0
    grow_after_steps: int = GROW_AFTER_STEPS
    good_steps: int = 0
    """Steps since the last change that left room for more."""
    waits: dict[int, int] = field(default_factory=dict)
    """Good steps to wait for each size that has failed."""

    def __post_init__(self) -> None:
        self.size = self.size or self.largest

    def shrink(self) -> bool:
        """Halve the size, rounded up; return False if it is already a single clip."""
        if self.size == 1:
            return False
        self.waits[self.size] = 2 * self.waits[self.size] if self.size in self.waits else self.grow_after_steps
        self.size = -(-self.size // 2)
        self.good_steps = 0
        return True

    def step_done(self, room: bool) -> bool:
        """Count a step that fitted; return True if the next one takes the larger size.

        ``room`` states whether twice as much would have fitted.
        """
        self.good_steps = self.good_steps + 1 if room else 0
        larger = [size for size in self._halvings() if size > self.size]
        if not larger or self.good_steps < self.waits.get(larger[-1], self.grow_after_steps):
            return False
        self.size, self.good_steps = larger[-1], 0
        return True

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"size": self.size, "good_steps": self.good_steps, "waits": dict(self.waits)}

    def _halvings(self) -> Iterator[int]:
        size = self.largest
        yield size
        while size > 1:
            size = -(-size // 2)
            yield size


class MicroBatches:
    """Splits loaded batches into micro-batches and lets a :class:`Stepper` take steps over them.

    With ``dynamic_batch_size`` micro-batches shrink when memory runs out, and with memory tracking also at
    ``memory_critical_threshold`` if most of the memory is this training's. Without it their size never changes. The
    optimizer uses the same clips per step. Gradients are equal except for rounding if no module mixes clips; batch norm
    averages over the smaller micro-batch. ``dynamic_batch_size`` costs a copy of the buffers per step.
    """

    def __init__(self, stepper: Stepper, peaks: OwnPeaks | None = None, tracker: MemoryTracker | None = None) -> None:
        """``tracker`` replaces the one that ``enable_memory_tracking`` makes."""
        config = stepper.config
        self.stepper = stepper
        self.micro_batch = MicroBatchSize(config.batch_size)
        self.events: list[Event] = []
        self.peaks = peaks or OwnPeaks()
        self.on_micro_batch: Callable[[int, int], None] = lambda number, count: None
        """Receives the number (from 1) of the micro-batch that begins, and how many the step has."""
        self.tracker = tracker
        if tracker is None and config.enable_memory_tracking:
            thresholds = config.memory_warning_threshold, config.memory_critical_threshold
            self.tracker = MemoryTracker(*thresholds, peaks=self.peaks)
        if config.dynamic_batch_size and stepper.device.type == "cpu" and address_space_is_limited():
            keep_large_blocks_apart()  # before the first step: memory mapped by a failed step stays mapped
        if config.dynamic_batch_size and config.batch_size == 1:
            warnings.warn(
                "training.dynamic_batch_size has nothing to halve at training.batch_size: 1; use a larger batch_size "
                "with fewer gradient_accumulation_steps",
                stacklevel=3,
            )

    def step(self, loaded: LoadedEpoch, step: int, clips: int, notify: Notify) -> FittedStep:
        """Take optimizer step ``step`` of the epoch; ``notify`` is called with each change of the micro-batch.

        If memory runs out before the update, the step is repeated with half the micro-batch, its clips loaded again.
        """
        before = StateBeforeStep(self.stepper.model) if self.stepper.config.dynamic_batch_size else None
        while True:
            outcome = run_or_catch_oom(lambda: self._accumulate(loaded.window(), clips), self._may_halve)
            if not isinstance(outcome, OutOfMemory):
                gradients, video_ids = outcome
                return FittedStep(self.stepper.update(gradients), video_ids)
            assert before is not None
            before.restore()  # the next attempt drops the gradients of this one
            self._record("halved", "out of memory", self.halve(), notify)
            loaded.restart(step)

    def evaluate(self, loader: EpochLoader, notify: Notify, before_piece: Callable[[], None]) -> Evaluation:
        """Return the accuracy on a split, in pieces no larger than the micro-batch.

        Smaller pieces change the result only by rounding. ``before_piece`` is called before each piece; an exception
        from it ends the evaluation.

        Raises:
            DataError: the split has no clips.
        """

        def next_piece(batch: ClipBatch) -> ClipBatch:  # used with map, see _accumulate
            before_piece()
            return batch

        while True:
            outcome = run_or_catch_oom(
                lambda: self.stepper.evaluate(map(next_piece, SplitBatches(loader.batches(), self.micro_batch.size))),
                self._may_halve,
            )
            if not isinstance(outcome, OutOfMemory):
                return outcome
            self._record("halved", "out of memory in validation", self.halve(), notify)

    def adapt(self, memory: MemoryReading | None, pressure: MemoryPressure, notify: Notify) -> bool:
        """React to a memory reading after a step; return True if that may have ended the loading."""
        if self.stepper.config.dynamic_batch_size:
            before = self.micro_batch.size
            room = not self.tracker or not memory or self.tracker.doubling_fits(memory)
            if self.micro_batch.step_done(room):
                self._record("grown", "room in memory", self._change_from(before), notify, memory)
        if not self.tracker or not memory:
            return False
        advice = self.tracker.advice(memory)
        done = pressure.react(memory)
        if done:
            kind, change = done
            cause = f"memory {memory['level']}, {fuller_memory(memory).text}"
            self._record(kind, cause, change, notify, memory)
        elif advice:
            notify(advice)
        return done is not None

    def halve(self) -> str | None:
        """Halve the micro-batch and describe the change; return None if it may not, or cannot, be halved.

        Only ``dynamic_batch_size: true`` allows it: a smaller micro-batch changes what batch norm averages over.
        """
        before = self.micro_batch.size
        if not self.stepper.config.dynamic_batch_size or not self.micro_batch.shrink():
            return None
        return self._change_from(before)

    def description(self) -> str:
        """Describe the size in use; after an out-of-memory error this is the size that was tried last."""
        size, largest = self.micro_batch.size, self.stepper.config.batch_size
        return f"a micro-batch of {format_count(size, 'clip')} (training.batch_size: {largest})"

    @property
    def halving_could_help(self) -> bool:
        """True if ``dynamic_batch_size`` is off and could make the micro-batch smaller."""
        config = self.stepper.config
        return config.batch_size > 1 and not config.dynamic_batch_size and not config.optimizer_in_backward

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"events": [asdict(event) for event in self.events], "micro_batch": self.micro_batch.state()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state`; checkpoints of the first version have none."""
        if "micro_batch" in saved:
            self.micro_batch = MicroBatchSize(self.stepper.config.batch_size, **saved["micro_batch"])
        self.events = [Event(**event) for event in saved.get("events", [])]

    def _accumulate(self, window: Iterator[ClipBatch], clips: int) -> tuple[Gradients, list[tuple[str, ...]]]:
        video_ids: list[tuple[str, ...]] = []
        count = self._count(clips)

        def noted(batch: ClipBatch) -> ClipBatch:  # used with map: the frame of a generator would keep a batch alive
            video_ids.append(tuple(batch.video_ids))
            self.on_micro_batch(len(video_ids), count)
            return batch

        return self.stepper.accumulate(map(noted, SplitBatches(window, self.micro_batch.size)), clips), video_ids

    def _count(self, clips: int) -> int:
        """Return the number of micro-batches in a step over ``clips`` clips."""
        full, rest = divmod(clips, self.stepper.config.batch_size)
        return full * math.ceil(self.stepper.config.batch_size / self.micro_batch.size) + math.ceil(
            rest / self.micro_batch.size
        )

    def _may_halve(self) -> bool:
        return self.stepper.config.dynamic_batch_size and self.micro_batch.size > 1

    def _change_from(self, before: int) -> str:
        config, size = self.stepper.config, self.micro_batch.size
        count = config.gradient_accumulation_steps * math.ceil(config.batch_size / size)
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.stepper.model.modules())
        return (
            f"micro-batch {before} -> {size} clips, {count} of them per step; effective batch {config.effective_batch} "
            f"as before{f', batch norm averages over {size} clips' if has_batch_norm else ''}"
        )

    def _record(
        self, kind: ChangeKind, cause: str, change: str | None, notify: Notify, memory: MemoryReading | None = None
    ) -> None:
        assert change is not None, "recorded only after a change"
        fuller = fuller_memory(memory) if memory else None
        used_bytes = round(fuller.used * GIB) if fuller else None
        own_bytes = round(fuller.own * GIB) if fuller and fuller.own is not None else None
        steps, size = self.stepper.steps_taken, self.micro_batch.size
        self.events.append(Event(steps, size, f"{cause}: {change}", kind, used_bytes, own_bytes))
        notify(self.events[-1].text)
        self.peaks.reset()  # the need before the change does not predict the need after it
