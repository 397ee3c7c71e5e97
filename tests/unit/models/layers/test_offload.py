"""Activations in host memory, with a dictionary as the host that counts the copies."""

import pytest
import torch
from tiny import TinyNet, tiny_config
from torch import nn

from models.layers.placement import SMALLEST_BYTES, offloaded
from models.layers.recompute import recomputed
from models.networks.backbone import FrameBackbone
from models.training import stepper as stepper_module
from models.training.stepper import Stepper


class Host:
    """Stands in for page-locked memory."""

    def __init__(self):
        self.copies = []

    def __call__(self, tensor):
        self.copies.append(tensor.clone())
        return self.copies[-1]


def gradients(model, x, host=None, smallest_bytes=0, run=None):
    if host is None:
        out = (run or model)(x)
    else:
        with offloaded(model, host, smallest_bytes):
            out = (run or model)(x)
    model.zero_grad()
    out.float().square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("recompute", ["none", "block", "budget:1"])
@pytest.mark.parametrize("shift", ["plain", "memory_efficient"])
def test_gradients_are_the_same_bit_for_bit(recompute, shift):
    torch.manual_seed(0)
    backbone = FrameBackbone("resnet18", 8, 2, shift, recompute)
    clips_BTCHW = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    expected = gradients(backbone, clips_BTCHW)
    host = Host()
    found = gradients(backbone, clips_BTCHW, host)
    assert host.copies
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_parameters_stay_and_tensors_saved_twice_are_copied_once():
    """Sigmoid and the product behind it both save its output; the product's weight is a parameter's view."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Sigmoid(), nn.Linear(16, 4, bias=False))
    host = Host()
    gradients(model, torch.randn(32, 8), host)
    shapes = [tuple(copy.shape) for copy in host.copies]
    assert sorted(shapes) == [(32, 8), (32, 16)]


def test_tensor_changed_in_place_between_two_savings_is_copied_twice():
    x = torch.rand(10, requires_grad=True)
    host = Host()
    with offloaded(nn.Identity(), host, 0):
        y = x.exp()  # saves its result ...
        z = y.detach()
        z.add_(1)  # ... which is spoilt behind autograd's back
        y.sin()
    assert len(host.copies) == 2
    assert torch.equal(host.copies[1], host.copies[0] + 1)


def test_small_tensors_stay_on_the_device():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Sigmoid(), nn.Linear(16, 4, bias=False))
    host = Host()
    gradients(model, torch.randn(32, 8), host, smallest_bytes=4 * 32 * 16)
    assert [tuple(copy.shape) for copy in host.copies] == [(32, 16)]
    assert SMALLEST_BYTES == 2**20


def test_only_the_input_of_a_recomputed_part_is_copied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh())
    x = torch.randn(5, 8, requires_grad=True)
    expected = gradients(model, x)
    host = Host()
    found = gradients(model, x, host, run=lambda x: recomputed(model, x, []))
    assert host.copies
    assert all(torch.equal(copy, x) for copy in host.copies)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_reused_address_is_a_different_tensor():
    """Each saved tensor dies immediately, so the next one gets its memory."""
    host = Host()
    x = torch.ones(4096, requires_grad=True)
    with offloaded(nn.Identity(), host, 0):
        y = x
        for _ in range(4):
            y = (y * 2).sin()
    y.sum().backward()
    expected = torch.ones(4096, dtype=torch.float64, requires_grad=True)
    z = expected
    for _ in range(4):
        z = (z * 2).sin()
    z.sum().backward()
    torch.testing.assert_close(x.grad.double(), expected.grad, rtol=1e-5, atol=1e-6)


def test_offloading_on_a_cpu_has_no_effect_and_warns(monkeypatch):
    monkeypatch.setattr(stepper_module, "offloaded", None)  # never asked for
    with pytest.warns(UserWarning, match="activation_offload has no effect on a CPU"):
        stepper = Stepper(TinyNet(), tiny_config(activation_offload=True), "cpu", 5)
    with stepper._saving():
        pass


def test_forward_pass_is_offloaded_on_other_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(stepper_module, "offloaded", asked.append)
    stepper = Stepper(TinyNet().to("meta"), tiny_config(activation_offload=True), "meta", 5)
    stepper._saving()
    assert asked == [stepper.model]
