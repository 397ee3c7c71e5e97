"""Channels last: every activation is in NHWC, and the step is the same except for rounding."""

import pytest
import torch
from tiny import TinyBatch, tiny_config
from torch import nn

from models.config import ModelConfig
from models.layers.placement import to_channels_last
from models.layers.pooled_relu import PooledReLU
from models.networks.efficient import build_recogniser
from models.training.stepper import Stepper

CLIPS_BTCHW = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def recogniser(recompute="none", **changes):
    torch.manual_seed(0)
    values = {"num_classes": 3, "base_channels": 8, "num_frames": 2, "pyramid_levels": (1, 2), "dropout": 0.0}
    return build_recogniser(ModelConfig(**(values | changes)), recompute)


def is_nhwc(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shift", ["none", "plain", "memory_efficient"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_activation_and_gradient_is_in_nhwc(shift, norm):
    model = recogniser(temporal_shift=shift, norm=norm)
    to_channels_last(model)
    seen = []

    def watch(name, out):
        seen.append((name, is_nhwc(out)))
        out.register_hook(lambda grad: seen.append((f"gradient of {name}", is_nhwc(grad))))

    for name, module in model.backbone.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, PooledReLU)):
            module.register_forward_hook(lambda _, inputs, out, name=name: watch(name, out))
    model(CLIPS_BTCHW).sum().backward()
    assert len(seen) == 2 * (20 + 20 + 1)  # convolutions, norms, pooling
    assert [name for name, nhwc in seen if not nhwc] == []


@pytest.mark.parametrize("recompute", ["none", "block", "budget:8"])
def test_the_step_is_the_same_in_double_precision(recompute):
    results = []
    for channels_last in (False, True):
        model = recogniser(recompute).double()
        config = tiny_config(optimizer="sgd", channels_last=channels_last)
        stepper = Stepper(model, config, "cpu", 5)
        stepper.step([TinyBatch(CLIPS_BTCHW, torch.tensor([0, 2]), ())], 2)
        assert is_nhwc(model.backbone.layer1[0].conv2.weight) == channels_last
        results.append(model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-8, atol=1e-11)


def test_names_values_and_identity_stay_and_volumes_are_converted_too():
    model = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    to_channels_last(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
