"""The manifest's bbox: where it applies its square is read, where it does not the clip is focused by motion."""

import math

import numpy as np
import pytest
import torch
from clip_files import write_directory, write_video
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.config import DataConfig, Settings
from models.data.loading.clip_reader import ClipReader
from models.data.loading.clips import build_loaders
from models.data.loading.feature_cache import ClipCache
from models.data.loading.transforms import Augmentation
from models.data.video.clip_location import MIDDLE, bbox_square
from models.data.wlasl import ClipInfo
from models.layers.region_focus import motion_box, resample

FRAMES, SIZE = 4, 56  # cut from 64


@pytest.mark.parametrize(
    "bbox",
    [
        (0, 0, 320, 240),  # the full frame
        (3, 2, 320, 238),  # nearly
        (385, 37, 885, 720),  # of a 1280 x 720 original
        (100, 60, 330, 200),  # beyond the right edge
        (-4, 0, 100, 100),
        (90, 50, 90, 80),  # empty
        (90, 80, 120, 50),  # upside down
        (math.nan, 0, 100, 100),
        (0, 0, math.inf, 100),
    ],
)
def test_a_bbox_that_is_stale_or_covers_the_frame_selects_nothing(bbox):
    assert bbox_square(bbox, 320, 240) is None
    assert bbox_square((100, 60, 160, 200), 320, 240) is not None


def test_in_a_resized_copy_no_bbox_is_trusted():
    """A bbox that `wlasl check` calls stale is not used: it was measured on an original that is not square."""
    assert bbox_square((100, 60, 160, 200), 256, 256) is None
    assert bbox_square((100, 60, 160, 200), 255, 256) is not None


@settings(deadline=None, max_examples=50)
@given(
    size=st.tuples(st.integers(64, 400), st.integers(64, 400)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    part=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
)
def test_the_square_holds_the_bbox_as_far_as_a_square_can(size, corner, part):
    (width, height), (left, top) = size, (corner[0] * size[0], corner[1] * size[1])
    right, bottom = left + part[0] * (width - left), top + part[1] * (height - top)
    assume((width, height) != (256, 256))
    square = bbox_square((left, top, right, bottom), width, height)
    if square is None:
        assert right - left >= 0.95 * width
        assert bottom - top >= 0.95 * height
        return
    short = min(width, height)
    side = square.side * short
    assert 0.5 <= square.side <= 1
    for low, high, extent, place in ((left, right, width, square.right), (top, bottom, height, square.down)):
        start = place * (extent - side)
        assert -1e-6 <= start <= extent - side + 1e-6
        if 1.1 * max(right - left, bottom - top) <= short:
            assert start <= low + 1e-6
            assert start + side >= high - 1e-6
        if 0 < place < 1 and extent - side > 1e-6:
            assert start + side / 2 == pytest.approx((low + high) / 2)


def ramp(number):
    """Red says how far right, green how far down, blue goes with time; 160 x 80."""
    picture = np.zeros((80, 160, 3), dtype=np.uint8)
    picture[..., 0] = np.arange(160)
    picture[..., 1] = np.arange(80)[:, None] * 2
    picture[..., 2] = 40 + 4 * number
    picture[30:50, 70 + 3 * number : 78 + 3 * number, :2] = 230
    return picture


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "videos" / "00001.mp4", 8, picture=ramp)


def read(path, bbox, cut_to_bbox=True, cache=None, augmentation=None, reader=None):
    clip = ClipInfo("00001", 0, "walk", 0, "train", 0, None, bbox, 25.0, path, 1)
    reader = reader or ClipReader(FRAMES, 2, SIZE, 2, 1, cache, cut_to_bbox)
    out_TCHW = torch.empty((FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    assert reader.read_into(out_TCHW, clip, augmentation) == 0
    return out_TCHW


@pytest.mark.parametrize(
    ("bbox", "left", "top", "side"),
    [
        ((4, 4, 44, 60), 0, 1.2, 61.6),  # at the left edge: the square is moved in
        ((100, 20, 140, 60), 98, 18, 44),
        ((130, 40, 150, 60), 120, 30, 40),  # half the frame at least
        ((20, 0, 140, 80), 40, 0, 80),  # as wide as the height allows
    ],
)
def test_the_bboxs_square_is_read(path, bbox, left, top, side):
    """The middle of the picture, 56 of 64 pixels of the square, shows the middle of the square."""
    frame_CHW = read(path, bbox)[0].float()
    places = (torch.arange(SIZE) + 0.5 + (64 - SIZE) / 2) / 64 * side - 0.5
    off = torch.tensor([18, 37])  # away from the patch in most rows; H.264's colour is coarse, hence the bounds
    assert (frame_CHW[0, 4, off] - (left + places[off])).abs().max() < 6
    assert (frame_CHW[1, off, 2] - 2 * (top + places[off])).abs().max() < 8


def test_a_stale_bbox_means_motion(path):
    """The clip is focused by motion within the middle square, with the box that the network would find."""
    plain = read(path, (0, 0, 160, 80), cut_to_bbox=False)
    focused = read(path, (300, 20, 500, 80))
    box_B3 = motion_box(plain[None])
    assert box_B3[0, 2] < 1
    assert torch.equal(focused, resample(plain[None], box_B3, SIZE)[0])
    assert not torch.equal(focused, plain)


def test_without_the_key_the_bbox_is_ignored(path):
    middle = read(path, (4, 4, 44, 60), cut_to_bbox=False)
    assert torch.equal(middle, read(path, (100, 20, 140, 60), cut_to_bbox=False))
    assert MIDDLE == (1.0, 0.5, 0.5)


def test_the_configuration_reaches_the_loader(path):
    write_directory(path.parents[1], {"00001": ("train", "walk")}, ["walk"], bbox=[100, 20, 140, 60])
    model = {"num_classes": 1, "num_frames": FRAMES}
    data = {"dir": path.parents[1], "frame_size": SIZE, "num_workers": 0, "augment": False}
    for kind in ("none", "motion", "manifest"):
        loaders = build_loaders(
            Settings.model_validate({"model": model | {"region_focus": kind, "pyramid_levels": [1]}, "data": data})
        )
        (batch,) = loaders.train
        expected = read(path, (100, 20, 140, 60), cut_to_bbox=kind == "manifest")
        assert torch.equal(batch.clips_BTCHW[0], expected)


@pytest.mark.parametrize("bbox", [(100, 20, 140, 60), (0, 0, 160, 80)])
@pytest.mark.parametrize("augmented", [False, True])
def test_the_cache_changes_no_pixel(path, bbox, augmented):
    augmentation = Augmentation.draw(np.random.default_rng(1), FRAMES, DataConfig()) if augmented else None
    cache = ClipCache(1 << 22)
    reader = ClipReader(FRAMES, 2, SIZE, 2, 1, cache, True)
    expected = read(path, bbox, augmentation=augmentation)
    for _ in range(2):
        assert torch.equal(read(path, bbox, augmentation=augmentation, reader=reader), expected)
