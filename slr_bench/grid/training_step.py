"""A training step that can be measured, made of a model, an optimizer, a loss and a source of batches.

It is the child's half of a workload without a trainer of its own. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from slr_bench.grid.workload import BuildContext
from slr_bench.record import Metric

if TYPE_CHECKING:
    import torch

    Batch = tuple[torch.Tensor, torch.Tensor]
    """Inputs and targets, one sample per index of the first dimension."""


class TrainingStep:
    """A ``StepWork`` that runs forward and backward for every micro-batch and then updates the parameters once.

    Override :meth:`step` for another loop, for example with autocast, clipping or several losses.
    """

    def __init__(
        self,
        context: BuildContext,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Callable[[], Batch],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        micro_batches: int = 1,
    ) -> None:
        """Keep the parts of the step.

        Place the model (``context.place``) before you make the optimizer of its parameters. :meth:`load` calls
        ``batch`` once per micro-batch, which returns one on the CPU. ``loss`` takes outputs and targets.
        """
        self.context, self.model, self.optimizer = context, model, optimizer
        self.samples_per_step = 0
        """Samples in all micro-batches; 0 before they are loaded."""
        self.micro_batches = micro_batches
        self._batch, self._loss = batch, loss
        self._batches: list[Batch] = []

    def load(self) -> None:
        """Fetch every micro-batch of a step. Fake tensors have shapes and no contents."""
        self._batches = [self._batch() for _ in range(self.micro_batches)]
        self.samples_per_step = sum(len(targets) for _, targets in self._batches)

    def step(self) -> None:
        """Take one optimizer step on the mean of the micro-batches' losses."""
        phase = self.context.phase
        for inputs, targets in self.handed_over():
            with phase("forward"):
                loss = self._loss(self.model(inputs), targets) / self.micro_batches
            del inputs, targets  # otherwise they would live until the next ones have been copied
            with phase("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            del loss
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def handed_over(self) -> Iterator[Batch]:
        """Yield copies of the micro-batches on the device, one at a time. The loader keeps the originals."""
        for inputs, targets in self._batches:
            yield self._copy(inputs, targets)

    def _copy(self, inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
        device = self.context.device
        with self.context.phase("load"):
            return inputs.to(device, copy=True), targets.to(device, copy=True)

    def tensors(self) -> Mapping[str, Iterable[torch.Tensor]]:
        """Return parameters, buffers, optimizer state, and the batches of the loader."""
        entries = self.optimizer.state.values()
        return {
            "parameter": list(self.model.parameters()),
            "buffer": list(self.model.buffers()),
            "optimizer state": [value for entry in entries for value in entry.values() if hasattr(value, "data_ptr")],
            "loader": [tensor for batch in self._batches for tensor in batch],
        }

    def metrics(self) -> Mapping[str, Metric]:
        """Return ``parameters``, the number of values that the model learns."""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return {"parameters": Metric(value=count, unit="1", source="numel", quality="exact")}
