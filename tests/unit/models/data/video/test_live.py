"""Frames in order, by stride, as the loader cuts them; from a file, a pipe, and a camera that is not there."""

import os
import threading

import numpy as np
import pytest
from clip_files import number_shown, write_video

from models.config import working_size
from models.data.video.live import Source, open_live
from models.data.video.reader import read_frames
from slr_bench.errors import DataError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("live") / "clip.mp4", 23, fps=10, movflags="faststart")


@pytest.mark.parametrize("stride", [1, 4, 30])
def test_the_stride_selects_frames(path, stride):
    with open_live(Source.file(path)) as video:
        frames = list(video.frames(stride, 64))
    assert [frame.number for frame in frames] == list(range(0, 23, stride))
    assert [number_shown(frame.frame_HWC) for frame in frames] == list(range(0, 23, stride))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(0, 23, stride)])
    assert video.fps == 10


def test_frames_are_those_of_the_loader(tmp_path):
    """A picture that is wider than high, so that something is cut off."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "wide.mp4", 3, picture=lambda number: np.roll(noise, number, 1))
    side = working_size(40)
    with open_live(Source.file(path)) as video:
        found = [frame.frame_HWC for frame in video.frames(1, side)]
    expected_THWC = read_frames(path, [0, 1, 2], short_side=side)
    left = (expected_THWC.shape[2] - side) // 2
    assert np.array_equal(np.stack(found), expected_THWC[:, :, left : left + side])


def read_through_a_pipe(content, stride=1):
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with open_live(Source.descriptor(reading)) as video:
            return [number_shown(frame.frame_HWC) for frame in video.frames(stride, 64)]
    finally:
        os.close(reading)
        writer.join()


def test_a_pipe_needs_no_seeking(path):
    assert read_through_a_pipe(path.read_bytes(), 5) == [0, 5, 10, 15, 20]


def test_a_file_on_standard_input_may_need_seeking(tmp_path):
    path = write_video(tmp_path / "index_at_the_end.mp4", 5)
    with path.open("rb") as file, open_live(Source.descriptor(file.fileno())) as video:
        assert len(list(video.frames(1, 64))) == 5


@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_content_that_is_not_a_video_is_an_error(content):
    with pytest.raises(DataError, match=r"cannot read standard input: Invalid data .*front to back"):
        read_through_a_pipe(content)


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot read camera 63 \(/dev/video63\): No such .*; cameras here: "):
        open_live(Source.camera(63)).__enter__()
    with pytest.raises(DataError, match=r"nothing\.mp4: No such file or directory; check the path"):
        open_live(Source.file(tmp_path / "nothing.mp4")).__enter__()
