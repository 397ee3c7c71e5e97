"""One optimizer step over accumulated micro-batches, and evaluation.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import TrainingConfig
from models.layers.placement import offloaded, to_channels_last
from models.networks.backbone import SelectedFrames, select_frames
from models.training.evaluation import ClipBatch, Evaluation, evaluate
from models.training.in_backward import update_in_backward
from models.training.optimization import autocast, build_optimizer, fp32_products, one_cycle
from models.training.scaler import GradScaler

Phase = Callable[[str], AbstractContextManager[object]]


def no_phase(name: str) -> AbstractContextManager[object]:
    """Marks nothing. Phases are ``load``, ``forward``, ``backward`` and ``optimizer``."""
    return nullcontext()


class Stepper:
    """Takes optimizer steps as ``config`` says. ``phase(name)`` is entered around each part of one, for meters."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device | str,
        total_steps: int,
        phase: Phase = no_phase,
    ) -> None:
        """``model`` lies on ``device``; ``total_steps`` of the optimizer carry the learning rate's rise and fall."""
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
            warnings.warn("activation_offload has no effect on a CPU: activations lie in host memory", stacklevel=2)

    def step(self, micro_batches: Iterable[ClipBatch], clips_in_step: int) -> Tensor:
        """One optimizer step over ``micro_batches``, which together hold ``clips_in_step`` clips.

        Each micro-batch's mean loss weighs its share of the clips: unequal ones, and a partial last window, give the
        gradient of the full batch. Not so under batch norm, which normalises each micro-batch by its own statistics
        and moves the running ones once for each; ``model.norm: group`` knows no batch. Only one micro-batch is alive
        at a time, and no gradient outlives the step. Returns the mean loss (scalar); nothing here waits for the
        device, fp16's scaler apart. ``last_losses`` (a scalar each micro-batch, weighted) and ``last_correct`` (clips)
        describe the step afterwards.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, correct = [], []
        with fp32_products(self.config):
            for clips_BTCHW, labels_B in self._on_device(micro_batches):
                loss, hits = self._accumulate(clips_BTCHW, labels_B, len(labels_B) / clips_in_step)
                losses.append(loss)
                correct.append(hits)
                del clips_BTCHW, labels_B  # before the next one is loaded
        with self.phase("optimizer"):
            self._update()
        self.last_losses = losses
        self.last_correct = torch.stack(correct).sum()
        return torch.stack(losses).sum()

    def _on_device(self, micro_batches: Iterable[ClipBatch]) -> Iterator[tuple[Tensor | SelectedFrames, Tensor]]:
        """Micro-batches; of a network that looks at a part of the clips (``see``), that part: the rest is free then."""
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
                seen = select_frames(self.model, clips_BTCHW)
            del clips_BTCHW
            yield seen, labels_B
            del seen, labels_B

    def _accumulate(
        self, clips_BTCHW: Tensor | SelectedFrames, labels_B: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
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

    def _update(self) -> None:
        if self.config.gradient_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # a lower scale means that fp16 overflowed and the step was skipped
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def evaluate(self, loader: Iterable[ClipBatch]) -> Evaluation:
        """Accuracy and plain cross-entropy on a split.

        Raises:
            DataError: the split has no clips.
        """
        with fp32_products(self.config):
            return evaluate(self.model, loader, self.device, autocast(self.device, self.config))
