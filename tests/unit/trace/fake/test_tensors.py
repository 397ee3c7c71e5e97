"""Tests of swapping modules for fake tensors, and of the one-line refusals of what cannot be traced."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from slr_bench.errors import UnsupportedSettingError
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.fake.tensors import CpuFakeMode, explained, refusals_explained, swap_for_fake

CPU = torch.device("cpu")


class Loose(nn.Module):
    """Unregistered tensors: an attribute, a list, a dict, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = torch.ones(4)
        self.shifts = [torch.ones(4), (self.scale,)]
        self.table = {"mask": torch.ones(4)}
        self.names = ["a", "b"]

    def forward(self, x):
        return self.layer(x) * self.scale + self.shifts[0] + self.shifts[1][0] + self.table["mask"]


def test_tensors_that_are_plain_attributes_are_swapped_and_stay_shared():
    names = (model := Loose()).names
    mode = CpuFakeMode()
    swap_for_fake(model, mode)
    assert model.shifts[1][0] is model.scale
    assert isinstance(model.table["mask"], FakeTensor)
    assert model.names is names
    with mode:
        assert model(torch.ones(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=lambda wrap: wrap.__name__,
)
def test_parametrized_modules_train(wrap):
    mode = CpuFakeMode()
    model = swap_for_fake(wrap(nn.Linear(4, 4)), mode)
    with mode:
        model(torch.ones(2, 4)).sum().backward()
    assert all(isinstance(parameter.grad, FakeTensor) for parameter in model.parameters())


def test_a_constant_counts_once_under_fake_tensors():
    with CpuFakeMode(), LiveBytes(CPU, {}, fake=True) as tracer:
        constant = torch.tensor([1.0, 2.0])
    assert tracer.peak_bytes == constant.untyped_storage().nbytes() == 8


def test_a_lazy_module_is_refused_with_the_cure():
    with pytest.raises(
        UnsupportedSettingError, match=r"0\.weight has no shape before the first forward.*give the sizes"
    ):
        swap_for_fake(nn.Sequential(nn.LazyLinear(3)), CpuFakeMode())


@pytest.mark.parametrize(
    ("step", "operator"),
    [
        (lambda x: x.sum().item(), "aten._local_scalar_dense.default"),
        (lambda x: x[x > 0], "aten.nonzero.default"),
        (lambda x: torch.unique(x), "aten._unique2.default"),
    ],
)
def test_step_that_needs_contents_is_refused_in_one_line(step, operator):
    def traced() -> None:
        with refusals_explained(), CpuFakeMode(), LiveBytes(CPU, {}):
            step(torch.ones(3))

    with pytest.raises(UnsupportedSettingError) as raised:
        traced()
    text = str(raised.value)
    assert f"operator {operator} needs the contents of a tensor" in text
    assert "test_tensors.py:" in text
    assert "\n" not in text
    assert "/" not in text


def test_a_real_tensor_among_fake_ones_is_named():
    outside = torch.ones(3)

    def traced() -> None:
        with refusals_explained(), CpuFakeMode():
            torch.ones(3) + outside

    with pytest.raises(UnsupportedSettingError, match=r"aten\.add\.Tensor was given a real tensor.*test_tensors\.py"):
        traced()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_padding_mask_that_makes_a_nested_tensor_is_unsupported_with_the_cure():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1).eval()
    mode = CpuFakeMode()
    swap_for_fake(encoder, mode)

    def traced() -> None:
        with refusals_explained(), mode, torch.no_grad():
            encoder(torch.zeros(2, 4, 8), src_key_padding_mask=torch.zeros(2, 4, dtype=torch.bool))

    with pytest.raises(UnsupportedSettingError, match=r"nested tensor.*test_tensors\.py.*enable_nested_tensor=False"):
        traced()


def test_views_among_buffers_share_their_storage():
    model = nn.Module()
    model.register_buffer("whole", torch.zeros(100))
    model.register_buffer("part", model.whole[:10])
    swap_for_fake(model, CpuFakeMode())
    assert LiveBytes(CPU, {"buffer": model.buffers()}).live_bytes == 400


def test_other_errors_pass_unchanged():
    assert explained(RuntimeError("shapes do not fit")) is None

    def traced() -> None:
        with refusals_explained(), CpuFakeMode():
            torch.ones(2, 3) @ torch.ones(2, 3)

    with pytest.raises(RuntimeError, match="same reduction dim"):
        traced()
