"""One optimizer step over accumulated micro-batches, and evaluation.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import TrainingConfig
from models.layers.placement import offloaded, to_channels_last
from models.networks.backbone import SelectedFrames, select_frames
from models.training.evaluation import ClipBatch, Evaluation, evaluate
from models.training.optimization import (
    GradScaler,
    autocast,
    build_optimizer,
    fp32_products,
    one_cycle,
    update_in_backward,
)

Phase = Callable[[str], AbstractContextManager[object]]


def no_phase(name: str) -> AbstractContextManager[object]:
    """Mark nothing. Phases are ``load``, ``forward``, ``backward`` and ``optimizer``."""
    return nullcontext()


@dataclass(frozen=True)
class Gradients:
    """Describes the gradients that the parameters hold after :meth:`Stepper.accumulate`."""

    losses: list[Tensor]
    """Share of each micro-batch in the mean loss (scalars)."""
    correct: list[Tensor]
    """Correctly classified clips of each micro-batch (scalars)."""
    clips: int


@dataclass(frozen=True)
class StepResult:
    """Describes one optimizer step. Its tensors stay on the device; to read their numbers is to wait for it."""

    loss: Tensor
    """Mean loss over the clips (scalar)."""
    losses: list[Tensor]
    """Share of each micro-batch in ``loss`` (scalars)."""
    correct: Tensor
    """Clips that were classified correctly before the update (scalar)."""
    clips: int
    learning_rate: float
    is_skipped: bool
    """True if gradients overflowed in fp16, so that weights and learning rate did not change."""


class Stepper:
    """Takes optimizer steps as ``config`` describes them. ``phase(name)`` is entered around each part, for meters."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device | str,
        total_steps: int,
        phase: Phase = no_phase,
    ) -> None:
        """``model`` is on ``device``; the learning rate rises and falls over ``total_steps`` of the optimizer."""
        self.device = torch.device(device)
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.phase = phase
        if config.channels_last:
            to_channels_last(model)
        self.optimizer = build_optimizer(model, config)
        if config.optimizer_in_backward:
            update_in_backward(self.optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: one_cycle(step, total_steps, config.warmup_fraction)
        )
        self.scaler = GradScaler(self.device.type, enabled=config.precision == "fp16")
        if config.precision == "fp16" and self.device.type == "cpu":
            warnings.warn("fp16 on a CPU is slow and narrow; use fp32, or bf16 for fewer bytes", stacklevel=2)
        if config.activation_offload and self.device.type == "cpu":
            warnings.warn("activation_offload has no effect on a CPU: activations are in host memory", stacklevel=2)

    @property
    def steps_taken(self) -> int:
        """Number of optimizer steps so far, without skipped ones."""
        return int(self.schedule.last_epoch)

    def step(self, micro_batches: Iterable[ClipBatch], clips: int) -> StepResult:
        """Take one optimizer step over ``micro_batches``, which together hold ``clips`` clips.

        Only one micro-batch is alive at a time, and no gradient outlives the step. Nothing here waits for the device,
        except the scaler of fp16.
        """
        return self.update(self.accumulate(micro_batches, clips))

    def accumulate(self, micro_batches: Iterable[ClipBatch], clips: int) -> Gradients:
        """Compute the gradients of a step without moving the weights; it can be repeated after a failure.

        The mean loss of each micro-batch is weighted by its share of the clips. Unequal micro-batches and a partial
        window at the end therefore give the gradient of the full batch. Batch norm is an exception: it normalises each
        micro-batch by its own statistics and moves the running ones once for each. ``model.norm: group`` avoids that.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        gradients = Gradients([], [], clips)
        with fp32_products(self.config):
            for clips_BTCHW, labels_B in self._on_device(micro_batches):
                loss, correct = self._backward(clips_BTCHW, labels_B, len(labels_B) / clips)
                gradients.losses.append(loss)
                gradients.correct.append(correct)
                del clips_BTCHW, labels_B  # before the next one is loaded
        return gradients

    def update(self, gradients: Gradients) -> StepResult:
        """Move the weights by the accumulated gradients and free these. Must not be repeated after a failure."""
        learning_rate = float(self.schedule.get_last_lr()[0])
        with self.phase("optimizer"):
            is_skipped = self._update()
        correct = torch.stack(gradients.correct).sum()
        loss = torch.stack(gradients.losses).sum()
        return StepResult(loss, gradients.losses, correct, gradients.clips, learning_rate, is_skipped)

    def evaluate(self, loader: Iterable[ClipBatch]) -> Evaluation:
        """Return accuracy and plain cross-entropy on a split.

        Raises:
            DataError: the split has no clips.
        """
        with fp32_products(self.config):
            return evaluate(self.model, loader, self.device, autocast(self.device, self.config))

    def _on_device(self, micro_batches: Iterable[ClipBatch]) -> Iterator[tuple[Tensor | SelectedFrames, Tensor]]:
        """Yield micro-batches, reduced to the part of the clips that the network selects; the rest is free then."""
        source = iter(micro_batches)
        while True:
            with self.phase("load"):
                batch = next(source, None)
                if batch is None:
                    return
                clips_BTCHW = batch.clips_BTCHW.to(self.device, non_blocking=True)
                labels_B = batch.labels_B.to(self.device, non_blocking=True)
                del batch
            with self.phase("forward"), torch.no_grad():
                selected = select_frames(self.model, clips_BTCHW)
            del clips_BTCHW
            yield selected, labels_B
            del selected, labels_B

    def _backward(self, clips_BTCHW: Tensor | SelectedFrames, labels_B: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Add the gradients of a micro-batch; return its share of the loss and its correctly classified clips."""
        with self.phase("forward"), autocast(self.device, self.config), self._saving():
            logits_BK = self.model(clips_BTCHW)
            logits_BK = logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32))
            loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=self.config.label_smoothing) * share
        with self.phase("backward"):
            self.scaler.scale(loss).backward()
        return loss.detach(), (logits_BK.detach().argmax(1) == labels_B).sum()

    def _saving(self) -> AbstractContextManager[object]:
        offloads = self.config.activation_offload and self.device.type != "cpu"
        return offloaded(self.model) if offloads else nullcontext()

    def _update(self) -> bool:
        """Take the optimizer step; return whether it was skipped."""
        if self.config.gradient_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        is_skipped = self.scaler.get_scale() < scale  # fp16 overflowed
        if not is_skipped:
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return is_skipped
