"""``adamw_8bit``: refused without its library; the size and effect of its state with it."""

import sys
from types import ModuleType

import pytest
import torch
from tiny import TinyNet, tiny_config
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from models.training.optimization import build_optimizer, update_in_backward
from slr_bench.errors import UnsupportedSettingError

CONFIG = tiny_config(optimizer="adamw_8bit", learning_rate=0.01, weight_decay=0.1)


def test_missing_torchao_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UnsupportedSettingError, match=r"needs the package torchao.*pip install torchao.*adamw$"):
        build_optimizer(TinyNet(), CONFIG)


class StandIn(torch.optim.AdamW):
    """Optimizer that keeps learning rates as tensors and requires them, as torchao's does."""

    def add_param_group(self, group):
        super().add_param_group(group)
        self.param_groups[-1]["lr"] = torch.tensor(self.param_groups[-1]["lr"])

    def step(self, closure=None):
        assert all(isinstance(group["lr"], torch.Tensor) for group in self.param_groups)
        self.seen = [group["lr"].item() for group in self.param_groups]
        return super().step(closure)


@pytest.fixture
def torchao(monkeypatch):
    optim, states = ModuleType("torchao.optim"), ModuleType("torchao.optim.subclass_8bit")
    optim.AdamW8bit = StandIn
    states.OptimState8bit = type("State", (), {"zeros": staticmethod(lambda *args, **kwargs: None)})
    for name, module in (("torchao", ModuleType("torchao")), (optim.__name__, optim), (states.__name__, states)):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("torchao")
def test_rates_are_numbers_between_steps_and_follow_the_schedule():
    model = TinyNet()
    optimizer = build_optimizer(model, CONFIG)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    seen = []
    for _ in range(2):
        model(torch.zeros(2, 1, 3, 9, 9)).sum().backward()
        optimizer.step()
        schedule.step()
        seen.append(optimizer.seen)
    assert decays == [0.1, 0.0]
    assert seen == [pytest.approx([0.01, 0.01]), pytest.approx([0.005, 0.005])]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 / 3] * 2, rel=1e-12)
    assert all(type(group["lr"]) is float for group in optimizer.param_groups)


def stepped(optimizer_name, steps=5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128, bias=False), nn.Tanh(), nn.Linear(128, 4, bias=False))
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"optimizer": optimizer_name}))
    for _ in range(steps):
        model(torch.randn(8, 64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_state_takes_one_byte_per_number_and_a_scale_per_block():
    pytest.importorskip("torchao")
    model, optimizer = stepped("adamw_8bit")
    large, small = model[0].weight, model[2].weight  # 8192 and 512 numbers: below 4096 the moments are fp32
    for moment in ("exp_avg", "exp_avg_sq"):
        state = optimizer.state[large][moment]
        assert (state.codes.nbytes, state.scale.nbytes, state.qmap.nbytes) == (8192, 8192 // 256 * 4, 256 * 4)
        assert optimizer.state[small][moment].nbytes == 512 * 4


def test_weights_stay_near_those_of_full_moments():
    pytest.importorskip("torchao")
    (found, _), (expected, _), (still, _) = stepped("adamw_8bit"), stepped("adamw"), stepped("adamw", steps=0)
    moved = expected[0].weight - still[0].weight
    assert (found[0].weight - expected[0].weight).norm() < 0.1 * moved.norm()


def test_vanishing_gradient_moves_its_weight_no_further_than_full_moments():
    """Its second moment is small in its block and would round to zero; the next step would divide by ``eps`` alone."""
    pytest.importorskip("torchao")
    moved = []
    for name in ("adamw_8bit", "adamw"):
        weight = nn.Linear(64, 64, bias=False)
        nn.init.zeros_(weight.weight)
        optimizer = build_optimizer(weight, CONFIG.model_copy(update={"optimizer": name, "weight_decay": 0.0}))
        for small in (1e-4, 0.0):
            weight.weight.grad = torch.ones(64, 64)
            weight.weight.grad[0, 0] = small
            optimizer.step()
        moved.append(weight.weight.detach()[0, 0].abs().item())
    assert moved[0] <= moved[1] < 0.02


def test_optimizer_in_backward_gives_the_same_weights():
    pytest.importorskip("torchao")
    expected, _ = stepped("adamw_8bit")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128, bias=False), nn.Tanh(), nn.Linear(128, 4, bias=False))
    update_in_backward(build_optimizer(model, CONFIG))
    for _ in range(5):
        model(torch.randn(8, 64)).square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_state_loads_exactly(tmp_path):
    pytest.importorskip("torchao")
    _, optimizer = stepped("adamw_8bit")
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    _, other = stepped("adamw_8bit", steps=1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for before, after in zip(optimizer.state.values(), other.state.values(), strict=True):
        for moment in ("exp_avg", "exp_avg_sq"):
            pairs = [(before[moment], after[moment])]
            if hasattr(before[moment], "codes"):
                pairs = [(getattr(before[moment], part), getattr(after[moment], part)) for part in ("codes", "scale")]
            assert all(torch.equal(a, b) for a, b in pairs)
