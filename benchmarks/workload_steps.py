"""The registered workloads, the child's half: the recogniser's own trainer, on clips that were really decoded.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.config import Settings
from models.data.loading.clips import build_loaders
from models.layers.placement import to_channels_last
from models.networks.backbone import select_frames
from models.networks.efficient import build_recogniser
from models.training.efficient_trainer import Trainer
from models.training.loaders import Splits, with_stored_features
from models.training.micro_batches import MicroBatches
from models.training.optimization import autocast, fp32_products, steps_per_epoch
from models.training.stepper import Stepper
from slr_bench.grid.workload import BuildContext
from slr_bench.record import Metric, RunEvent


class MicroBatch(NamedTuple):
    """One micro-batch of clips and labels."""

    clips_BTCHW: Tensor
    labels_B: Tensor


class _Steps:
    """One effective batch, held by the loader's side and handed to each step anew."""

    def __init__(self, settings: Settings, context: BuildContext) -> None:
        torch.manual_seed(settings.training.seed)
        self._settings, self._context = settings, context
        self._model = context.place(build_recogniser(settings.model, settings.training.recompute))
        self._held: list[MicroBatch] = []
        self.samples_per_step = settings.training.effective_batch

    def load(self) -> None:
        """Decode one effective batch; with fake tensors, make its shape up."""
        self._held = list(self._shapes() if self._context.is_fake else self._decoded())

    def metrics(self) -> Mapping[str, Metric]:
        """``parameters``: a count, from the tensors themselves; with ``attention: auto``, what that chose."""
        count = sum(parameter.numel() for parameter in self._model.parameters())
        metrics = {"parameters": Metric(value=count, unit="1", source="numel", quality="exact")}
        choice = getattr(getattr(self._model, "attention", None), "choice", None)
        if choice is not None:
            size = choice.bytes_by_kind[choice.kind]
            # Figures of different sources do not compare: two runs that chose differently say so.
            source = f"attention: auto chose {choice.kind} for {choice.where}"
            metrics["attention_bytes"] = Metric(value=size, unit="bytes", source=source, quality="exact")
        return metrics

    def _shapes(self) -> Iterator[MicroBatch]:
        model, data, training = self._settings.model, self._settings.data, self._settings.training
        shape_BTCHW = (training.batch_size, model.num_frames, 3, data.frame_size, data.frame_size)
        for _ in range(training.gradient_accumulation_steps):
            yield MicroBatch(
                torch.zeros(shape_BTCHW, dtype=torch.uint8), torch.zeros(shape_BTCHW[0], dtype=torch.int64)
            )

    def _decoded(self) -> Iterator[MicroBatch]:
        """Training clips, the epoch begun again where it is shorter than the effective batch."""
        size = self._settings.training.batch_size
        with closing(build_loaders(self._settings)) as loaders:
            batches = itertools.chain.from_iterable(loaders.train for _ in itertools.count())
            clips_NTCHW, labels_N = torch.empty(0), torch.empty(0)
            for batch in batches:
                first = labels_N.numel() == 0
                clips_NTCHW = batch.clips_BTCHW if first else torch.cat([clips_NTCHW, batch.clips_BTCHW])
                labels_N = batch.labels_B if first else torch.cat([labels_N, batch.labels_B])
                if len(labels_N) >= self.samples_per_step:
                    break
        for start in range(0, self.samples_per_step, size):
            # Clones: a slice would keep the whole batch alive, and be shared memory of an ended loader process.
            part = slice(start, start + size)
            yield MicroBatch(clips_NTCHW[part].clone(), labels_N[part].clone())

    def _handed_over(self) -> Iterator[MicroBatch]:
        """A fresh copy at a time, as a loader gives: the step owns it, and drops it before it takes the next."""
        for held in self._held:
            yield MicroBatch(held.clips_BTCHW.clone(), held.labels_B.clone())

    def _loader_tensors(self) -> list[Tensor]:
        return list(itertools.chain.from_iterable(self._held))


