"""The training step equals a plain loop, and keeps no more tensors alive than necessary."""

import contextlib
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from slr_bench.grid.training_step import TrainingStep
from slr_bench.trace.fake.tensors import CpuFakeMode
from slr_bench.trace.step_trace import BEFORE
from slr_bench.worker.context import Context
from slr_bench.worker.traced_step import trace_step

INPUTS, OUTPUTS, SAMPLES = 64, 8, 16


def samples(first, count):
    """Return the same numbers for any division into micro-batches."""
    numbers = torch.arange(SAMPLES * INPUTS, dtype=torch.float32).sin().reshape(SAMPLES, INPUTS)
    return numbers[first : first + count], numbers[first : first + count, :OUTPUTS].cos()


def step_of(context, micro_batches=1, optimizer=torch.optim.SGD, kind=TrainingStep):
    torch.manual_seed(0)
    model = context.place(nn.Linear(INPUTS, OUTPUTS))
    size, given = SAMPLES // micro_batches, iter(range(micro_batches))
    work = kind(
        context,
        model,
        optimizer(model.parameters(), lr=0.1),
        lambda: samples(next(given) * size, size),
        mse_loss,
        micro_batches,
    )
    with context.tensors():
        work.load()
    return work


@pytest.fixture
def context():
    return Context(torch.device("cpu"), None)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_step_equals_the_plain_loop_on_the_whole_batch(context, micro_batches):
    torch.manual_seed(0)
    plain = nn.Linear(INPUTS, OUTPUTS)
    inputs, targets = samples(0, SAMPLES)
    mse_loss(plain(inputs), targets).backward()
    expected = [parameter.detach() - 0.1 * parameter.grad for parameter in plain.parameters()]

    work = step_of(context, micro_batches)
    work.step()
    for parameter, value in zip(work.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
        assert parameter.grad is None
    assert work.samples_per_step == SAMPLES
    assert work.metrics()["parameters"].value == INPUTS * OUTPUTS + OUTPUTS


def test_every_tensor_between_steps_has_a_name(context):
    work = step_of(context, 4, torch.optim.AdamW)
    work.step()
    traced = trace_step(work, context)
    by_category = Counter()
    for storage in traced.step.storages:
        if storage.born == BEFORE:
            by_category[storage.category] += storage.size_bytes
    weights = INPUTS * OUTPUTS + OUTPUTS
    assert by_category == {"parameter": 4 * weights, "optimizer state": 8 * weights + 2 * 4}  # two step counters
    assert traced.allocator.residual_bytes == 0


def test_one_micro_batch_is_on_the_device_at_a_time(context):
    """At the peak, the gradient of the weights is made, and only the inputs of the layer are still alive."""
    peaks = {}
    for micro_batches in (1, 4):
        work = step_of(context, micro_batches)
        work.step()
        peaks[micro_batches] = trace_step(work, context).breakdown.by_category["input"]
    assert peaks == {1: SAMPLES * 4 * INPUTS, 4: SAMPLES // 4 * 4 * INPUTS}


def test_fake_and_real_steps_need_the_same_bytes(context):
    found = []
    for place in (context, Context(torch.device("cpu"), CpuFakeMode())):
        work = step_of(place, 2, torch.optim.AdamW)
        with place.tensors():
            work.step()
            found.append(trace_step(work, place).breakdown.peak_bytes)
    assert found[0] == found[1] > 0


def test_overridden_step_replaces_the_loop(context):
    class Clipped(TrainingStep):
        norms = ()

        def step(self):
            for inputs, targets in self.handed_over():
                mse_loss(self.model(inputs), targets).backward()
            self.norms += (nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).item(),)
            self.optimizer.step()
            self.optimizer.zero_grad()

    work = step_of(context, 2, kind=Clipped)
    work.step()
    assert len(work.norms) == 1
    assert work.norms[0] > 0


def test_parts_of_the_step_are_named(context):
    seen = []

    class Listening:
        device = context.device

        @contextlib.contextmanager
        def phase(self, name):
            seen.append(name)
            yield

        place = staticmethod(lambda module: module)
        tensors = staticmethod(contextlib.nullcontext)

    step_of(Listening(), 2).step()
    assert seen == ["load", "forward", "backward"] * 2 + ["optimizer"]
