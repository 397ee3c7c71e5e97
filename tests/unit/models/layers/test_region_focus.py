"""Region focus finds the motion, and resampling equals torch where torch has the operator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.config import ModelConfig
from models.layers.region_focus import RegionFocus, full_frame, motion_box, resample
from models.networks.efficient import EfficientRecogniser

# B clip, T frame, C channel, H height, W width, S side of the result


def clips(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def moving_square(across, down, side=24, frames=6, size=96, background=0.2):
    """Return a clip of a white square that moves by 8 pixels around a point in front of a plain background."""
    clip_TCHW = torch.full((frames, 3, size, size), background)
    for frame in range(frames):
        left = across - side // 2 + (8 if frame % 2 else -8)
        clip_TCHW[frame, :, down - side // 2 : down + side // 2, left : left + side] = 1.0
    return clip_TCHW.mul(255).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_full_frame_at_its_size_is_the_identity_bit_for_bit(dtype):
    x_BTCHW = clips(2, 3, 3, 37, 37).mul(255).to(dtype)
    assert torch.equal(resample(x_BTCHW, full_frame(x_BTCHW), 37), x_BTCHW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resample(x_BTCHW, full_frame(x_BTCHW), 37), x_BTCHW)


@settings(deadline=None, max_examples=15)
@given(length=st.integers(8, 40), size=st.integers(3, 40))
def test_full_frame_equals_torchs_antialiased_bilinear(length, size):
    x_BTCHW = clips(1, 2, 1, length, length)
    expected = F.interpolate(x_BTCHW[0], size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(resample(x_BTCHW, full_frame(x_BTCHW), size)[0], expected, rtol=1e-9, atol=1e-12)


boxes = st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.1, 1.0))


@settings(deadline=None, max_examples=15)
@given(box=boxes, size=st.integers(17, 40))
def test_enlarged_box_equals_torchs_grid_sample(box, size):
    """Steps below a pixel need no antialiasing, so the bilinear sampler of the affine grid computes the same."""
    x_BTCHW = clips(1, 2, 3, 16, 16)
    across, down, side = box
    theta = torch.tensor([[[side, 0, 2 * across - 1], [0, side, 2 * down - 1]]], dtype=torch.float64).expand(2, 2, 3)
    grid = F.affine_grid(theta, [2, 3, size, size], align_corners=False)
    expected = F.grid_sample(x_BTCHW[0], grid, mode="bilinear", padding_mode="border", align_corners=False)
    found = resample(x_BTCHW, torch.tensor([box], dtype=torch.float64), size)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def naive_row(values, centre, side, size):
    """Resample one row, one new pixel at a time, in plain numbers."""
    length, row = len(values), []
    step = side * length / size
    for index in range(size):
        place = (centre - side / 2) * length + (index + 0.5) * step
        shares = [max(0.0, 1 - abs(old + 0.5 - place) / max(step, 1.0)) for old in range(length)]
        row.append(sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares))
    return row


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.8), (0.37, 0.61, 0.7), (0.3, 0.55, 0.6)])
def test_shrunk_box_weights_all_pixels_with_the_triangle(box):
    x_BTCHW = clips(1, 1, 1, 23, 23)
    across, down, side = box
    rows = [naive_row(row.tolist(), across, side, 6) for row in x_BTCHW[0, 0, 0]]
    columns = [naive_row([row[index] for row in rows], down, side, 6) for index in range(6)]
    expected = torch.tensor(columns, dtype=torch.float64).T
    found = resample(x_BTCHW, torch.tensor([box], dtype=torch.float64), 6)[0, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_shrinking_does_not_alias():
    """Stripes of a pixel become their mean; taking every fourth pixel would give black or white."""
    x_BTCHW = torch.zeros(1, 1, 1, 64, 64, dtype=torch.uint8)
    x_BTCHW[..., ::2] = 200
    inner = resample(x_BTCHW, torch.tensor([[0.5, 0.5, 0.75]]), 12)
    assert ((inner.int() - 100).abs() <= 1).all()


@pytest.mark.parametrize("size", [3, 8])
def test_frames_centre_and_side_have_gradients(size):
    x_BTCHW = clips(2, 1, 1, 6, 6).requires_grad_()
    box_B3 = torch.tensor([[0.47, 0.53, 0.61], [0.38, 0.59, 0.43]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, box: resample(x, box, size), (x_BTCHW, box_B3))


def test_uint8_results_are_the_rounded_floats():
    x_BTCHW = clips(2, 3, 3, 40, 40).mul(255).to(torch.uint8)
    box_B3 = torch.tensor([[0.4, 0.5, 0.7], [0.6, 0.45, 0.55]])
    found = resample(x_BTCHW, box_B3, 16)
    exact = resample(x_BTCHW.double(), box_B3.double(), 16)
    assert found.dtype == torch.uint8
    assert ((found.double() - exact).abs() <= 0.5 + 1e-4).all()


@settings(deadline=None, max_examples=20)
@given(across=st.integers(20, 76), down=st.integers(20, 76), busy=st.booleans())
def test_box_contains_the_motion(across, down, busy):
    clip_TCHW = moving_square(across, down)
    if busy:
        noise_CHW = clips(3, 12, 12).repeat_interleave(8, 1).repeat_interleave(8, 2).mul(255).to(torch.uint8)
        clip_TCHW = torch.where(clip_TCHW == 255, clip_TCHW, noise_CHW)
    x, y, side = (96 * value for value in motion_box(clip_TCHW[None])[0].tolist())
    assert side < 0.8 * 96
    assert x - side / 2 <= max(0, across - 20) + 1e-3
    assert x + side / 2 >= min(96, across + 20) - 1e-3
    assert y - side / 2 <= max(0, down - 12) + 1e-3
    assert y + side / 2 >= min(96, down + 12) - 1e-3


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), quiet=st.floats(0.0, 1.0), size=st.integers(16, 60))
def test_every_box_lies_within_the_frame(seed, quiet, size):
    x_BTCHW = clips(2, 3, 3, size, size, seed=seed)
    x_BTCHW *= (clips(1, 3, 1, size, size, seed=seed + 1) > quiet).to(x_BTCHW.dtype)
    centre_B2, side_B1 = motion_box(x_BTCHW).split([2, 1], 1)
    assert ((side_B1 >= 0.5 - 1e-12) & (side_B1 <= 1 + 1e-12)).all()
    assert ((centre_B2 - side_B1 / 2 >= -1e-12) & (centre_B2 + side_B1 / 2 <= 1 + 1e-12)).all()


def test_clip_without_motion_keeps_the_full_frame():
    """Only that clip of a batch is affected; camera noise and a still bright object do not count as motion."""
    still_TCHW = moving_square(48, 30)[:1].expand(6, -1, -1, -1)
    noise = torch.randint(-3, 4, still_TCHW.shape, generator=torch.Generator().manual_seed(0))
    noisy_TCHW = (still_TCHW + noise).clamp(0, 255).to(torch.uint8)
    batch = torch.stack([still_TCHW, moving_square(30, 60), noisy_TCHW])
    box_B3 = motion_box(batch)
    assert torch.equal(box_B3[[0, 2]], full_frame(batch[[0, 2]]))
    assert box_B3[1, 2] < 0.75
    assert torch.equal(motion_box(batch[:, :1]), full_frame(batch))
    focused = RegionFocus("motion", None)(batch)
    assert torch.equal(focused[[0, 2]], batch[[0, 2]])
    assert not torch.equal(focused[1], batch[1])


def test_box_depends_only_on_its_own_clip():
    """Neighbours in the batch, mode, precision and type of the frames do not affect it."""
    batch = torch.stack([moving_square(30, 60), moving_square(60, 30, background=0.6)])
    focus = RegionFocus("motion", 32)
    together = focus(batch)
    assert together.shape == (2, 6, 3, 32, 32)
    assert torch.equal(together, torch.cat([focus(batch[:1]), focus(batch[1:])]))
    assert torch.equal(together, focus.eval()(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(together, focus(batch))
    torch.testing.assert_close(motion_box(batch / 255), motion_box(batch), rtol=1e-5, atol=1e-6)


def test_other_kinds_scale_or_keep_the_clips():
    batch = moving_square(30, 60)[None]
    assert EfficientRecogniser(ModelConfig(base_channels=8)).focus(batch) is batch, "none"
    assert RegionFocus("manifest", None)(batch) is batch
    small = RegionFocus("manifest", 32)(batch)
    assert torch.equal(small, resample(batch, full_frame(batch), 32))
