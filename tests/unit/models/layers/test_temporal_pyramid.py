"""Compares pyramid pooling with torch's adaptive pooling, and padding with no padding."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.layers.temporal import TemporalPyramid

level_lists = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), level_lists)
def test_equals_adaptive_average_pooling(frames, levels):
    x_BTD = torch.randn(2, frames, 5, dtype=torch.float64)
    expected = [F.adaptive_avg_pool1d(x_BTD.transpose(1, 2), level).transpose(1, 2) for level in levels]
    torch.testing.assert_close(TemporalPyramid(levels)(x_BTD), torch.cat(expected, 1))


def test_level_one_is_the_mean():
    x_BTD = torch.randn(3, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(TemporalPyramid([1])(x_BTD)[:, 0], x_BTD.mean(1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=10).filter(any), level_lists)
def test_padding_changes_nothing_at_any_position(kept, levels):
    keep_BT = torch.tensor([kept])
    x_BTD = torch.randn(1, len(kept), 3, dtype=torch.float64)
    pool = TemporalPyramid(levels)
    torch.testing.assert_close(pool(x_BTD, keep_BT), pool(x_BTD[:, keep_BT[0]]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8).filter(any), level_lists)
def test_token_counts_as_its_frames(sizes, levels):
    """Pooling tokens equals torch's pooling of their frames."""
    x_BTD = torch.randn(1, len(sizes), 3, dtype=torch.float64)
    frames_BDT = x_BTD.repeat_interleave(torch.tensor(sizes), 1).transpose(1, 2)
    expected = torch.cat([F.adaptive_avg_pool1d(frames_BDT, level) for level in levels], 2).transpose(1, 2)
    torch.testing.assert_close(TemporalPyramid(levels)(x_BTD, torch.tensor([sizes])), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), level_lists)
def test_windows_end_at_each_frame_and_are_shorter_at_the_beginning(frames, window, levels):
    pool = TemporalPyramid(levels)
    x_BTD = torch.randn(2, frames, 3, dtype=torch.float64)
    keep_BS = F.pad(torch.ones(2, frames, dtype=torch.bool), (window - 1, 0))
    pooled = pool.ending_at_each(F.pad(x_BTD, (0, 0, window - 1, 0)), keep_BS, window)
    assert pooled.shape == (2, frames, sum(levels), 3)
    for t in range(frames):
        torch.testing.assert_close(pooled[:, t], pool(x_BTD[:, max(0, t + 1 - window) : t + 1]))


def test_padding_gets_no_gradient_and_empty_clips_are_zero():
    keep_BT = torch.tensor([[True, True, False], [False, False, False]])
    x_BTD = torch.randn(2, 3, 4, requires_grad=True)
    out = TemporalPyramid([1, 2])(x_BTD, keep_BT)
    assert torch.equal(out[1], torch.zeros(3, 4))
    out.sum().backward()
    assert torch.equal(x_BTD.grad[~keep_BT], torch.zeros(4, 4))
    assert torch.equal(x_BTD.grad[0, :2], torch.full((2, 4), 1.5))  # half of the mean, and a span alone


def test_autocast_does_not_round_the_weights():
    x_BTD = torch.ones(1, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = TemporalPyramid([1])(x_BTD)
    torch.testing.assert_close(out, torch.ones(1, 1, 2), rtol=1e-6, atol=0)
