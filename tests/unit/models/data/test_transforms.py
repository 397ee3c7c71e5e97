import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from models.data.transforms import Augmentation, centre_crop, jitter_colours, working_size

SIZE = 32


@given(st.integers(0, 2**32))
def test_augmentation_is_the_same_for_all_frames_of_a_clip_and_never_mirrors(seed):
    picture = torch.full((3, 37, 37), 40, dtype=torch.uint8)
    picture[:, :, :12] = 180
    frames = Augmentation.draw(np.random.default_rng(seed), 4).apply(picture.expand(4, 3, 37, 37), SIZE)
    assert frames.shape == (4, 3, SIZE, SIZE)
    assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert frames[0, :, :, 0].float().mean() > frames[0, :, :, -1].float().mean() + 40


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
