"""Bytes of one call against closed forms: whatever the process holds beside it changes nothing."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from slr_bench.pytest_plugin.call_bytes import call_metrics

CPU = torch.device("cpu")
KIB = 1024


def floats(kib):
    return torch.zeros(kib * KIB // 4)


def measured(call, with_rss=False):
    @contextmanager
    def prepared():
        yield call

    return call_metrics(prepared, CPU, with_rss)


def peak_kib(call):
    return measured(call)["peak_tensor_bytes"].value / KIB


@pytest.fixture
def foreign_tensors():
    """What other tests and modules hold."""
    return [floats(64) for _ in range(10)]


def test_what_the_call_makes(foreign_tensors):
    assert peak_kib(lambda: floats(8)) == 8
    assert peak_kib(lambda: (floats(8), floats(4))) == 12
    assert peak_kib(lambda: None) == 0


def test_what_it_drops_makes_room():
    def call():
        for _ in range(5):
            made = floats(8)
            del made

    assert peak_kib(call) == 8


def test_what_it_uses_counts_from_its_start(foreign_tensors):
    """The peak is at the start, where only the made tensor is alive beside those that are used last."""
    weight, momentum = floats(16), floats(32)

    def call():
        made = floats(8)
        del made
        weight.add_(1)
        momentum.add_(1)

    assert peak_kib(call) == 8 + 16 + 32


def test_a_view_uses_all_of_its_storage():
    whole = floats(16)
    row = whole.view(16, -1)[0]
    assert peak_kib(lambda: row.add_(1)) == 16


def test_arguments_that_nobody_else_holds_go_when_they_are_dropped():
    held = [floats(32)]

    def call():
        first = held.pop()
        first.add_(1)
        del first
        return floats(24)

    assert peak_kib(call) == 32


def test_what_comes_from_outside_during_the_call_counts_from_then():
    def call():
        made = floats(8)
        del made
        torch.from_numpy(np.zeros(16 * KIB // 4, dtype=np.float32)).add_(1)

    assert peak_kib(call) == 16


def test_an_address_given_anew_is_no_old_storage():
    """Drop a used tensor and make others of its size, which get its address: none of them was there before."""
    held = [floats(8)]

    def call():
        held.pop().add_(1)
        for _ in range(20):
            floats(8)

    assert peak_kib(call) == 8


def test_a_training_step_holds_its_optimizer_state_from_the_start():
    """Weight, batch and momentum are there before; the product in forward and the gradient in backward never together.
    Only numbers of one element come on top."""
    square = KIB * 16 // 4
    weight = nn.Parameter(torch.ones(square))
    batch = torch.ones(square)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, foreach=False)

    def step():
        (weight * batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    assert 4 * 16 <= peak_kib(step) <= 4 * 16 + 32 / KIB


def test_it_is_the_same_again(foreign_tensors):
    layer = nn.LSTM(16, 16)
    clips = torch.ones(20, 4, 16)

    def call():
        layer(clips)[0].sum().backward()
        layer.zero_grad()

    assert len({peak_kib(call) for _ in range(3)}) == 1


def test_rss_of_a_known_allocation():
    """64 MiB of pages that are written to. The kernel books them a batch at a time, so its mark is some pages off."""
    size = 64 * 2**20
    reading = measured(lambda: np.ones(size, dtype=np.uint8), with_rss=True)["rss_over_start_bytes"]
    assert reading.value == pytest.approx(size, rel=0.02)
    assert reading.source == "/proc/self/status VmHWM"
