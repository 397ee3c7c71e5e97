from pathlib import Path
from typing import NamedTuple

import pytest

from models.data.video.clip_location import bbox_applies, frame_range
from models.data.wlasl import ClipInfo
from slr_bench.errors import DataError


class Steady(NamedTuple):
    frames: int
    fps: float | None

    def number_at(self, time_s):
        return round(time_s * self.fps)


def clip_at(start, end, cut_frames=0):
    return ClipInfo("00001", 0, "walk", 0, "train", start, end, (0, 0, 9, 9), 25.0, Path("00001.mp4"), 1, cut_frames)


@pytest.mark.parametrize(
    ("start", "end", "frames", "fps", "expected"),
    [
        (0, None, 40, 25.0, (0, 40)),
        (5, 30, 40, 25.0, (5, 30)),
        (5, None, 40, 25.0, (5, 40)),
        (10, 60, 100, 30.0, (12, 72)),  # 25-a-second numbers in a 30-a-second file
        (10, 80, 100, 50.0, (20, 100)),  # 20 to 160 in 100 frames: what there is of it
        (10, 60, 100, 25.1, (10, 60)),  # a rounded header is no other rate
        (10, 60, 100, None, (10, 60)),
        (500, 560, 60, 25.0, (0, 60)),  # the sign was cut out of its source
        (5, 60, 55, 25.0, (0, 55)),
        (5, 60, 30, 25.0, (5, 30)),
    ],
)
def test_frame_range(start, end, frames, fps, expected):
    assert frame_range(clip_at(start, end), Steady(frames, fps)) == expected


def test_a_copy_as_long_as_the_split_file_says_is_the_sign_alone():
    assert frame_range(clip_at(300, None, cut_frames=31), Steady(30, 25.0)) == (0, 30)
    assert frame_range(clip_at(300, 400, cut_frames=31), Steady(30, 25.0)) == (0, 30)
    assert frame_range(clip_at(5, None, cut_frames=31), Steady(30, 25.0)) == (5, 30), "a range that fits holds"


@pytest.mark.parametrize(
    ("bbox", "width", "height", "applies"),
    [
        ((10, 5, 200, 239), 320, 240, True),
        ((0, 0, 320, 240), 320, 240, True),
        ((0, 0, 321, 240.5), 320, 240, True),  # rounded
        ((0, 0, 322, 240), 320, 240, False),
        ((-3, 0, 300, 240), 320, 240, False),
        ((300, 5, 200, 239), 320, 240, False),
        ((10, 5, float("nan"), 239), 320, 240, False),
        ((228, 11, 520, 370), 256, 256, False),
        ((10, 5, 200, 239), 256, 256, False),  # fits by chance
        ((0, 0, 256, 256), 256, 256, True),
    ],
)
def test_a_bbox_of_another_picture_does_not_apply(bbox, width, height, applies):
    assert bbox_applies(bbox, width, height) is applies


def test_a_sign_after_the_end_of_its_file_is_refused():
    with pytest.raises(DataError, match=r"00001\.mp4 has 30 frames, but its sign begins at frame 300"):
        frame_range(clip_at(300, None), Steady(30, 25.0))
