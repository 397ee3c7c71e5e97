"""A traced step allocates what an untraced one allocates: backward writes into its own tensors, gradients are added up.

Every program runs without a tracer, under the allocator's log alone, and then traced on real and on fake tensors.
"""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.allocations import Alloc, CpuAllocations, StepBegins, UntracedBegins
from slr_bench.trace.allocator_check import NUMBER_BYTES, match_peak
from slr_bench.trace.fake.tensors import CpuFakeMode
from slr_bench.trace.recorder import Recorder
from slr_bench.untraced import IN_PLACE

CPU = torch.device("cpu")
ROWS, COLUMNS = 24, 20
_NUMBERS = torch.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
K = SimpleNamespace(
    labels=torch.arange(ROWS) % 5,
    ids=torch.arange(30) % ROWS,
    index=_NUMBERS[:, :6] % COLUMNS,
    mask=_NUMBERS % 3 == 0,
    weights=torch.ones(COLUMNS),
)
"""Tensors that the programs read beside their parameters."""


class Doubled(torch.autograd.Function):
    """Adds two tensors out of place in Python code of its own backward."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient + gradient


def entropy(x, y, **more):
    return functional.binary_cross_entropy_with_logits(x, y.detach().sigmoid(), **more)


SELECTIONS = {
    "x[ids]": lambda x, y: x[K.ids],
    "x[ids] twice": lambda x, y: x[K.ids] + x[K.ids.flip(0)],
    "x[mask]": lambda x, y: x[K.mask],
    "x[:, ids]": lambda x, y: x[:, K.ids % COLUMNS],
    "gather": lambda x, y: x.gather(1, K.index),
    "index_select": lambda x, y: x.index_select(0, K.ids),
    "index_select of a column": lambda x, y: x.index_select(1, K.ids % COLUMNS),
    "masked_select": lambda x, y: x.masked_select(K.mask),
    "take": lambda x, y: x.take(K.ids),
    "take_along_dim": lambda x, y: x.take_along_dim(K.index, 1),
    "repeat_interleave": lambda x, y: x.repeat_interleave(2, 0),
    "trace": lambda x, y: x.trace(),
    "max of rows": lambda x, y: x.max(1).values,
    "min of rows": lambda x, y: x.min(1).values,
    "median of rows": lambda x, y: x.median(1).values,
    "nanmedian of rows": lambda x, y: x.nanmedian(1).values,
    "mode": lambda x, y: x.mode(1).values,
    "kthvalue": lambda x, y: x.kthvalue(3, 1).values,
    "topk": lambda x, y: x.topk(3, 1).values,
    "topk of a column": lambda x, y: x.topk(3, 0).values,
    "sort": lambda x, y: x.sort(1).values,
    "stable sort": lambda x, y: x.sort(dim=1, stable=True).values,
    "msort": lambda x, y: x.msort(),
    "cummax": lambda x, y: x.cummax(1).values,
    "cummin": lambda x, y: x.cummin(1).values,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "clamp by tensors": lambda x, y: x.clamp(y, y + 1),
    "clamp_min by a tensor": lambda x, y: x.clamp(min=y),
    "clamp_max by a tensor": lambda x, y: x.clamp(max=y),
    "clamp by numbers": lambda x, y: x.clamp(-0.5, 0.5),
    "atan2": torch.atan2,
    "entropy": lambda x, y: functional.binary_cross_entropy(x.sigmoid(), y.detach().sigmoid()),
    "entropy, targets learned": lambda x, y: functional.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
    "entropy of logits": entropy,
    "entropy of logits, weighed": lambda x, y: entropy(x, y, weight=K.weights),
    "entropy of logits, positive weight": lambda x, y: entropy(x, y, pos_weight=K.weights),
    "entropy of logits, targets learned": lambda x, y: functional.binary_cross_entropy_with_logits(x, y.sigmoid()),
    "masked_fill": lambda x, y: x.masked_fill(K.mask, 0.0),
    "masked_scatter": lambda x, y: x.masked_scatter(K.mask, y),
    "scatter": lambda x, y: x.scatter(1, K.index, y[:, :6]),
    "scatter_add": lambda x, y: x.scatter_add(1, K.index, y[:, :6]),
    "index_add": lambda x, y: x.index_add(0, K.labels, y),
    "index_copy": lambda x, y: x.index_copy(0, K.ids[:ROWS], y),
    "index_fill": lambda x, y: x.index_fill(0, K.labels, 0.0),
    "index_put": lambda x, y: x.index_put((K.labels,), y),
    "put": lambda x, y: x.put(K.labels, y[:, 0]),
    "amax": lambda x, y: x.amax(1),
    "embedding": lambda x, y: functional.embedding(K.ids, x),
}
WITH_ZERO = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS) % 7
CONTENTS = {
    "prod": lambda x, y: (1 + x * 0.01).prod(),
    "prod of rows": lambda x, y: (1 + x * 0.1).prod(1),
    "prod of columns, kept": lambda x, y: (1 + x * 0.1).prod(0, keepdim=True),
    "cumprod": lambda x, y: (1 + x * 0.1).cumprod(1),
    "max of all": lambda x, y: x.max(),
    "min of all": lambda x, y: x.min(),
    "median of all": lambda x, y: x.median(),
    "nanmedian of all": lambda x, y: x.nanmedian(),
}
"""Programs whose formula depends on the contents."""
SUMS = {
    "residual": lambda x, y: x + (x * y).exp(),
    "residual, gradient shared": lambda x, y: x.exp() + (x.exp() + y).relu(),
    "square": lambda x, y: x * x,
    "softsign": lambda x, y: functional.softsign(x),
    "normalize": lambda x, y: functional.normalize(x),
    "cosine_similarity": lambda x, y: functional.cosine_similarity(x, y),
    "silu gate": lambda x, y: functional.silu(x) * x,
    "layer norm beside its input": lambda x, y: x + functional.layer_norm(x, (COLUMNS,)) * x,
    "group norm beside its input": lambda x, y: (x.exp() + functional.group_norm(x, 4)) * x,
    "logaddexp": torch.logaddexp,
    "logcumsumexp": lambda x, y: x.logcumsumexp(1),
    "var_mean": lambda x, y: torch.var_mean(x, 1)[0] + torch.var_mean(x, 1)[1],
    "std_mean": lambda x, y: sum(torch.std_mean(x, 1)),
    "xlog1py": lambda x, y: torch.special.xlog1py(x, y.exp()),
    "transposed halves": lambda x, y: x.T.exp() @ x.sin(),
    "slices": lambda x, y: x[:12] * x[12:],
    "diff": lambda x, y: x.diff(),
    "gradient": lambda x, y: torch.gradient(x)[0],
    "split": lambda x, y: x.split(8)[0] * x.split(8)[1],
    "unbind": lambda x, y: sum(x.unbind(1)),
    "expanded sum": lambda x, y: x.sum() + x.mean(),
    "strided gradient": lambda x, y: x[:, ::2].exp().sum() + x.T.contiguous().sin().sum(),
    "inner": lambda x, y: torch.einsum("ij,kj->ik", x, x * y),
    "sum in Python code": lambda x, y: Doubled.apply(x.exp()) + Doubled.apply(x.sin()),
    "three uses": lambda x, y: x.exp() + x.sin() + x.cos(),
    "gelu, tanh, sigmoid": lambda x, y: functional.gelu(x) + x.tanh() * x.sigmoid(),
    "cumsum": lambda x, y: x.cumsum(1) + x,
    "svd": lambda x, y: sum(part.sum() for part in torch.linalg.svd(x, full_matrices=False)),
    "qr": lambda x, y: sum(part.sum() for part in torch.linalg.qr(x)),
    "cholesky": lambda x, y: torch.linalg.cholesky(x.T @ x + 30 * torch.eye(COLUMNS)),
}
PROGRAMS = SELECTIONS | CONTENTS | SUMS


def inputs() -> list[nn.Parameter]:
    numbers = torch.arange(ROWS * COLUMNS, dtype=torch.float32).reshape(ROWS, COLUMNS)
    return [nn.Parameter((numbers * 0.7).sin()), nn.Parameter((numbers * 1.3).cos())]


def step(program, parameters):
    """Use the result twice, so that its gradient is a tensor of the step and not an expanded number."""
    result = program(*parameters)
    (result * result).sum().backward()
    for parameter in parameters:
        parameter.grad = None


def sizes(events) -> list[Counter[int]]:
    """Return how often each size was allocated, untraced and traced."""
    found = []
    for event in events:
        if isinstance(event, (UntracedBegins, StepBegins)):
            found.append(Counter())
        elif isinstance(event, Alloc) and found and event.size_bytes > NUMBER_BYTES:
            found[-1][event.size_bytes] += 1
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_traced_step_allocates_what_an_untraced_one_allocates(name):
    parameters = inputs()
    step(PROGRAMS[name], parameters)
    gc.collect()
    log = CpuAllocations()
    with log:
        parameters = inputs()
        recorder = Recorder(CPU, {"parameter": parameters, "buffer": vars(K).values()}, mark=log.mark)
        log.untraced_begins()
        step(PROGRAMS[name], parameters)
        log.step_begins()
        with recorder:
            step(PROGRAMS[name], parameters)
    untraced, traced = sizes(log.events)
    assert traced == untraced
    assert match_peak(log.events, recorder.step_trace).disturbance_bytes == 0


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("x[mask]", "masked_select")])
def test_fake_step_needs_what_the_real_one_needs(name, monkeypatch):
    """A mask of unknown content selects an unknown number of elements, and is refused."""
    peaks = []
    mode = CpuFakeMode()
    for is_fake in (False, True):
        parameters = inputs()
        if is_fake:
            parameters = [nn.Parameter(mode.from_tensor(parameter.detach())) for parameter in parameters]
            for constant, tensor in vars(K).items():
                monkeypatch.setattr(K, constant, mode.from_tensor(tensor))
        tracer = LiveBytes(CPU, {"parameter": parameters, "buffer": vars(K).values()}, fake=is_fake)
        with mode if is_fake else nullcontext(), tracer:
            step(PROGRAMS[name], parameters)
        peaks.append(tracer.peak_bytes)
    assert peaks[0] == peaks[1]


def test_every_operator_of_the_list_has_one_that_writes_into_its_first_argument():
    for operator, (in_place, nodes) in IN_PLACE.items():
        assert in_place._schema.name == f"{operator._schema.name}_"
        first = in_place._schema.arguments[0]
        assert first.alias_info is not None
        assert first.alias_info.is_write
        assert nodes


def test_gradient_that_somebody_else_holds_is_not_overwritten():
    """A hook that keeps the first gradient must find it unchanged, as without a tracer."""
    x = torch.ones(64, requires_grad=True)
    kept = []
    with LiveBytes(CPU, {}):
        y = x * 1
        first = y.exp()
        y.register_hook(lambda gradient: kept.append(gradient))
        first.register_hook(lambda gradient: kept.append(gradient))
        (first + y.sin() + y.cos()).sum().backward()
    torch.testing.assert_close(kept[0], torch.ones(64))
    one = torch.ones(64)
    torch.testing.assert_close(x.grad, one.exp() + one.cos() - one.sin())


def gradients(program, tracer):
    parameters = inputs()
    with tracer:
        (program(*parameters) ** 2).sum().backward()
    return [parameter.grad for parameter in parameters]


def test_gradients_are_those_of_an_untraced_step():
    for name, program in PROGRAMS.items():
        for plain, traced in zip(
            gradients(program, nullcontext()), gradients(program, LiveBytes(CPU, {})), strict=True
        ):
            assert (plain is None) == (traced is None), name
            if plain is not None:
                torch.testing.assert_close(traced, plain, msg=name, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", [torch.prod, lambda x: x.prod(1), lambda x: x.cumprod(0), lambda x: x[:1].prod()])
def test_gradients_of_products_with_zeros_are_those_of_an_untraced_step(reduction):
    found = []
    for zeros in (WITH_ZERO, WITH_ZERO.clamp(min=0.5).index_fill(1, torch.tensor([3]), 0.0)):
        for tracer in (nullcontext(), LiveBytes(CPU, {})):
            x = (zeros * 0.3).requires_grad_()
            with tracer:
                (reduction(x) * 2).sum().backward()
            found.append(x.grad)
    for plain, traced in (found[:2], found[2:]):
        torch.testing.assert_close(traced, plain)


def test_functions_of_torch_func_run_while_traced():
    with LiveBytes(CPU, {}):
        gradient = torch.func.grad(lambda x: x.prod() + x.cumprod(0).sum() + x.max())
        found = torch.func.vmap(gradient)(torch.ones(2, 3) * 2)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found.sum(), torch.tensor(2 * (12.0 + 17.0 + 1.0)))


def second_derivative(tracer):
    x = torch.linspace(0.1, 1, 30).requires_grad_()
    with tracer:
        (first,) = torch.autograd.grad((x.exp() * x[K.ids].sin() * x).sum(), x, create_graph=True)
        first.square().sum().backward()
    return x.grad


def test_no_gradient_is_overwritten_that_a_graph_of_the_backward_pass_needs():
    torch.testing.assert_close(second_derivative(LiveBytes(CPU, {})), second_derivative(nullcontext()), rtol=0, atol=0)
