"""Recomputation: same gradients, same dropout, batch-norm statistics moved once."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.layers.recompute import recomputed


def network(momentum):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=momentum),
    ).double()  # fmt: skip


def step(model, run):
    torch.manual_seed(1)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    run(model, x).pow(2).flatten(1).sum(1).sin().sum().backward()
    return [parameter.grad for parameter in model.parameters()], list(model.buffers())


def ours(model, x):
    return recomputed(model, x, [model])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_gradients_and_statistics_equal_the_ordinary_step(momentum):
    expected = step(network(momentum), lambda model, x: model(x))
    assert all(torch.equal(a, b) for a, b in zip(expected[0], step(network(momentum), ours)[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected[1], step(network(momentum), ours)[1], strict=True))


def test_plain_checkpoint_moves_the_statistics_twice():
    """This control shows what happens without our context."""
    twice = step(network(0.1), lambda model, x: checkpoint(model, x, use_reentrant=False))[1]
    once = step(network(0.1), ours)[1]
    assert not torch.equal(twice[0], once[0])
    assert (int(twice[2]), int(once[2])) == (2, 1)


def test_buffers_are_the_same_objects_after_an_early_stop():
    """The last batch norm saves nothing that backward of the first layers needs, so recomputation stops before it."""
    model = network(0.1)
    before = list(model.buffers())
    reached = []
    model[5].register_forward_hook(lambda *_: reached.append(1))
    model.append(nn.Identity())
    model[6].register_forward_hook(lambda *_: reached.append(2))
    step(model, ours)
    assert reached.count(2) == 1  # not reached the second time
    assert all(a is b for a, b in zip(before, model.buffers(), strict=True))


def test_evaluation_mode_uses_the_statistics():
    model = network(0.1)
    step(model, ours)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(model, x), model(x), rtol=0, atol=0)
    ours(model, x).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_gradients_nothing_is_kept():
    model = network(0.1)
    with torch.no_grad():
        assert ours(model, torch.randn(2, 3, 8, 8, dtype=torch.float64)).grad_fn is None
