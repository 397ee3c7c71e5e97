"""Compares frame choice and merging with plain loops, and checks what must hold for any clip."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models.data.video.reader import uniform_indices
from models.layers.temporal import TemporalPyramid
from models.layers.temporal_resolution import (
    UNIFORM_SHARE,
    choose_frames,
    merge_frames,
    motion_energy,
    take_frames,
)

energies = st.lists(st.floats(0.0, 2.0**100, width=32), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(energies, st.data())
def test_chosen_frames_are_ascending_unique_and_in_range(energy, data):
    count = data.draw(st.integers(1, len(energy)))
    (chosen,) = choose_frames(torch.tensor([energy]), count).tolist()
    assert len(chosen) == count
    assert chosen == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < len(energy)


@settings(max_examples=30, deadline=None)
@given(energies)
def test_choosing_all_frames_returns_all_frames(energy):
    assert choose_frames(torch.tensor([energy]), len(energy)).tolist() == [list(range(len(energy)))]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.data())
def test_still_clip_gets_the_uniform_frames_of_the_loader(frames, data):
    count = data.draw(st.integers(1, frames))
    expected = uniform_indices(0, frames, count).numbers_T.tolist()
    assert choose_frames(torch.zeros(1, frames), count).tolist() == [expected]
    assert choose_frames(torch.full((1, frames), 0.3), count).tolist() == [expected]


def naive_choice(energy, count):
    """Take, for each step of the cumulative share, the frame where it is reached, or the next free one."""
    frames, total = len(energy), sum(energy)
    shares = [UNIFORM_SHARE / frames + (1 - UNIFORM_SHARE) * value / total for value in energy]
    chosen = []
    for step in range(count):
        reached = next(t for t in range(frames) if sum(shares[: t + 1]) > (step + 0.5) / count)
        free = max(reached, chosen[-1] + 1 if chosen else 0)
        chosen.append(min(free, frames - count + step))
    return chosen


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=16).filter(any), st.data())
def test_choice_equals_a_plain_loop(energy, data):
    count = data.draw(st.integers(1, len(energy)))
    energy = [value + 0.123 for value in energy]  # away from exact ties, which the naive sum rounds either way
    expected = naive_choice(energy, count)
    assert choose_frames(torch.tensor([energy], dtype=torch.float64), count).tolist() == [expected]


def test_frames_are_chosen_around_the_motion():
    energy = torch.zeros(2, 32)
    energy[0, 4:8], energy[1, 20:24] = 1.0, 1.0
    early, late = choose_frames(energy, 8).tolist()
    assert sum(4 <= t <= 8 for t in early) >= 4
    assert sum(20 <= t <= 24 for t in late) >= 4
    assert early[-1] > 20  # the still stretch keeps some
    assert late[0] < 12


def moving_square(frames_moving, dtype=torch.uint8):
    clip_TCHW = torch.full((12, 3, 40, 56), 20, dtype=torch.uint8)
    left = 0
    for t in range(12):
        left += 3 if t in frames_moving else 0
        clip_TCHW[t, :, 8:24, left : left + 16] = 220
    return clip_TCHW.to(dtype) if dtype == torch.uint8 else clip_TCHW.to(dtype) / 255


def test_energy_is_the_mean_change_of_coarse_grey_frames():
    clips_BTCHW = torch.stack([moving_square({3, 4, 7}), moving_square(())])
    energy_BT = motion_energy(clips_BTCHW)
    assert [t for t in range(12) if energy_BT[0, t] > 0] == [3, 4, 7]
    assert torch.equal(energy_BT[1], torch.zeros(12))
    coarse = F.adaptive_avg_pool2d(clips_BTCHW.double().mean(2), 28)
    torch.testing.assert_close(energy_BT[:, 1:], (coarse[:, 1:] - coarse[:, :-1]).abs().mean((2, 3)).float())


def test_uint8_and_float_clips_choose_the_same_frames():
    as_bytes, as_fractions = (moving_square({2, 5, 6}, kind)[None] for kind in (torch.uint8, torch.float32))
    assert torch.equal(choose_frames(motion_energy(as_bytes), 5), choose_frames(motion_energy(as_fractions), 5))


def test_taken_frames_are_a_copy_of_the_chosen_ones():
    clips_BTCHW = torch.randint(0, 256, (2, 6, 3, 4, 4), dtype=torch.uint8)
    chosen = [[0, 2, 5], [1, 2, 3]]
    taken = take_frames(clips_BTCHW, torch.tensor(chosen))
    for clip in (0, 1):
        assert torch.equal(taken[clip], clips_BTCHW[clip, chosen[clip]])
    assert taken.untyped_storage().nbytes() == 2 * 3 * 3 * 4 * 4


def naive_merge(x_TD, pairs):
    """Return tokens as lists of frames: each even frame's better neighbour, the most similar pairs first."""
    frames = len(x_TD)
    options = []
    for even in range(0, frames, 2):
        beside = [t for t in (even - 1, even + 1) if 0 <= t < frames]
        if beside:
            options.append(max((F.cosine_similarity(x_TD[even], x_TD[t], dim=0).item(), -t, even) for t in beside))
    tokens = {t: [t] for t in range(frames)}
    for _, odd, even in sorted(options, reverse=True)[:pairs]:
        tokens[-odd] += tokens.pop(even)
    members = sorted(sorted(token) for token in tokens.values())
    return torch.stack([x_TD[token].mean(0) for token in members]), [len(token) for token in members]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_merging_equals_a_plain_loop(frames, data):
    pairs = data.draw(st.integers(0, frames // 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    x_BTD = torch.randn(2, frames, 5, dtype=torch.float64, generator=generator)
    merged_BKD, size_BK = merge_frames(x_BTD, pairs)
    assert merged_BKD.shape == (2, frames - pairs, 5)
    for clip in (0, 1):
        expected, sizes = naive_merge(x_BTD[clip], pairs)
        assert size_BK[clip].tolist() == sizes
        torch.testing.assert_close(merged_BKD[clip], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.data())
def test_first_level_of_the_pyramid_stays_the_mean_over_frames(frames, data):
    pairs = data.draw(st.integers(0, frames // 2))
    x_BTD = torch.randn(3, frames, 4, dtype=torch.float64)
    merged_BKD, size_BK = merge_frames(x_BTD, pairs)
    torch.testing.assert_close(TemporalPyramid([1, 2])(merged_BKD, size_BK)[:, 0], x_BTD.mean(1))


def test_merging_nothing_is_the_identity():
    x_BTD = torch.randn(2, 5, 3)
    merged, sizes = merge_frames(x_BTD, 0)
    assert merged is x_BTD
    assert sizes.tolist() == [[1] * 5] * 2


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_frames_of_a_token_share_its_gradient(pairs):
    x_BTD = torch.randn(1, 7, 4, dtype=torch.float64, requires_grad=True)
    merged, sizes = merge_frames(x_BTD, pairs)
    merged.sum().backward()
    expected = torch.cat([torch.full((n,), 1 / n, dtype=torch.float64) for n in sizes[0].tolist()])
    torch.testing.assert_close(x_BTD.grad[0], expected.unsqueeze(1).expand(7, 4))


def test_autocast_does_not_round_the_means():
    x_BTD = torch.ones(1, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        merged, _ = merge_frames(x_BTD, 1)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, torch.ones(1, 2, 2), rtol=1e-6, atol=0)


def test_works_on_fake_tensors():
    with FakeTensorMode():
        clips_BTCHW = torch.zeros(2, 6, 3, 32, 32, dtype=torch.uint8)
        taken = take_frames(clips_BTCHW, choose_frames(motion_energy(clips_BTCHW), 4))
        assert taken.shape == (2, 4, 3, 32, 32)
        merged, sizes = merge_frames(torch.randn(2, 6, 8, requires_grad=True), 2)
        merged.sum().backward()
        assert merged.shape == (2, 4, 8)
        assert sizes.shape == (2, 4)
