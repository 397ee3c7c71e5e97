"""Compares the compact pooling with torch's own two operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.layers.pooled_relu import PooledReLU

extents = st.integers(1, 13)


def both(x, grad_seed=0):
    """Return output and gradient of either kind, and of torch's operators in the other order."""
    results = []
    for run in (PooledReLU("memory_efficient"), PooledReLU("plain"), lambda x: F.max_pool2d(F.relu(x), 3, 2, 1)):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        out = run(leaf)
        torch.manual_seed(grad_seed)
        out.backward(torch.randn_like(out))
        results.append((out.detach(), leaf.grad))
    return results


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 3), extents, extents, st.sampled_from(["f32", "bf16", "ties"]))
def test_outputs_and_gradients_equal_torch_bit_for_bit(frames, channels, height, width, kind):
    torch.manual_seed(height * 17 + width)
    x = torch.randn(frames, channels, height, width)
    if kind == "ties":
        x = x.round()  # many windows with several greatest numbers, many of them zero
    elif kind == "bf16":
        x = x.bfloat16()
    found, plain, _ = both(x)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_relu_after_pooling_gives_the_same_result(dtype):
    found, _, relu_first = both(torch.randn(5, 4, 14, 11, dtype=dtype))
    assert torch.equal(found[0], relu_first[0])
    torch.testing.assert_close(found[1], relu_first[1])


def test_channels_last_format_is_kept():
    x = torch.randn(4, 8, 12, 10).to(memory_format=torch.channels_last)
    found, plain, _ = both(x)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in found)


def test_nan_and_infinity_pass_as_in_torch():
    x = torch.randn(2, 1, 6, 6)
    x[0, 0, 2, 2], x[1, 0, 0, 0], x[1, 0, 5, 5] = float("nan"), float("inf"), -float("inf")
    found, plain, _ = both(x)
    assert torch.equal(found[0].nan_to_num(7), plain[0].nan_to_num(7))
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize("width", [125, 126, 127, 300])
def test_wide_planes_need_two_bytes_per_offset(width):
    found, plain, _ = both(torch.randn(2, 2, 5, width))
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])


@pytest.mark.parametrize(("kind", "kept_bytes"), [("memory_efficient", 1), ("plain", 4 * 4 + 8 + 4)])
def test_kept_bytes_per_output(kind, kept_bytes):
    """Compact keeps the offset. Plain keeps four inputs per output, an int64 index, and the output for the ReLU."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randn(16, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = PooledReLU(kind)(x)
    assert sum(t.untyped_storage().nbytes() for t in kept.values()) == out.numel() * kept_bytes
