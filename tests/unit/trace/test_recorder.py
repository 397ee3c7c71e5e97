"""Tests of the recorded step, with models small enough to count by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import slr_bench
from slr_bench.live_bytes import LiveBytes, storages_alive
from slr_bench.trace.owners import OWN_SOURCE
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.step_trace import (
    GRADIENT,
    HELD,
    OPTIMIZER_STATE,
    PARAMETER,
    SAVED,
    TEMPORARY,
    WEIGHT_CAST,
    StepTrace,
    breakdown,
    operator_floor,
)

CPU = torch.device("cpu")
F32 = 4


def recorded(
    step: Callable[[], object], module: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> StepTrace:
    """Record a steady step, the second one."""
    step()
    gc.collect()
    values = [value for entry in (optimizer.state.values() if optimizer else ()) for value in entry.values()]
    state = {
        PARAMETER: list(module.parameters()),
        "buffer": list(module.buffers()),
        OPTIMIZER_STATE: [value for value in values if isinstance(value, torch.Tensor)],
    }
    with Recorder(CPU, state) as recorder:
        step()
    return recorder.step_trace


class Chain(nn.Module):
    """A linear layer and ``depth`` times tanh. Each tanh saves its output, so saved bytes are known."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.depth = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        for _ in range(self.depth):
            x = torch.tanh(x)
        return x


@pytest.mark.parametrize(("batch", "width", "depth"), [(8, 16, 1), (3, 5, 4)])
def test_saved_activations_match_their_closed_form(batch, width, depth):
    """Linear saves its input (here made in the step), each tanh its output: depth + 1 tensors of batch x width."""
    model = Chain(width, depth)

    def step():
        loss = model(torch.ones(batch, width)).sum()
        loss.backward()
        model.zero_grad()

    trace = recorded(step, model)
    last_forward = max(n for n, op in enumerate(trace.operators) if op.name == "aten.sum" and n < 60)
    saved = [s for s in trace.storages if s.lives_at(last_forward) and s.category_at(last_forward) == SAVED]
    assert sum(s.size_bytes for s in saved) == F32 * batch * width * (depth + 1)


def test_parameters_gradients_and_optimizer_state_are_exact_and_owned():
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)

    def step():
        model(torch.ones(2, 7)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    found = breakdown(recorded(step, model, optimizer))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert found.by_category[PARAMETER] == found.by_category[GRADIENT] == F32 * count
    assert found.by_category[OPTIMIZER_STATE] == F32 * (2 * count + 4)  # two moments, and a step count per parameter
    assert found.by_module["0"][OPTIMIZER_STATE] == F32 * (2 * (7 * 5 + 5) + 2)
    assert found.by_module["1"][GRADIENT] == F32 * (5 * 3 + 3)
    assert sum(found.by_category.values()) == sum(sum(parts.values()) for parts in found.by_module.values())


def test_a_reused_module_gets_both_its_outputs_and_its_parameters_once():
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    trace = recorded(lambda: model(torch.ones(2, 4)), model)
    owned = [s for s in trace.storages if s.module == "0"]
    assert [s.size_bytes for s in owned if s.category == PARAMETER] == [F32 * 16]
    assert sum(s.category == TEMPORARY for s in owned) == 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 6), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_tensors_kept_for_recomputation_are_saved_activations_of_their_module():
    model = Block()

    def step():
        model(torch.ones(3, 6)).sum().backward()
        model.zero_grad()

    trace = recorded(step, model)
    ends = next(n for n, op in enumerate(trace.operators) if op.name == "aten.sum")
    before = [s for s in trace.storages if s.lives_at(ends) and s.category_at(ends) == SAVED]
    assert [s.size_bytes for s in before] == [F32 * 18], "forward keeps the input alone"
    again = [s for s in trace.storages if s.born > ends and s.saved_from is not None and s.category == TEMPORARY]
    assert {s.module for s in again} >= {"inner.1", "inner.2", "inner.4"}


