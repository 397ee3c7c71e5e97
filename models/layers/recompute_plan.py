"""Chooses the units of a chain that backward computes again, so that their activations stay within a budget of bytes.

Keeping as much as fits, with the least work recomputed, is the rematerialisation problem (Chen et al., 2016; Checkmate,
Jain et al., MLSys 2020). A chain of few units has an exact solution. The bytes alive at any time are those that
earlier units keep plus those that the running unit needs, and these do not depend on the other choices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from slr_bench.errors import UnsupportedSettingError
from slr_bench.live_bytes import NewBytes
from slr_bench.units import MIB

Unit = tuple[Callable[[Tensor], Tensor], Sequence[nn.Module]]
"""A step of the chain, with the modules whose parameters and buffers it uses."""


class UnitCost(NamedTuple):
    """Bytes and work of one unit for one shape of input.

    Its input, parameters and buffers and their accumulated gradients are not counted.
    """

    inner_bytes: int
    """Bytes kept for backward beside input and output."""
    output_bytes: int
    forward_peak_bytes: int
    """Most bytes alive in forward, with all that backward needs kept."""
    backward_peak_bytes: int
    """Most bytes alive in backward, with the output and its gradient."""
    buffer_bytes: int
    """Bytes of the copied running statistics while it is recomputed, counted until its backward ends."""
    flops: int
    """Work of forward, which is the cost of recomputing it."""

    def peak_bytes(self, recompute: bool) -> int:
        """Return the most bytes alive while this unit runs. Recomputing runs forward beside the output's gradient."""
        if not recompute:
            return max(self.forward_peak_bytes, self.backward_peak_bytes)
        return max(self.output_bytes + self.forward_peak_bytes, self.backward_peak_bytes) + self.buffer_bytes

    def kept_bytes(self, recompute: bool) -> int:
        """Return the bytes alive while later units run: its output is their input, or is kept by its ReLU."""
        return self.output_bytes if recompute else self.output_bytes + self.inner_bytes


class RecomputePlan(NamedTuple):
    """A choice for each unit of the chain, or of its beginning."""

    flops: int
    """Recomputed work per micro-batch."""
    kept_bytes: int
    """Bytes kept at the end of forward."""
    recompute: tuple[bool, ...]


def within_budget(costs: Sequence[UnitCost], budget_bytes: int) -> RecomputePlan:
    """Return the plan with the least recomputed work whose live activations never exceed the budget.

    Of equally cheap plans it takes the one with the lowest peak. A smaller budget therefore never gives a higher peak:
    either the plan of the larger budget fits and is chosen again, or its peak is above the smaller budget.

    Raises:
        UnsupportedSettingError: no plan fits; the message states the smallest budget that does.
    """
    enough = sum(cost.kept_bytes(False) + max(cost.peak_bytes(False), cost.peak_bytes(True)) for cost in costs)
    limit_bytes = min(budget_bytes, enough)  # any plan fits there
    best = _cheapest(costs, limit_bytes)
    if best is None:
        raise UnsupportedSettingError(
            f"training.recompute: budget:{budget_bytes // MIB} is below the least that the backbone's activations take "
            f"with this micro-batch; use budget:{-(-least_bytes(costs) // MIB)}, lowest, or a smaller "
            "training.batch_size"
        )

    def as_cheap(limit: int) -> bool:
        plan = _cheapest(costs, limit)
        return plan is not None and plan.flops == best.flops

    plan = _cheapest(costs, _lowest(limit_bytes, as_cheap))
    assert plan is not None
    return plan


def least_bytes(costs: Sequence[UnitCost]) -> int:
    """Return the smallest budget that a plan can keep."""
    everything = sum(cost.kept_bytes(False) + cost.peak_bytes(True) for cost in costs)
    return _lowest(everything, lambda limit: _cheapest(costs, limit) is not None)


