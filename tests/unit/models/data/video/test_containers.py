"""Files as phones, browsers and old data sets hold them: every frame has the right number and is the right way up."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_files import frame_showing, number_shown, shared_data, write_video

from models.data.video import open_video, read_frames
from models.data.video.stream_properties import UPRIGHT, Orientation, orientation_of
from slr_bench.errors import DataError

FRAMES = 40
CORNERS = ((220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30))
"""Red top left, green top right, blue bottom left, yellow bottom right."""


def write(path, codec, *, options=None, times=None, rate=25):
    """Write ``FRAMES`` numbered frames; ``times`` gives their time stamps in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frame_showing(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(frame_showing(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


X264 = {"bf": "3", "g": "12", "preset": "veryfast", "x264-params": "scenecut=0:threads=1"}
MPEG = {"bf": "2", "g": "12", "b": "2M"}


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.avi", "libx264", X264),
        ("b_frames.avi", "mpeg4", MPEG),
        ("no_b_frames.avi", "mpeg4", MPEG | {"bf": "0"}),
        ("program_stream.mpg", "mpeg2video", MPEG),
        ("program_stream.mpg", "mpeg1video", MPEG),
        ("raw.h264", "libx264", X264),
        ("b_frames.mkv", "libx264", X264),
        ("b_frames.ts", "libx264", X264),
        ("b_frames.mov", "libx264", X264),
    ],
)
def test_every_single_frame_has_its_number_in_every_container(tmp_path, name, codec, options):
    path = write(tmp_path / name, codec, options=options)
    with open_video(path) as video:
        assert video.frames == FRAMES
    assert [number_shown(read_frames(path, [number])[0]) for number in range(FRAMES)] == list(range(FRAMES))
    assert [number_shown(frame) for frame in read_frames(path, [30, 7, 7, 39, 0])] == [30, 7, 7, 39, 0]


def turned(path, matrix):
    """Write the display matrix (a, b, c, d) of an upright mp4 file anew, in its track header."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version 0: forty bytes before the matrix
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(content))
    return path


def corners_of(frame_HWC):
    """Return the index into ``CORNERS`` of the colour near each corner: top left, top right, bottom left, right."""
    height, width = frame_HWC.shape[:2]
    places = [(y, x) for y in (height // 8, -height // 8) for x in (width // 8, -width // 8)]
    colours = np.array([frame_HWC[place] for place in places], dtype=int)
    return [int(np.abs(np.array(CORNERS) - colour).sum(1).argmin()) for colour in colours]


def four_corners(number):
    picture = np.zeros((64, 96, 3), dtype=np.uint8)
    for index, (rows, columns) in enumerate(
        (r, c) for r in (slice(32), slice(32, 64)) for c in (slice(48), slice(48, 96))
    ):
        picture[rows, columns] = CORNERS[index]
    return picture


@pytest.mark.parametrize(
    ("matrix", "size", "corners"),
    [
        ((1, 0, 0, 1), (96, 64), [0, 1, 2, 3]),
        ((0, 1, -1, 0), (64, 96), [2, 0, 3, 1]),  # a phone held upright: turned a quarter clockwise
        ((-1, 0, 0, -1), (96, 64), [3, 2, 1, 0]),
        ((0, -1, 1, 0), (64, 96), [1, 3, 0, 2]),
        ((-1, 0, 0, 1), (96, 64), [1, 0, 3, 2]),
        ((1, 0, 0, -1), (96, 64), [2, 3, 0, 1]),
        ((0, 1, 1, 0), (64, 96), [0, 2, 1, 3]),
        ((0, -1, -1, 0), (64, 96), [3, 1, 2, 0]),
    ],
)
def test_pictures_are_turned_as_their_display_matrix_says(tmp_path, matrix, size, corners):
    path = turned(write_video(tmp_path / "phone.mp4", 5, picture=four_corners), matrix)
    with open_video(path) as video:
        assert video.size == size
        assert video.is_turned == (matrix != (1, 0, 0, 1))
    frame = read_frames(path, [3])[0]
    assert frame.shape[:2] == size[::-1]
    assert corners_of(frame) == corners
    assert corners_of(read_frames(path, [3], short_side=32)[0]) == corners


def test_quarter_turns_of_real_files_are_those_of_other_players():
    """OpenCV, which turns by itself, shows green top left for rot90 and blue top left for rot270."""
    folder = shared_data("clips")
    for name, expected in (("rot90.mp4", (1, 3, 0, 2)), ("rot270.mp4", (2, 0, 3, 1))):
        assert tuple(corners_of(read_frames(folder / name, [0])[0])) == expected


def test_a_frame_without_a_matrix_is_upright():
    assert orientation_of(av.VideoFrame(16, 16, "rgb24")) == UPRIGHT == Orientation()


def test_the_default_one_of_two_videos_is_read():
    with open_video(shared_data("clips") / "two_videos.mp4") as video:
        assert (video.frames, video.size, video.streams) == (40, (192, 128), 2)


def test_the_rate_comes_from_the_time_stamps_where_the_declared_one_is_wrong():
    with open_video(shared_data("clips") / "browser.webm") as video:
        assert video.fps == pytest.approx(89 / 2.939)


def test_with_a_varying_rate_a_time_means_the_frame_shown_then(tmp_path):
    times = [20 * number if number < 20 else 400 + 100 * (number - 20) for number in range(FRAMES)]
    path = write(tmp_path / "varying.mkv", "libx264", options=X264 | {"bf": "0"}, times=times)
    with open_video(path) as video:
        for number, milliseconds in enumerate(times):
            assert video.number_at(milliseconds / 1000 + 0.001) == number


def test_frames_that_ffmpeg_concealed_are_noted():
    folder = shared_data("clips")
    with open_video(folder / "concealed_1bit.mp4") as video:
        video.verify(0, 40, decode=True)
        assert video.concealed == {36}
    with open_video(folder / "concealed_original.mp4") as video:
        video.verify(0, 40, decode=True)
        assert not video.concealed


@pytest.mark.parametrize("kept", [0.6, 0.75, 0.9])
def test_a_stream_that_was_cut_off_is_shorter_than_its_header_says(tmp_path, kept):
    path = write(tmp_path / "whole.mkv", "libx264", options=X264)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with open_video(path) as video:
        assert video.frames == FRAMES
        with pytest.raises(DataError, match="frames are in the file"):
            video.verify(0, FRAMES, decode=False)
