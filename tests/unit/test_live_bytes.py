"""Tests of live bytes against closed forms: the size of every tensor is known before the step."""

from __future__ import annotations

import contextlib
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from slr_bench.live_bytes import LiveBytes, NewBytes
from slr_bench.trace.fake.tensors import swap_for_fake

CPU = torch.device("cpu")
F32 = 4


def test_tensor_of_known_size_counts_exactly():
    with LiveBytes(CPU, {}) as tracer:
        kept = torch.zeros(1000, dtype=torch.float64)
        del kept
    assert tracer.peak_bytes == 8000
    assert tracer.live_bytes == 0


def test_views_share_their_storage():
    with LiveBytes(CPU, {}) as tracer:
        base = torch.zeros(8, 8)
        views = [base[0], base.t(), base.reshape(64), base.unfold(0, 2, 1)]
    assert tracer.peak_bytes == 64 * F32
    del base
    assert views[0].numel() == 8


def test_storage_lives_as_long_as_its_last_view():
    with LiveBytes(CPU, {}) as tracer:
        row = torch.zeros(8, 8)[0]
        assert tracer.live_bytes == 64 * F32
        del row
        assert tracer.live_bytes == 0


def test_wrapper_tensor_counts_as_its_parts():
    with LiveBytes(CPU, {}) as tracer:
        pair = TwoTensor(torch.zeros(10), torch.zeros(10))
        result = pair + 1
        assert tracer.live_bytes == 4 * 40
        del pair, result
        assert tracer.live_bytes == 0
    state = TwoTensor(torch.zeros(10), torch.zeros(10))
    with LiveBytes(CPU, {"optimizer state": [state]}) as tracer:
        assert tracer.live_bytes == 2 * 40


def test_in_place_operators_make_nothing():
    with LiveBytes(CPU, {}) as tracer:
        x = torch.zeros(100)
        x.add_(1).mul_(2).relu_()
    assert tracer.peak_bytes == 400


def test_two_temporaries_at_once_make_the_peak():
    with LiveBytes(CPU, {}) as tracer:
        a = torch.zeros(100)  # 400
        b = a + 1  # 800
        del a
        c = b * 2  # 800
        del b, c
    assert tracer.peak_bytes == 800


def test_state_counts_from_the_start_and_loader_tensors_do_not():
    parameter, held = torch.zeros(10), torch.zeros(1000)
    with LiveBytes(CPU, {"parameter": [parameter], "loader": [held]}) as tracer:
        taken = held.clone()
        del taken
    assert tracer.peak_bytes == 40 + 4000


def test_unnamed_tensor_counts_from_its_first_use():
    unnamed = torch.zeros(100)
    with LiveBytes(CPU, {}) as tracer:
        big = torch.zeros(1000)
        del big
        unnamed.add_(1)
    assert tracer.peak_bytes == 4000
    assert [live for live, _ in tracer.timeline] == [4000, 400]


def test_phases_have_peaks_of_their_own():
    with LiveBytes(CPU, {}) as tracer:
        with tracer.phase("forward"):
            a = torch.zeros(100)
        with tracer.phase("backward"):
            b = torch.zeros(50)
        del a, b
        with tracer.phase("optimizer"):
            pass
    assert tracer.peak_by_phase == {"outside": 0, "forward": 400, "backward": 600, "optimizer": 0}


def linear_step_bytes(batch: int, inputs: int, outputs: int) -> int:
    """Peak of ``(x @ W.T + b).sum().backward()`` by hand.

    Alive during the whole step: W, b, x. Forward makes y (saved by nothing: sum saves shapes) and the sum, backward the
    gradient of the sum (1 element), its expansion (a view), grad W = gy.T @ x and grad b.
    """
    state = outputs * inputs + outputs + batch * inputs
    forward = state + batch * outputs + 1
    backward = state + 2 + outputs * inputs + outputs  # the loss and its gradient are still held
    return F32 * max(forward, backward)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(64, 16, 256), (2, 128, 64)])
def test_linear_layer_matches_its_closed_form(batch: int, inputs: int, outputs: int):
    layer, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    state = {"parameter": list(layer.parameters()), "input": [x]}

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        loss = layer(x).sum()
        loss.backward()
        layer.zero_grad(set_to_none=True)

    step()
    gc.collect()
    with LiveBytes(CPU, state) as tracer:
        step()
    assert tracer.peak_bytes == linear_step_bytes(batch, inputs, outputs)


