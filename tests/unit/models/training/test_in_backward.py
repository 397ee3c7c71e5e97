"""The optimizer inside backward: the same weights bit for bit, fewer gradient bytes, exact resume."""

import copy

import pytest
import torch
from tiny import TinyBatch, TinyLoader, TinyNet, tiny_config
from torch import nn

from models.config import ModelConfig
from models.networks.efficient import build_recogniser
from models.training.checkpoint import TrainingIdentity, load_checkpoint, save_checkpoint
from models.training.optimization import build_optimizer, update_in_backward
from models.training.stepper import Stepper
from slr_bench.trace.recorder import Recorder


def config(in_backward, **changes):
    values = {"gradient_accumulation_steps": 1, "gradient_clip_norm": None, "optimizer_in_backward": in_backward}
    return tiny_config(**(values | changes))


def trained(in_backward, optimizer):
    torch.manual_seed(0)
    settings = ModelConfig(num_classes=3, base_channels=8, num_frames=2, pyramid_levels=(1, 2))
    stepper = Stepper(build_recogniser(settings, "block"), config(in_backward, optimizer=optimizer), "cpu", 6)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        clips_BTCHW = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
        stepper.step([TinyBatch(clips_BTCHW, torch.tensor([0, 2]), ())], 2)
    return stepper


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weights_and_state_equal_the_ordinary_step_bit_for_bit(optimizer):
    expected, found = trained(False, optimizer), trained(True, optimizer)
    assert found.schedule.get_last_lr() == expected.schedule.get_last_lr()
    for (name, a), b in zip(found.model.named_parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.grad is None
        for key, value in expected.optimizer.state[b].items():
            assert torch.equal(found.optimizer.state[a][key], value), (name, key)
    assert found.optimizer.state_dict()["param_groups"] == expected.optimizer.state_dict()["param_groups"]


LAYERS, WIDTH = 6, 64


def traced_peak(in_backward):
    """SGD without momentum on a chain of equal layers has no state and activations of one row."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if in_backward:
        update_in_backward(optimizer)
    x = torch.ones(1, WIDTH)

    def step():
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with Recorder(torch.device("cpu"), {"parameter": list(model.parameters()), "input": [x]}) as recorder:
        step()
    return recorder.peak_bytes


def test_all_gradients_except_one_are_saved():
    matrix, rows = 4 * WIDTH * WIDTH, 4 * WIDTH * (LAYERS + 2)
    assert traced_peak(False) - traced_peak(True) == pytest.approx((LAYERS - 1) * matrix, abs=rows)


def tiny_stepper(in_backward, seed=0):
    torch.manual_seed(seed)
    return Stepper(TinyNet(dropout=0.0), config(in_backward), "cpu", 6)


def parts(stepper):
    return {"model": stepper.model, "optimizer": stepper.optimizer, "schedule": stepper.schedule}


def identity(stepper):
    return TrainingIdentity({"training": stepper.config.model_dump(mode="json")}, 6)


@pytest.mark.parametrize("resumed_in_backward", [True, False])
def test_checkpoint_resumes_exactly_with_and_without_it(tmp_path, resumed_in_backward):
    batches = list(TinyLoader(16, 4))
    whole = tiny_stepper(True)
    for number, batch in enumerate(batches):
        if number == 2:
            save_checkpoint(tmp_path / "c.pt", parts(whole), identity(whole), {})
        whole.step([batch], 4)
    resumed = tiny_stepper(resumed_in_backward, seed=9)
    load_checkpoint(tmp_path / "c.pt", parts(resumed), identity(resumed))
    for batch in batches[2:]:
        resumed.step([batch], 4)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_frozen_parameters_do_not_change():
    model = TinyNet()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    update_in_backward(build_optimizer(model, config(True)))
    model(TinyLoader(4, 4).clips_NTCHW).sum().backward()
    assert torch.equal(model.conv.weight, before["conv.weight"])
    assert not torch.equal(model.head.weight, before["head.weight"])