class TrainStep(_Steps):
    """``train_step``: one optimizer step over the effective batch."""

    def __init__(self, settings: Settings, context: BuildContext) -> None:
        super().__init__(settings, context)
        self._stepper = Stepper(self._model, settings.training, context.device, total_steps=1000, phase=context.phase)
        self._has_stepped = False
        self._previous: list[Tensor] = []
        """Numbers of the previous step, which a trainer reads before the next one; they count as live bytes."""

    def step(self) -> None:
        """Run every micro-batch forward and backward, then the update.

        The first call repeats this until the scale of fp16 has stopped falling. While it falls, updates are skipped and
        no optimizer state exists.
        """
        while True:
            result = self._stepper.step(self._handed_over(), self.samples_per_step)
            self._previous = [*result.losses, result.correct]
            self._has_stepped = self._has_stepped or not result.is_skipped or self._stepper.scaler.get_scale() <= 1.0
            if self._has_stepped:
                return

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """State between steps."""
        entries = self._stepper.optimizer.state.values()
        state = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        return {
            "parameter": list(self._model.parameters()),
            "buffer": list(self._model.buffers()),
            "optimizer state": [*state, *self._stepper.scaler.tensors()],
            "loader": self._loader_tensors(),
        }


class Inference(_Steps):
    """``inference``: logits of the effective batch, micro-batch by micro-batch, without gradients."""

    def __init__(self, settings: Settings, context: BuildContext) -> None:
        super().__init__(settings, context)
        self._model.eval()
        if settings.training.channels_last:
            to_channels_last(self._model)

    def step(self) -> None:
        """Forward passes in the setting's precision."""
        device = self._context.device
        training = self._settings.training
        with torch.no_grad(), autocast(device, training), fp32_products(training):
            source = self._handed_over()
            while True:
                with self._context.phase("load"):
                    batch = next(source, None)
                    if batch is None:
                        return
                    clips_BTCHW = batch.clips_BTCHW.to(device, non_blocking=True)
                    del batch
                with self._context.phase("forward"):
                    selected = select_frames(self._model, clips_BTCHW)
                    del clips_BTCHW
                    self._model(selected)
                    del selected

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """The model, and what the loader holds."""
        return {
            "parameter": list(self._model.parameters()),
            "buffer": list(self._model.buffers()),
            "loader": self._loader_tensors(),
        }


class TrainEpochs:
    """``train_epochs``: a training from scratch, judged on the validation split after its last epoch."""

    def __init__(self, settings: Settings, context: BuildContext) -> None:
        torch.manual_seed(settings.training.seed)
        self._settings, self._context = settings, context
        self._model = context.place(build_recogniser(settings.model, settings.training.recompute))
        self._details: dict[str, Any] = {}
        self._events: tuple[RunEvent, ...] = ()

    def details(self) -> Mapping[str, Any]:
        """``val_ranks``: each validation clip's after the last epoch, 0 is best; ``epochs``: the curve."""
        return self._details

    def events(self) -> Sequence[RunEvent]:
        """Changes of the micro-batch, and what the loader gave back to full memory."""
        return self._events

    def run(self) -> Mapping[str, Metric]:
        """Train, then validate."""
        training = self._settings.training
        with closing(build_loaders(self._settings)) as loaders:
            steps = training.epochs * steps_per_epoch(len(loaders.train.indices), training)
            stepper = Stepper(self._model, training, self._context.device, total_steps=steps, phase=self._context.phase)
            micro_batches = MicroBatches(stepper)
            start_s = time.perf_counter()
            kept = with_stored_features(loaders, self._model, self._settings, self._context.device)
            trainer = Trainer(stepper, micro_batches, Splits(kept.train, kept.val))
            result = trainer.fit(output_dir=None)  # prints a line per epoch to stderr, the log of the run
            training_s = time.perf_counter() - start_s
            kept.close()
        assert result.evaluation is not None, "fit evaluates after every epoch"
        self._details = {"val_ranks": result.evaluation.ranks, "epochs": [asdict(epoch) for epoch in result.epochs]}
        self._events = tuple(event.to_record() for event in result.events)
        last = result.epochs[-1]
        clock = "perf_counter around all epochs, decoding included"
        split = f"val split ({len(loaders.val.indices)} clips), after epoch {training.epochs}"
        return {
            "training_time_s": Metric(value=training_s, unit="s", source=clock, quality="measured"),
            "epoch_time_s": Metric(value=training_s / training.epochs, unit="s", source=clock, quality="measured"),
            **{
                name.replace("val_", "accuracy_"): Metric(value=value, unit="ratio", source=split, quality="measured")
                for name, value in asdict(last).items()
                if name.startswith(("val_top", "val_per_class_top"))
            },
            "train_loss": Metric(value=last.loss, unit="1", source="mean of the last epoch", quality="measured"),
            "parameters": Metric(
                value=sum(p.numel() for p in self._model.parameters()), unit="1", source="numel", quality="exact"
            ),
        }