def test_conv_layer_matches_its_closed_form():
    n, c_in, c_out, size, kernel = 2, 3, 8, 10, 3
    out = size - kernel + 1
    layer, x = nn.Conv2d(c_in, c_out, kernel), torch.randn(n, c_in, size, size)
    weights = c_out * c_in * kernel * kernel + c_out
    state = {"parameter": list(layer.parameters()), "input": [x]}
    with LiveBytes(CPU, state) as tracer, torch.no_grad():
        y = layer(x)
        del y
    assert tracer.peak_bytes == F32 * (weights + n * c_in * size * size + n * c_out * out * out)


def test_adamw_state_is_twice_the_parameters_plus_step_counts():
    layer = nn.Linear(32, 32)
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)
    layer(torch.randn(4, 32)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    tensors = [value for entry in optimizer.state.values() for value in entry.values()]
    with LiveBytes(CPU, {"parameter": list(layer.parameters()), "optimizer state": tensors}) as tracer:
        pass
    parameters = 32 * 32 + 32
    assert tracer.peak_bytes == F32 * (parameters + 2 * parameters + 2)  # two step counters of one float each


class _Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Linear(8, 8)
        self.twice = self.shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.twice(self.shared(x))


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD])
def test_fake_peak_equals_the_real_one(optimizer_class: type[torch.optim.Optimizer]):
    peaks = []
    for mode in (None, FakeTensorMode()):
        model = _Tiny()
        if mode:
            swap_for_fake(model, mode)
        optimizer = optimizer_class(model.parameters(), lr=0.1)
        with mode or contextlib.nullcontext():
            x = torch.zeros(4, 3, 16, 16)

            def step(model=model, optimizer=optimizer, x=x) -> None:
                model(x).sum().backward()
                optimizer.step()
                optimizer.zero_grad()

            step()
            state = [value for entry in optimizer.state.values() for value in entry.values()]
            tensors = [*model.parameters(), *model.buffers(), x, *(t for t in state if isinstance(t, torch.Tensor))]
            with LiveBytes(CPU, {"state": tensors}) as tracer:
                step()
        peaks.append(tracer.peak_bytes)
    assert peaks[0] == peaks[1] > 0


def test_swapping_keeps_shared_parameters_shared_and_shapes():
    model = swap_for_fake(_Tiny(), FakeTensorMode())
    assert model.shared.weight is model.twice.weight
    assert isinstance(model.conv.weight, nn.Parameter)
    assert model.norm.running_mean.shape == (8,)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["make", "drop", "view", "add"]), st.integers(1, 50)), max_size=40))
def test_any_program_agrees_with_a_naive_count(program: list[tuple[str, int]]):
    """A second, naive count: after each operation sum the distinct storages that any name still holds."""
    held: list[torch.Tensor] = []
    naive_peak = 0
    with LiveBytes(CPU, {}) as tracer:
        for operation, number in program:
            if operation == "make":
                held.append(torch.zeros(number))
            elif held and operation == "drop":
                held.pop(number % len(held))
            elif held and operation == "view":
                held.append(held[number % len(held)][:1])
            elif held and operation == "add":
                held.append(held[number % len(held)] + 1)
            ledger = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
            naive_peak = max(naive_peak, sum(ledger.values()))
            assert tracer.live_bytes == sum(ledger.values())
    assert tracer.peak_bytes == naive_peak


@pytest.mark.parametrize("mode", [FakeTensorMode, torch.enable_grad], ids=["fake", "real"])
def test_new_storages_count_from_their_operator_to_their_last_reference(mode):
    with mode():
        argument = torch.ones(100)
        with NewBytes(CPU) as live:
            a = argument * 2  # 400 B; the argument was there before
            view = a.view(10, 10)
            b = a + view.flatten()  # 800
            del b
            c = argument.add_(1)  # makes nothing
    assert (live.live_bytes, live.peak_bytes) == (400, 800)
    del a
    assert live.live_bytes == 400
    del view, c
    assert live.live_bytes == 0


def test_storages_of_other_devices_do_not_count():
    with NewBytes(CPU) as live:
        torch.ones(100, device="meta")
        assert live.peak_bytes == 0


def test_flops_of_a_product_are_counted():
    with NewBytes(CPU) as live:
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert live.flops == 2 * 3 * 4 * 5
