from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from models.config import DataConfig, working_size
from models.data.loading.transforms import (
    Augmentation,
    centre_crop,
    jitter_colours,
    rotated_crop,
)

SIZE = 32
EVERYTHING = DataConfig(time_crop=0.3, rotation_degrees=15.0, channel_shuffle=1.0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([DataConfig(), EVERYTHING]))
def test_augmentation_is_the_same_for_all_frames_of_a_clip_and_never_mirrors(seed, data):
    picture = torch.full((3, 37, 37), 40, dtype=torch.uint8)
    picture[:, :, :12] = 180
    frames = Augmentation.draw(np.random.default_rng(seed), 4, data).apply(picture.expand(4, 3, 37, 37), SIZE)
    assert frames.shape == (4, 3, SIZE, SIZE)
    assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert frames[0, :, :, 0].float().mean() > frames[0, :, :, -1].float().mean() + 40


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.floats(0.0, 0.4))
def test_time_crop_takes_one_frame_of_each_segment_of_what_is_left(seed, count, time_crop):
    data = DataConfig(time_crop=time_crop)
    candidates = count * data.frames_per_segment
    edges = []
    for clip in range(5):
        place_T = Augmentation.draw(np.random.default_rng((seed, clip)), count, data).place_T
        assert (np.diff(place_T) >= 0).all()
        assert place_T[0] >= 0
        assert place_T[-1] < candidates
        # Whatever was cut off, what is left has count equal segments of at most the whole clip's length.
        assert (np.diff(place_T) < 2 * data.frames_per_segment).all()
        edges.append((place_T[0], candidates - 1 - place_T[-1]))
    if not time_crop:
        assert max(map(max, edges)) < data.frames_per_segment


def test_time_crop_cuts_off_both_ends_up_to_its_limit():
    data, count = DataConfig(time_crop=0.25), 16
    whole = count * data.frames_per_segment
    draws = [Augmentation.draw(np.random.default_rng(seed), count, data).place_T for seed in range(400)]
    before = np.array([place_T[0] / whole for place_T in draws])
    after = np.array([(whole - 1 - place_T[-1]) / whole for place_T in draws])
    for cut in (before, after):
        assert cut.min() < 0.03
        assert 0.23 < cut.max() < 0.25 + 1 / count
        assert abs(np.median(cut) - (0.125 + 0.5 / count)) < 0.03
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.2


def test_without_time_crop_one_of_two_frames_of_each_segment_is_taken():
    data = DataConfig()
    draws = np.stack([Augmentation.draw(np.random.default_rng(seed), 7, data).place_T for seed in range(60)])
    assert data.frames_per_segment == 2
    assert (draws // 2 == np.arange(7)).all()
    assert 0.4 < (draws % 2).mean() < 0.6


def test_channel_shuffle_gives_every_order_alike_and_off_none():
    orders = [Augmentation.draw(np.random.default_rng(seed), 4, EVERYTHING).channels for seed in range(600)]
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert min(counts) > 65
    assert max(counts) < 135
    draws = [Augmentation.draw(np.random.default_rng(seed), 4, DataConfig()) for seed in range(60)]
    assert {draw.channels for draw in draws} == {(0, 1, 2)}
    assert {draw.rotation_degrees for draw in draws} == {0.0}


def test_channels_are_taken_in_the_drawn_order():
    frames = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 37, 37)
    drawn = Augmentation.draw(np.random.default_rng(0), 2, DataConfig())
    plain = replace(drawn, brightness=1.0, contrast=1.0, saturation=1.0, channels=(2, 0, 1))
    taken = plain.apply(frames, SIZE)
    assert taken[1, :, 5, 5].tolist() == [200, 10, 100]


@pytest.mark.parametrize("degrees", [-30.0, 7.5, 20.0])
def test_rotation_equals_torchvisions(degrees):
    frames = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = functional.rotate(frames.double(), degrees, functional.InterpolationMode.BILINEAR)
    found = rotated_crop(frames, (0, 0, 40, 40), degrees, 40)
    inside = (..., slice(9, 31), slice(9, 31))  # a turned square's corners are filled in another way
    assert (found[inside] - expected[inside]).abs().max() <= 0.51


def test_a_quarter_turn_of_a_crop_off_the_middle_is_exact():
    frames = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    found = rotated_crop(frames, (3, 11, 32, 32), 90.0, 32)
    assert torch.equal(found, frames[..., 3:35, 11:43].rot90(1, (-2, -1)))


def test_a_rotated_crop_without_rotation_is_a_resized_crop():
    frames = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    box = (6, 9, 30, 26)
    found = rotated_crop(frames, box, 0.0, 32)
    crop = frames[..., 6:36, 9:35].double()
    expected = functional.resize(crop, [32, 32], antialias=False)
    inside = (..., slice(2, -2), slice(2, -2))  # the crop's own border pixels see what lies outside it
    assert (found[inside] - expected[inside]).abs().max() <= 0.51


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), *[st.floats(0.8, 1.2)] * 3)
def test_colour_jitter_equals_torchvisions_three_steps(seed, brightness, contrast, saturation):
    # Mild colours: the three steps clamp after each, one matrix only at the end.
    frames = torch.randint(60, 170, (3, 3, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    expected = functional.adjust_brightness(frames.double() / 255, brightness)
    expected = functional.adjust_saturation(functional.adjust_contrast(expected, contrast), saturation) * 255
    found = jitter_colours(frames, brightness, contrast, saturation)
    assert (found - expected).abs().max() < 0.75


def test_centre_crop_is_the_middle():
    frames = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    assert torch.equal(centre_crop(frames, 4), frames[..., 2:6, 2:6])


def test_pictures_are_as_large_as_they_seem():
    assert working_size(224) == 256
    assert working_size(112) == 128
