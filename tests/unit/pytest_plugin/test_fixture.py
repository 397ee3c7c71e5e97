"""Bytes of one call against closed forms, which other tensors of the process do not change."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from slr_bench.pytest_plugin.fixture import call_metrics

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
    """Tensors of other tests and modules."""
    return [floats(64) for _ in range(10)]


def test_tensors_that_the_call_makes_count(foreign_tensors):
    assert peak_kib(lambda: floats(8)) == 8
    assert peak_kib(lambda: (floats(8), floats(4))) == 12
    assert peak_kib(lambda: None) == 0


def test_dropped_tensors_do_not_count():
    def call():
        for _ in range(5):
            made = floats(8)
            del made

    assert peak_kib(call) == 8


def test_earlier_tensors_count_from_the_start_if_the_call_uses_them(foreign_tensors):
    """The peak is at the start, when the new tensor and the tensors that are used later are alive."""
    weight, momentum = floats(16), floats(32)

    def call():
        made = floats(8)
        del made
        weight.add_(1)
        momentum.add_(1)

    assert peak_kib(call) == 8 + 16 + 32


def test_view_counts_with_its_whole_storage():
    whole = floats(16)
    row = whole.view(16, -1)[0]
    assert peak_kib(lambda: row.add_(1)) == 16


def test_arguments_without_other_references_count_until_they_are_dropped():
    held = [floats(32)]

    def call():
        first = held.pop()
        first.add_(1)
        del first
        return floats(24)

    assert peak_kib(call) == 32


def test_foreign_memory_counts_from_its_first_use():
    def call():
        made = floats(8)
        del made
        torch.from_numpy(np.zeros(16 * KIB // 4, dtype=np.float32)).add_(1)

    assert peak_kib(call) == 16


def test_new_storage_at_a_reused_address_is_not_an_earlier_one():
    """Drops a used tensor and makes others of its size, which get its address."""
    held = [floats(8)]

    def call():
        held.pop().add_(1)
        for _ in range(20):
            floats(8)

    assert peak_kib(call) == 8


def test_optimizer_state_of_a_training_step_counts_from_the_start():
    """Weight, batch and momentum are alive before the step. The product in forward and the gradient in backward never
    live together. Only numbers of one element come on top."""
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


def test_repeated_calls_give_the_same_bytes(foreign_tensors):
    layer = nn.LSTM(16, 16)
    clips = torch.ones(20, 4, 16)

    def call():
        layer(clips)[0].sum().backward()
        layer.zero_grad()

    assert len({peak_kib(call) for _ in range(3)}) == 1


def test_rss_of_a_known_allocation():
    """Writes to 64 MiB of pages. The kernel counts them in batches, so its mark is some pages off."""
    size = 64 * 2**20
    reading = measured(lambda: np.ones(size, dtype=np.uint8), with_rss=True)["rss_over_start_bytes"]
    assert reading.value == pytest.approx(size, rel=0.02)
    assert reading.source == "/proc/self/status VmHWM"