def test_custom_functions_and_their_backward_belong_to_the_module_that_used_them():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    class Squared(nn.Module):
        def forward(self, x):
            return Square.apply(x)

    model = nn.Sequential(nn.Linear(4, 4), Squared())

    def step():
        model(torch.ones(2, 4)).sum().backward()
        model.zero_grad()

    trace = recorded(step, model)
    products = [s for s in trace.storages if s.operator == "aten.mul"]
    assert {s.module for s in products} == {"1"}
    assert all("test_recorder.py" in s.origin for s in products), "Python code runs in that backward"
    weights = [s for s in trace.storages if s.category == GRADIENT and s.shape == (4, 4)]
    assert [(s.module, s.origin) for s in weights] == [("0", "AddmmBackward0")]


def test_own_source_of_the_tracer_is_never_an_origin():
    model = Chain(4, 2)

    def step():
        checkpoint(model, torch.ones(2, 4, requires_grad=True), use_reentrant=False).sum().backward()
        model.zero_grad()

    trace = recorded(step, model)
    random_states = [s for s in trace.storages if s.dtype == "uint8"]
    assert random_states, "the checkpoint keeps one, which slr_bench/live_bytes.py counts"
    assert "test_recorder.py:" in random_states[0].origin
    assert not [s.origin for s in trace.storages if "live_bytes.py" in s.origin or "slr_bench" in s.origin]


@pytest.mark.parametrize("path", ["live_bytes.py", "trace/recorder.py", "trace/fake/cuda_rules.py"])
def test_own_source_covers_the_counter_and_the_whole_tracer(path):
    source = Path(slr_bench.__file__).parent / path
    assert source.is_file()
    assert str(source).startswith(OWN_SOURCE)
    assert not str(Path(slr_bench.__file__).parent / "trace_of_others.py").startswith(OWN_SOURCE)


def test_copies_of_weights_for_autocast_have_a_category_of_their_own():
    model = nn.Linear(8, 8, bias=False)

    def step():
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            model(torch.ones(2, 8)).sum().backward()

    casts = [s for s in recorded(step, model).storages if s.category == WEIGHT_CAST]
    assert [(s.size_bytes, s.dtype, s.module) for s in casts] == [(2 * 64, "bfloat16", "Linear")]


def test_optimizer_in_backward_still_shows_gradients():
    model = nn.Linear(4, 4)
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

    def update(parameter):
        optimizers[parameter].step()
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    trace = recorded(lambda: model(torch.ones(2, 4)).sum().backward(), model)
    assert sorted(s.size_bytes for s in trace.storages if s.category == GRADIENT) == [16, 64]


def test_in_place_operators_and_views_make_nothing():
    with Recorder(CPU, {}) as recorder:
        x = torch.zeros(10)
        x.add_(1).relu_().view(2, 5).t()
    assert [s.size_bytes for s in recorder.step_trace.storages] == [40]


def test_a_storage_that_is_resized_counts_with_its_new_size():
    with Recorder(CPU, {}) as recorder:
        x = torch.zeros(10)
        x.resize_(100)
        out = torch.empty(0)
        torch.add(torch.ones(50), 1, out=out)
    assert recorder.live_bytes == 400 + 200
    del x, out


def test_tensors_left_by_the_last_step_are_held_unless_they_are_excluded():
    mine = torch.zeros(5)
    state = with_unnamed({}, CPU)
    assert any(tensor is mine for tensor in state[HELD])
    later = with_unnamed({}, CPU, not_its_own=storages_alive())
    assert not any(tensor is mine for tensor in later.get(HELD, ()))


def test_recorder_peak_equals_that_of_live_bytes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), ConvolutionBlock())

    def step():
        model(torch.ones(2, 3, 12, 12)).sum().backward()
        model.zero_grad()

    trace = recorded(step, model)
    with LiveBytes(CPU, {PARAMETER: list(model.parameters()), "buffer": list(model.buffers())}) as plain:
        step()
    assert trace.peak_bytes == plain.peak_bytes
    assert sum(breakdown(trace).by_category.values()) == plain.peak_bytes


class ConvolutionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_hooks_are_gone_afterwards():
    model = nn.Linear(2, 2)
    enter = torch.autograd.graph.saved_tensors_hooks.__enter__
    before = len(nn.modules.module._global_forward_pre_hooks)
    recorded(lambda: model(torch.ones(1, 2)).sum().backward(), model)
    assert torch.autograd.graph.saved_tensors_hooks.__enter__ is enter
    assert len(nn.modules.module._global_forward_pre_hooks) == before
    assert not model.weight._post_accumulate_grad_hooks
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_flops_are_those_of_the_formula():
    model = nn.Linear(16, 4, bias=False)
    trace = recorded(lambda: model(torch.ones(8, 16)), model)
    assert trace.flops == 2 * 8 * 16 * 4


@pytest.mark.parametrize(
    ("products", "convolutions", "counted"),
    [
        ("ieee", "ieee", {"float32": 48 + 64}),
        ("tf32", "tf32", {"tf32": 48 + 64}),
        ("none", "tf32", {"tf32": 48, "float32": 64}),  # torch's default
    ],
)
def test_flops_are_counted_in_the_type_that_cuda_would_multiply_in(products, convolutions, counted):
    model = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.Linear(4, 4, bias=False))
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place, value in zip(places, (products, convolutions), strict=True):
            place.fp32_precision = value
        trace = recorded(lambda: model(torch.ones(1, 1, 6)), model)
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
    assert trace.flops_by_dtype == counted
    assert trace.flops == sum(counted.values())


def test_fused_attention_on_a_cpu_has_the_flops_of_its_products():
    """There are two products in forward and five in backward, which computes the scores again."""
    model = nn.Linear(4, 12, bias=False)
    x_BTE = torch.ones(2, 6, 4)

    def step():
        q, k, v = model(x_BTE).unflatten(-1, (3, 1, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()

    projection = 2 * (2 * 6) * 4 * 12
    assert recorded(step, model).flops == 2 * projection + 7 * (2 * 2 * 6 * 6 * 4)


def test_the_timeline_has_the_peak_and_adds_up():
    model = Chain(6, 3)

    def step():
        model(torch.ones(2, 6)).sum().backward()
        model.zero_grad()

    trace = recorded(step, model)
    line = breakdown(trace).timeline
    totals = [sum(values) for values in zip(*line.by_category.values(), strict=True)]
    assert max(totals) == trace.peak_bytes
    assert line.operators == len(trace.operators)


def floor_by_hand(trace: StepTrace) -> int:
    """Compute the floor naively: at every operator, sum the set of storages that must be alive."""
    storages, best = trace.storages, 0
    state = {n for n, s in enumerate(storages) if s.born == -1 and s.died is None}
    for position, operator in enumerate(trace.operators):
        due = {
            n
            for n, s in enumerate(storages)
            if s.category == GRADIENT
            and s.born <= position
            and any(n in later.storages for later in trace.operators[position:])
        }
        best = max(best, sum(storages[n].size_bytes for n in state | due | set(operator.storages)))
    return best


@pytest.mark.parametrize("foreach", [True, False])
def test_the_floor_agrees_with_a_naive_one_and_is_below_the_peak(foreach):
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=foreach)

    def step():
        for _ in range(2):
            model(torch.ones(64, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    trace = recorded(step, model, optimizer)
    floor = operator_floor(trace)
    assert floor.floor_bytes == floor_by_hand(trace) < trace.peak_bytes
    assert floor.operator is not None


def test_modules_that_split_their_work_are_listed():
    class Chunked(nn.Module):
        splits_work = True

        def forward(self, x):
            return torch.cat([part + 1 for part in x.split(1)])

    model = nn.Sequential(nn.Linear(2, 2), Chunked())
    assert recorded(lambda: model(torch.ones(4, 2)), model).split_modules == ("1",)
