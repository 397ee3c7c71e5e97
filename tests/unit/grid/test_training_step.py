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


class Losses(nn.Module):
    """Takes two inputs by name and returns its outputs in a dictionary, as many models do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS)

    def forward(self, frames, poses):
        return {"signs": self.first(frames), "glosses": self.second(poses)}


def losses_of(outputs, targets):
    return {name: mse_loss(output, targets[name]) for name, output in outputs.items()}


def named_samples():
    inputs, targets = samples(0, SAMPLES)
    return {"frames": inputs, "poses": inputs.cos()}, {"signs": targets, "glosses": targets.sin()}


def test_inputs_and_losses_may_be_dictionaries(context):
    torch.manual_seed(0)
    plain = Losses()
    inputs, targets = named_samples()
    (mse_loss(plain.first(inputs["frames"]), targets["signs"])
        + mse_loss(plain.second(inputs["poses"]), targets["glosses"])).backward()  # fmt: skip
    expected = [parameter.detach() - 0.1 * parameter.grad for parameter in plain.parameters()]
    torch.manual_seed(0)
    model = context.place(Losses())
    work = TrainingStep(context, model, torch.optim.SGD(model.parameters(), lr=0.1), named_samples, losses_of)
    work.load()
    work.step()
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    assert work.samples_per_step == SAMPLES
    assert len(work.tensors()["loader"]) == 4


def optioned(context, optimizer=True, **options):
    torch.manual_seed(0)
    model = context.place(nn.Linear(INPUTS, OUTPUTS))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9) if optimizer else None
    work = TrainingStep(
        context, model, optimizer, lambda: samples(0, SAMPLES), mse_loss if optimizer else None, **options
    )
    with context.tensors():
        work.load()
    return work


def test_gradients_are_clipped_to_the_norm(context):
    work = optioned(context, clip_grad=0.01)
    before = [parameter.detach().clone() for parameter in work.model.parameters()]
    work.step()
    moved = [now.detach() - then for now, then in zip(work.model.parameters(), before, strict=True)]
    assert sum(part.square().sum() for part in moved).sqrt().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_computes_in_the_given_type(context, precision):
    work = optioned(context, precision=precision)
    seen = []
    work.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    work.step()
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert work.optimizer.state  # an update that overflowed was tried again


def test_a_step_without_gradients_needs_no_optimizer(context):
    work = optioned(context, optimizer=False, no_grad=True)
    traced = trace_step(work, context)
    assert traced.allocator.residual_bytes == 0
    assert set(traced.breakdown.by_category) <= {"parameter", "input", "temporary"}
    with pytest.raises(ValueError, match="no_grad=True"):
        optioned(context, optimizer=False).step()


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "fp16", "clip_grad": 1.0}, {"no_grad": True}])
def test_options_need_the_same_bytes_on_fake_tensors(context, options):
    found = []
    for place in (context, Context(torch.device("cpu"), CpuFakeMode())):
        work = optioned(place, **options)
        with place.tensors():
            work.step()
            found.append(trace_step(work, place).breakdown.peak_bytes)
    assert found[0] == found[1] > 0
