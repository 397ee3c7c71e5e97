"""A training step ready to be measured: a model, its optimizer, a loss, and where batches come from.

The child's half of a workload for whoever has no trainer of their own to call. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from slr_bench.grid.workload import BuildContext
from slr_bench.record import Metric

if TYPE_CHECKING:
    import torch

    Batch = tuple[torch.Tensor, torch.Tensor]
    """Inputs and targets, a sample each along the first dimension."""


class TrainingStep:
    """A ``StepWork``: for every micro-batch forward and backward, then one update.

    For a loop of your own (autocast, clipping, several losses) override :meth:`step`.
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
        """``model`` has been placed (``context.place``) and ``optimizer`` made from it. ``batch`` gives one micro-batch
        on the CPU and is called ``micro_batches`` times by :meth:`load`; ``loss`` takes outputs and targets.
        """
        self.context, self.model, self.optimizer = context, model, optimizer
        self.samples_per_step = 0
        """Samples in all micro-batches, known once they are loaded."""
        self.micro_batches = micro_batches
        self._batch, self._loss = batch, loss
        self._held: list[Batch] = []

    def load(self) -> None:
        """Fetch every micro-batch of a step. With fake tensors they have shapes and no contents."""
        self._held = [self._batch() for _ in range(self.micro_batches)]
        self.samples_per_step = sum(len(targets) for _, targets in self._held)

    def step(self) -> None:
        """One optimizer step over the mean of the micro-batches' losses."""
        phase = self.context.phase
        for inputs, targets in self.handed_over():
            with phase("forward"):
                loss = self._loss(self.model(inputs), targets) / self.micro_batches
            del inputs, targets  # else it would live until the next one has been copied
            with phase("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            del loss
        with phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def handed_over(self) -> Iterator[Batch]:
        """The micro-batches one at a time, on the device: copies, as from a loader that keeps its own."""
        for inputs, targets in self._held:
            yield self._copied(inputs, targets)

    def _copied(self, inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
        device = self.context.device
        with self.context.phase("load"):
            return inputs.to(device, copy=True), targets.to(device, copy=True)

    def tensors(self) -> Mapping[str, Iterable[torch.Tensor]]:
        """Parameters, buffers, optimizer state, and what the loader holds."""
        entries = self.optimizer.state.values()
        return {
            "parameter": list(self.model.parameters()),
            "buffer": list(self.model.buffers()),
            "optimizer state": [value for entry in entries for value in entry.values() if hasattr(value, "data_ptr")],
            "loader": [tensor for batch in self._held for tensor in batch],
        }

    def metrics(self) -> Mapping[str, Metric]:
        """``parameters``: how many numbers the model learns."""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return {"parameters": Metric(value=count, unit="1", source="numel", quality="exact")}
