"""The shift against a frame-by-frame loop; the memory-efficient form against the plain one, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from models.layers.recompute import recomputed
from models.layers.temporal import FrameHistory, ShiftedConv2d, shift_frames

sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.sampled_from([8, 16, 20]), st.integers(1, 3))


def naive_shift(x_BTCHW, causal=False):
    frames, fold = x_BTCHW.shape[1], x_BTCHW.shape[2] // 8
    out = x_BTCHW.clone()
    for t in range(frames):
        if causal:
            out[:, t, :fold] = x_BTCHW[:, t - 1, :fold] if t > 0 else 0
            continue
        out[:, t, :fold] = x_BTCHW[:, t + 1, :fold] if t + 1 < frames else 0
        out[:, t, fold : 2 * fold] = x_BTCHW[:, t - 1, fold : 2 * fold] if t > 0 else 0
    return out


@settings(max_examples=30, deadline=None)
@given(sizes, st.booleans())
def test_shift_equals_a_plain_loop_and_keeps_its_input(size, causal):
    clips, frames, channels, side = size
    x = torch.randn(clips, frames, channels, side, side)
    before = x.clone()
    assert torch.equal(shift_frames(x.flatten(0, 1), frames, causal=causal), naive_shift(x, causal).flatten(0, 1))
    assert torch.equal(x, before)


@settings(max_examples=30, deadline=None)
@given(sizes, st.booleans())
def test_reverse_is_the_adjoint(size, causal):
    clips, frames, channels, side = size
    x, y = torch.randn(2, clips * frames, channels, side, side, dtype=torch.float64)
    left = (shift_frames(x, frames, causal=causal) * y).sum()
    right = (x * shift_frames(y, frames, reverse=True, causal=causal)).sum()
    torch.testing.assert_close(left, right)


def residual_step(kind, *, stride=1, recompute=False, autocast=False, dtype=torch.float64, causal=False):
    """Return output and gradients of input, weight and scale of a block between in-place ReLUs, as in the backbone."""
    torch.manual_seed(0)
    conv = ShiftedConv2d(16, 16, stride, num_frames=4, kind=kind, causal=causal).to(dtype)
    scale = torch.ones(1, 16, 1, 1, dtype=dtype, requires_grad=True)
    x = torch.randn(8, 16, 6, 6, dtype=dtype, requires_grad=True)

    def block(x_NCHW):
        shortcut = x_NCHW if stride == 1 else x_NCHW[..., ::stride, ::stride]
        return ((conv(x_NCHW) * scale).relu_() * scale).add_(shortcut).relu_()

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        inside = (x * scale).relu_()
        out = recomputed(block, inside, []) if recompute else block(inside)
    out.float().square().sum().backward()
    return out, x.grad, conv.weight.grad, scale.grad


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("autocast", "dtype"), [(False, torch.float64), (False, torch.float32), (True, torch.float32)])
def test_memory_efficient_equals_plain(stride, recompute, autocast, dtype, causal):
    arms = [
        residual_step(kind, stride=stride, recompute=recompute, autocast=autocast, dtype=dtype, causal=causal)
        for kind in ("plain", "memory_efficient")
    ]
    for plain, efficient in zip(*arms, strict=True):
        assert plain.dtype == efficient.dtype
        assert torch.equal(plain, efficient)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from(["plain", "memory_efficient"]))
def test_causal_shift_in_pieces_equals_one_pass(pieces, kind):
    frames = sum(pieces)
    conv = ShiftedConv2d(16, 8, 2, num_frames=frames, kind=kind, causal=True).double()
    x_TCHW = torch.randn(frames, 16, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        offline = conv(x_TCHW)
        conv.history = FrameHistory(1, dim=0)
        in_pieces = torch.cat([conv(piece) for piece in x_TCHW.split(pieces)])
    torch.testing.assert_close(in_pieces, offline, rtol=1e-12, atol=1e-12)


def test_frozen_input_or_weight_leaves_the_other_gradient():
    conv = ShiftedConv2d(8, 8, 1, num_frames=2, kind="memory_efficient")
    x = torch.randn(4, 8, 5, 5)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    conv.weight.requires_grad_(False)
    x.requires_grad_(True)
    conv(x).sum().backward()
    assert x.grad is not None


def saved_bytes(kind):
    conv = ShiftedConv2d(16, 16, 1, num_frames=4, kind=kind)
    inside = torch.randn(8, 16, 6, 6, requires_grad=True).relu()
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = conv(inside)
    assert out.requires_grad
    known = {inside.untyped_storage().data_ptr(), conv.weight.untyped_storage().data_ptr()}
    return sum(size for address, (_, size) in storages.items() if address not in known)


def test_memory_efficient_shift_keeps_only_its_input():
    assert saved_bytes("memory_efficient") == 0
    assert saved_bytes("plain") == 8 * 16 * 6 * 6 * 4


def test_works_on_fake_tensors():
    with FakeTensorMode():
        conv = ShiftedConv2d(16, 32, 2, num_frames=4, kind="memory_efficient")
        x = torch.randn(8, 16, 6, 6, requires_grad=True)
        out = conv(x)
        out.sum().backward()
        assert out.shape == (8, 32, 3, 3)
        assert x.grad.shape == x.shape
