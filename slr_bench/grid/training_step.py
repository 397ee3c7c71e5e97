"""A training step that can be measured, made of a model, an optimizer, a loss and a source of batches.

It is the child's half of a workload without a trainer of its own. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from slr_bench.grid.workload import BuildContext
from slr_bench.record import Metric

if TYPE_CHECKING:
    import torch

    Batch = tuple[Any, Any]
    """Inputs and targets: tensors, or tuples, lists and dictionaries of them, one sample per index of the first
    dimension. A tuple of inputs is passed to the model as its arguments, a dictionary as its keyword arguments."""
    Loss = torch.Tensor | Mapping[str, torch.Tensor] | Iterable[torch.Tensor]
    """A loss, or several, which are added up."""

Precision = Literal["fp32", "bf16", "fp16"]


class TrainingStep:
    """A ``StepWork`` that runs forward and backward for every micro-batch and then updates the parameters once.

    Override :meth:`step` for another loop, for example with two optimizers.
    """

    def __init__(
        self,
        context: BuildContext,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        batch: Callable[[], Batch],
        loss: Callable[[Any, Any], Loss] | None,
        micro_batches: int = 1,
        *,
        precision: Precision = "fp32",
        clip_grad: float | None = None,
        no_grad: bool = False,
    ) -> None:
        """Keep the parts of the step.

        Place the model (``context.place``) before you make the optimizer of its parameters. :meth:`load` calls
        ``batch`` once per micro-batch, which returns one on the CPU. ``loss`` takes outputs and targets.

        Args:
            precision: the type that autocast computes in; ``fp16`` also scales the gradients.
            clip_grad: largest norm of the gradients before an update.
            no_grad: only run the model, without gradients. Optimizer and loss may then be None.
        """
        import torch

        self.context, self.model, self.optimizer = context, model, optimizer
        self.samples_per_step = 0
        """Samples in all micro-batches; 0 before they are loaded."""
        self.micro_batches = micro_batches
        self._precision, self._clip_grad, self._no_grad = precision, clip_grad, no_grad
        self._batch, self._loss = batch, loss
        self._batches: list[Batch] = []
        self._scaler = torch.amp.GradScaler(context.device.type, enabled=precision == "fp16" and not no_grad)
        self._has_stepped = False

    def load(self) -> None:
        """Fetch every micro-batch of a step. Fake tensors have shapes and no contents."""
        self._batches = [self._batch() for _ in range(self.micro_batches)]
        self.samples_per_step = sum(len(_tensors((targets, inputs))[0]) for inputs, targets in self._batches)

    def step(self) -> None:
        """Take one optimizer step on the mean of the micro-batches' losses, or run the model without gradients."""
        import torch

        if self._no_grad:
            with torch.no_grad():
                for inputs, targets in self.handed_over():
                    del targets
                    with self.context.phase("forward"), self._autocast():
                        self._outputs(inputs)
                    del inputs
            return
        is_skipped = self._step()
        while is_skipped and not self._has_stepped:  # fp16 begins with a scale at which gradients overflow
            is_skipped = self._step()
        self._has_stepped = True

    def _step(self) -> bool:
        """Return whether fp16 overflowed, which skips the update."""
        phase, loss = self.context.phase, self._loss
        if self.optimizer is None or loss is None:
            raise ValueError("a step with gradients needs an optimizer and a loss; pass them, or no_grad=True")
        for inputs, targets in self.handed_over():
            with phase("forward"), self._autocast():
                total = _summed(loss(self._outputs(inputs), targets)) / self.micro_batches
            del inputs, targets  # otherwise they would live until the next ones have been copied
            with phase("backward"):
                self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            del total
        with phase("optimizer"):
            is_skipped = self._update(self.optimizer)
            self.optimizer.zero_grad()
        return is_skipped

    def _update(self, optimizer: torch.optim.Optimizer) -> bool:
        import torch

        scaler = self._scaler
        scaler.unscale_(optimizer)
        if self._clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_grad)
        if not scaler.is_enabled() or self.context.is_fake:  # fake gradients have no contents and never overflow
            optimizer.step()
            scaler.update()
            return False
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return bool(scaler.get_scale() < scale)

    def _outputs(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return self.model(**inputs)
        return self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(
            self.context.device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[self._precision]
        )

    def handed_over(self) -> Iterator[Batch]:
        """Yield copies of the micro-batches on the device, one at a time. The loader keeps the originals."""
        for batch in self._batches:
            yield self._copy(batch)

    def _copy(self, batch: Batch) -> Batch:
        import torch
        from torch.utils._pytree import tree_map_only

        device = self.context.device
        with self.context.phase("load"):
            copied: Batch = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, copy=True), tuple(batch))
            return copied

    def tensors(self) -> Mapping[str, Iterable[torch.Tensor]]:
        """Return parameters, buffers, optimizer state, and the batches of the loader."""
        entries = self.optimizer.state.values() if self.optimizer else ()
        scale = (self._scaler._scale, self._scaler._growth_tracker) if self._scaler.is_enabled() else ()
        state = [value for entry in entries for value in entry.values()]
        return {
            "parameter": list(self.model.parameters()),
            "buffer": list(self.model.buffers()),
            "optimizer state": [value for value in (*state, *scale) if hasattr(value, "data_ptr")],
            "loader": [tensor for batch in self._batches for tensor in _tensors(batch)],
        }

    def metrics(self) -> Mapping[str, Metric]:
        """Return ``parameters``, the number of values that the model learns."""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return {"parameters": Metric(value=count, unit="1", source="numel", quality="exact")}


def _tensors(batch: Any) -> list[torch.Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(batch) if hasattr(leaf, "data_ptr")]


def _summed(loss: Loss) -> torch.Tensor:
    import torch

    if isinstance(loss, torch.Tensor):
        return loss
    first, *others = loss.values() if isinstance(loss, Mapping) else loss
    return sum(others, first)