def _cheapest(costs: Sequence[UnitCost], limit_bytes: int) -> RecomputePlan | None:
    """Return the plan with the least work, built unit by unit.

    Of the plans so far, it extends only those that no other plan beats in both work and bytes.
    """
    pareto = [RecomputePlan(0, 0, ())]
    for cost in costs:
        longer = sorted(
            RecomputePlan(
                plan.flops + again * cost.flops, plan.kept_bytes + cost.kept_bytes(again), (*plan.recompute, again)
            )
            for plan in pareto
            for again in (False, True)
            if plan.kept_bytes + cost.peak_bytes(again) <= limit_bytes
        )
        pareto = []
        for plan in longer:
            if not pareto or plan.kept_bytes < pareto[-1].kept_bytes:
                pareto.append(plan)
    return pareto[0] if pareto else None


def _lowest(highest: int, holds: Callable[[int], bool]) -> int:
    """Return the lowest limit at which ``holds`` is true; it is true at ``highest`` and never turns false above."""
    return bisect_left(range(highest), True, key=holds)


def chain_costs(units: Sequence[Unit], x: Tensor) -> list[UnitCost]:
    """Measure each unit alone with one more forward and backward, on a tensor of its input's shape.

    Takes the memory of one unit at a time, and none on fake tensors. It has no effect: zeros replace ``x``, parameters
    and buffers, and modes that count a step are disabled.
    """
    costs = []
    mode: AbstractContextManager[object] = x.fake_mode if isinstance(x, FakeTensor) else nullcontext()
    with _disable_current_modes(), mode:
        x = _like(x).requires_grad_(x.requires_grad)
        for run, modules in units:
            cost, x = _unit_cost(run, modules, x)
            costs.append(cost)
    return costs


def _like(tensor: Tensor) -> Tensor:
    """Return zeros of the same shape, strides, type and device."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return empty.zero_()


def _unit_cost(run: Callable[[Tensor], Tensor], modules: Sequence[nn.Module], x: Tensor) -> tuple[UnitCost, Tensor]:
    live, leaf = NewBytes(x.device), x.detach().requires_grad_(x.requires_grad)
    with _stand_ins(modules):
        with live:
            out = run(leaf)
        following = out.detach().clone().requires_grad_(out.requires_grad)
        output_bytes, kept_bytes = out.untyped_storage().nbytes(), live.live_bytes
        forward_peak_bytes, flops = live.peak_bytes, live.flops
        if out.requires_grad:
            with live:
                live.peak_bytes = kept_bytes
                loss = _DenseGradient.apply(out)
                del out  # a step holds it only if backward needs it
                loss.backward()
    buffer_bytes = sum(buffer.nbytes for module in modules for buffer in module.buffers())
    inner_bytes = kept_bytes - output_bytes
    cost = UnitCost(inner_bytes, output_bytes, forward_peak_bytes, live.peak_bytes, buffer_bytes, flops)
    return cost, following


class _DenseGradient(torch.autograd.Function):
    """A scalar whose backward makes a gradient with the layout of its input, held by nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.like = (tuple(x.shape), x.stride(), x.dtype, x.device)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shape, stride, dtype, device = ctx.like
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()


@contextmanager
def _stand_ins(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Replace parameters and buffers of the modules by zeros while open."""
    owners = list(dict.fromkeys(inner for module in modules for inner in module.modules()))
    kept = [(dict(owner._parameters), dict(owner._buffers)) for owner in owners]
    for owner, (parameters, buffers) in zip(owners, kept, strict=True):
        owner._parameters.update({name: _twin(value) for name, value in parameters.items() if value is not None})
        owner._buffers.update({name: _like(value) for name, value in buffers.items() if value is not None})
    try:
        yield
    finally:
        for owner, (parameters, buffers) in zip(owners, kept, strict=True):
            owner._parameters.update(parameters)
            owner._buffers.update(buffers)


def _twin(parameter: nn.Parameter) -> nn.Parameter:
    twin = nn.Parameter(_like(parameter), parameter.requires_grad)
    twin.grad = torch.zeros_like(twin)  # exists already, as in every micro-batch except the first
    return twin
