"""Which units of a chain backward computes again, so that their activations stay within a number of bytes.

Keeping as much as fits at the least recomputed work is the rematerialisation problem (Chen et al., 2016; Checkmate,
Jain et al., MLSys 2020). A chain of few units solves it exactly: what is alive at any time is what the units before
keep, plus what the unit at work needs, and that does not depend on the other choices.
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
"""A step of the chain, and the modules whose parameters and buffers it uses."""


class UnitCost(NamedTuple):
    """One unit for one shape of input. Bytes over its input, parameters, buffers and their accumulated gradients."""

    inner_bytes: int
    """Kept for backward beside input and output."""
    output_bytes: int
    forward_peak_bytes: int
    """Alive at most in forward, all that backward needs being kept."""
    backward_peak_bytes: int
    """Alive at most in backward, output and its gradient included."""
    buffer_bytes: int
    """Copied when it is recomputed, to write running statistics to; taken as alive until its backward ends."""
    flops: int
    """Of forward: what recomputing it costs."""

    def peak_bytes(self, recompute: bool) -> int:
        """Alive at most while this unit is at work. Recomputing runs forward beside the output's gradient."""
        if not recompute:
            return max(self.forward_peak_bytes, self.backward_peak_bytes)
        return max(self.output_bytes + self.forward_peak_bytes, self.backward_peak_bytes) + self.buffer_bytes

    def kept_bytes(self, recompute: bool) -> int:
        """Alive while the units after it are at work: its output is kept as their input, or by its ReLU."""
        return self.output_bytes if recompute else self.output_bytes + self.inner_bytes


class Plan(NamedTuple):
    """A choice for every unit from the first on."""

    flops: int
    """Recomputed a micro-batch."""
    kept_bytes: int
    """At the end of forward."""
    recompute: tuple[bool, ...]


def within_budget(costs: Sequence[UnitCost], budget_bytes: int) -> Plan:
    """The plan with the least recomputed work whose activations, kept and being made, are never above the budget.

    Of equally cheap plans that of the lowest peak. A smaller budget therefore never gives a higher peak: where the
    larger budget's plan does not fit the smaller one, its peak is above that, and where it does, it is chosen again.

    Raises:
        UnsupportedSettingError: no plan fits; says the least that does.
    """
    enough = sum(cost.kept_bytes(False) + max(cost.peak_bytes(False), cost.peak_bytes(True)) for cost in costs)
    limit_bytes = min(budget_bytes, enough)  # any plan fits there
    best = _cheapest(costs, limit_bytes)
    if best is None:
        raise UnsupportedSettingError(
            f"training.recompute: budget:{budget_bytes // MIB} is below what the backbone's activations take at the "
            f"least with this micro-batch; use budget:{-(-least_bytes(costs) // MIB)}, lowest, or a smaller "
            "training.batch_size"
        )

    def as_cheap(limit: int) -> bool:
        plan = _cheapest(costs, limit)
        return plan is not None and plan.flops == best.flops

    plan = _cheapest(costs, _lowest(limit_bytes, as_cheap))
    assert plan is not None
    return plan


def least_bytes(costs: Sequence[UnitCost]) -> int:
    """The smallest budget that a plan can keep."""
    everything = sum(cost.kept_bytes(False) + cost.peak_bytes(True) for cost in costs)
    return _lowest(everything, lambda limit: _cheapest(costs, limit) is not None)


def _cheapest(costs: Sequence[UnitCost], limit_bytes: int) -> Plan | None:
    """Unit by unit; of the plans so far, only those are followed that no other beats in both work and bytes."""
    front = [Plan(0, 0, ())]
    for cost in costs:
        longer = sorted(
            Plan(plan.flops + again * cost.flops, plan.kept_bytes + cost.kept_bytes(again), (*plan.recompute, again))
            for plan in front
            for again in (False, True)
            if plan.kept_bytes + cost.peak_bytes(again) <= limit_bytes
        )
        front = []
        for plan in longer:
            if not front or plan.kept_bytes < front[-1].kept_bytes:
                front.append(plan)
    return front[0] if front else None


def _lowest(highest: int, holds: Callable[[int], bool]) -> int:
    """The lowest limit at which ``holds``, which holds at ``highest`` and at every limit above one where it does."""
    return bisect_left(range(highest), True, key=holds)


def chain_costs(units: Sequence[Unit], x: Tensor) -> list[UnitCost]:
    """Measure each unit alone on what has the shape of ``x``, and on what becomes of it: one more forward and backward.

    It takes the memory of one unit at a time, none on fake tensors, and has no effect: zeros stand in for ``x``,
    parameters and buffers, and no mode that counts a step hears of it.
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
    """Zeros of its shape, strides, type and device."""
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
                del out  # a step holds it only where backward needs it
                loss.backward()
    buffer_bytes = sum(buffer.nbytes for module in modules for buffer in module.buffers())
    inner_bytes = kept_bytes - output_bytes
    cost = UnitCost(inner_bytes, output_bytes, forward_peak_bytes, live.peak_bytes, buffer_bytes, flops)
    return cost, following


class _DenseGradient(torch.autograd.Function):
    """A scalar whose backward makes a gradient that nobody else holds, laid out as its input."""

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
    """Let modules work with parameters and buffers of zeros."""
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
    twin.grad = torch.zeros_like(twin)  # there already, as in every micro-batch but the first
    return twin
