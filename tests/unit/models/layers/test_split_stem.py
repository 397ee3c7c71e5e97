"""Compares the split stem with torch's own operators on all frames at once."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.layers.pooled_relu import PooledReLU
from models.layers.split_stem import PARTS, split_stem
from models.networks.backbone import FrameBackbone
from slr_bench.live_bytes import NewBytes


def make(norm="batch", channels=4, dtype=torch.float64):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    norm = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(2, channels)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.uniform_(norm.bias, -1, 1)
    return nn.ModuleList([conv, norm, PooledReLU("memory_efficient")]).to(dtype)


def prepare(frames_NCHW):
    return frames_NCHW.to(torch.float64 if frames_NCHW.dtype != torch.float32 else torch.float32) / 255


def after_step(parts, frames_NCHW, run):
    """Return output, gradients and buffers after forward and backward."""
    parts = copy.deepcopy(parts)
    out = run(parts, frames_NCHW)
    torch.manual_seed(1)
    out.backward(torch.randn_like(out))
    return [out.detach(), *(p.grad for p in parts.parameters()), *parts.buffers()]


def whole_stem(parts, frames_NCHW):
    conv, norm, _ = parts
    return torch.relu(nn.functional.max_pool2d(norm(conv(prepare(frames_NCHW))), 3, 2, 1))


def split(parts, frames_NCHW):
    conv, norm, pool = parts
    return split_stem(frames_NCHW, conv, norm, pool, prepare)


@settings(deadline=None, max_examples=40)
@given(
    frames=st.integers(1, 70),
    height=st.integers(7, 21),
    width=st.integers(7, 21),
    kind=st.sampled_from(["batch", "group"]),
)
def test_outputs_gradients_and_statistics_equal_torch(frames, height, width, kind):
    frames_NCHW = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    parts = make(kind)
    for found, expected in zip(
        after_step(parts, frames_NCHW, split), after_step(parts, frames_NCHW, whole_stem), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_frames_of_unequal_brightness_share_their_statistics():
    """The means of the parts lie far apart, so statistics per part would be far off."""
    frames_NCHW = torch.randint(0, 20, (64, 3, 16, 16), dtype=torch.uint8)
    frames_NCHW[40:] += 200
    parts = make()
    found, expected = (after_step(parts, frames_NCHW, run) for run in (split, whole_stem))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    conv, norm, _ = make()
    alone = torch.cat([norm(conv(prepare(piece))) for piece in frames_NCHW.split(2)])
    assert not torch.allclose(norm(conv(prepare(frames_NCHW))), alone, atol=0.1)


def test_evaluation_uses_the_running_statistics_and_moves_none():
    frames_NCHW = torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8)
    parts = make()
    split(parts, frames_NCHW)
    parts.eval()
    before = [buffer.clone() for buffer in parts.buffers()]
    torch.testing.assert_close(split(parts, frames_NCHW), whole_stem(parts, frames_NCHW))
    assert all(torch.equal(one, other) for one, other in zip(before, parts.buffers(), strict=True))


@pytest.mark.parametrize("recompute", ["none", "block", "stage", "lowest"])
def test_backbone_with_split_stem_is_the_same_and_moves_statistics_once(recompute):
    clips_BTCHW = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    results = []
    for stem in ("whole", "split"):
        torch.manual_seed(0)
        backbone = FrameBackbone("resnet18", 8, 4, "plain", recompute, stem=stem).double()
        backbone(clips_BTCHW).square().sum().backward()
        assert backbone.bn1.num_batches_tracked == 1
        results.append([*(p.grad for p in backbone.parameters()), *backbone.buffers()])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


def test_only_the_frames_and_pooled_numbers_are_kept():
    frames_NCHW = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    conv, norm, pool = make(dtype=torch.float32)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def floats(frames):
        return frames.float() / 255

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        split_stem(frames_NCHW, conv, norm, pool, floats)
    pooled = 64 * 4 * 8 * 8
    small = 4 * (conv.weight.numel() + 3 * 4)  # the weight, the norm's, mean and variance
    assert sum(kept.values()) == frames_NCHW.numel() + pooled + small


def test_no_tensor_of_all_frames_is_allocated():
    frames_NCHW = torch.randint(0, 256, (128, 3, 64, 64), dtype=torch.uint8)
    conv, norm, pool = make(channels=16, dtype=torch.float32)

    def floats(frames):
        return frames.float() / 255

    def peak(run):
        with NewBytes(frames_NCHW.device) as live:
            out = run()
            out.backward(torch.ones_like(out))
        return live.peak_bytes

    behind_conv = 128 * 16 * 32 * 32 * 4
    assert peak(lambda: pool(norm(conv(floats(frames_NCHW))))) > 2 * behind_conv
    # Pooled frames and their gradient, a byte an output, and some copies of a 32nd of the frames.
    assert peak(lambda: split_stem(frames_NCHW, conv, norm, pool, floats)) < (2 / 4 + 1 / 16 + 7 / PARTS) * behind_conv
