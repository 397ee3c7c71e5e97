"""Clips in every container, codec, rate and orientation, and damaged copies of them.

Each way to read a sound clip gives the frames of a plain decode, by their numbers. A damaged copy is refused, or named
by the check of a data directory, or holds the same pictures.
"""

from fractions import Fraction

import av
import numpy as np
import pytest
from clip_files import number_shown
from clip_matrix import FRAMES, ORIENTATIONS, SOUND, TURNED, damaged_copies

from models.data.manifest import ClipInfo
from models.data.video import count_frames, reader
from models.data.video.clip_location import frame_range
from models.data.video.inspection import Finding, inspect_clip, inspect_clips
from models.data.video.live import Source, open_live
from models.data.video.reader import open_video, read_frames, uniform_indices


def plain_decode(path):
    """Decode a file from its beginning to its end, as FFmpeg's own program does; look at no time stamp."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def clip_of(path, **values):
    return ClipInfo("1", 0, "walk", 1, "train", **values, path=path, file_bytes=1)


@pytest.mark.parametrize("name", SOUND)
def test_every_way_to_read_a_clip_gives_the_frames_of_a_plain_decode(tmp_path, name):
    recipe = SOUND[name]
    path = recipe.write(tmp_path / name)
    decoded = np.stack(plain_decode(path))
    assert tuple(map(number_shown, decoded)) == recipe.shown
    count = len(recipe.shown)
    with open_video(path) as video:
        assert (video.frames, video.timeline.missing, video.concealed) == (count, 0, set())
        video.verify(0, count, decode=True)
        if recipe.times_ms is None and video.fps == pytest.approx(float(recipe.rate), rel=0.01):
            clip = clip_of(path, frame_start=4, frame_end=9, bbox=None, fps=float(recipe.rate))
            assert frame_range(clip, video) == (4, 9)
        if recipe.times_ms:
            for number, time_ms in enumerate(recipe.times_ms):
                assert video.number_at((time_ms + 0.6) / 1000) == number
        parts = list(video.chunks(np.arange(1, count, 2), short_side=None, chunk_size=3))
    np.testing.assert_array_equal(np.concatenate([part.frames_THWC for part in parts]), decoded[1::2])
    for number in range(count):
        np.testing.assert_array_equal(read_frames(path, [number])[0], decoded[number])
    np.testing.assert_array_equal(read_frames(path, range(count), threads=2), decoded)
    uniform_T = uniform_indices(0, count, 8).numbers_T
    np.testing.assert_array_equal(read_frames(path, uniform_T, threads=2), decoded[uniform_T])
    width, height = recipe.size
    with open_live(Source.file(path)) as live:
        shown = [number_shown(frame.frame_HWC, 1 - height / width) for frame in live.frames(stride=3, side=height)]
    assert tuple(shown) == recipe.shown[::3]


def turned_by_filters(path, filters):
    """Decode a file through FFmpeg's own filters, which turn the pictures."""
    with av.open(str(path)) as container:
        stream, graph = container.streams.video[0], av.filter.Graph()
        nodes = [graph.add_buffer(template=stream)]
        for text in filters.split(","):
            name, _, options = text.partition("=")
            nodes.append(graph.add(name, options or None))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        for frame in container.decode(stream):
            graph.push(frame)
            yield graph.pull().to_ndarray(format="rgb24")


@pytest.mark.parametrize("name", TURNED)
def test_turned_clips_are_read_as_ffmpeg_turns_them(tmp_path, name):
    recipe = TURNED[name]
    path = recipe.write(tmp_path / name)
    expected = list(turned_by_filters(path, ORIENTATIONS[recipe.matrix]))
    with open_video(path) as video:
        assert video.size == expected[0].shape[1::-1]
    for number in (0, 5, 13, FRAMES - 1):
        # Colours are converted before the pictures are turned here, and after that in the filters.
        np.testing.assert_allclose(read_frames(path, [number])[0].astype(int), expected[number], atol=6)
    height, width = min(expected[0].shape[:2]), max(expected[0].shape[:2])
    with open_live(Source.file(path)) as live:
        square = next(live.frames(stride=1, side=height)).frame_HWC
    cut = (width - height) // 2
    middle = expected[0][:, cut:-cut] if expected[0].shape[1] == width else expected[0][cut:-cut]
    np.testing.assert_allclose(square.astype(int), middle, atol=6)


def test_an_orientation_that_only_key_frames_carry_holds_for_all_frames(tmp_path):
    plain = SOUND["h264_plain.ts"].write(tmp_path / "plain.h264")
    with av.open(str(plain)) as source, av.open(str(tmp_path / "turned.ts"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        insert = av.BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", stream, copy)
        packets = [packet for stored in source.demux(stream) if stored.size for packet in insert.filter(stored)]
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number
            packet.stream, packet.time_base = copy, Fraction(1, 25)
            target.mux(packet)
    shown = np.stack([read_frames(tmp_path / "turned.ts", [number])[0] for number in range(FRAMES)])
    np.testing.assert_array_equal(shown, np.rot90(np.stack(plain_decode(plain)), axes=(1, 2)))


DAMAGED = [
    f"{name}.{suffix}"
    for name in ("h264_plain", "h264_b_frames", "h264_open_groups")
    for suffix in ("mp4", "mov", "mkv", "avi", "ts", "flv", "mpg")
] + ["mpeg4_b_frames.avi", "mpeg2video_b_frames.ts", "libvpx.webm", "av1.webm", "av1.mp4", "flv.flv", "fragments.mp4"]
UNNOTICED = {
    # VP8 stores nothing that its pictures could be checked against.
    *(("libvpx.webm", kind) for kind in ("flipped_0", "flipped_1", "zeros_0", "zeros_1")),
    # A program stream stores no time stamp for most of its frames: lost ones leave no gap.
    ("h264_b_frames.mpg", "zeros_1"),
}
"""Damage that FFmpeg does not notice, with any of its checks."""


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_or_named(tmp_path, name):
    sound = SOUND[name].write(tmp_path / name)
    pictures, silent = read_frames(sound, range(FRAMES)), {}
    for kind, copy in damaged_copies(sound.read_bytes(), name).items():
        path = tmp_path / f"{kind}_{name}"
        path.write_bytes(copy)
        clip = clip_of(path, frame_start=0, frame_end=None, bbox=None, fps=None)
        (finding,) = inspect_clips([clip], 8, 1, decode=True)
        is_named = finding.concealed or finding.damage or finding.missing or finding.is_uneven or finding.hidden
        if finding.unreadable or is_named or (name, kind) in UNNOTICED:
            continue
        frames = read_frames(path, range(finding.frames))
        if not np.array_equal(frames, pictures):
            silent[kind] = [number_shown(frame) for frame in frames]
    assert not silent


@pytest.mark.parametrize("name", ["h264_b_frames.mp4", "h264_b_frames.avi", "h264_b_frames.ts", "libvpx.webm"])
def test_nothing_is_noted_of_a_sound_clip(tmp_path, name):
    clip = clip_of(SOUND[name].write(tmp_path / name), frame_start=0, frame_end=None, bbox=None, fps=None)
    (finding,) = inspect_clips([clip], 8, 1, decode=True)
    assert finding == Finding(clip, None, frames=FRAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trimmed.mp4", {"hidden": 5, "frames": 15}),
        ("uneven_plain.mkv", {"is_uneven": True, "frames": FRAMES}),
        ("gap.avi", {"is_uneven": True, "frames": FRAMES}),
        ("turned_1.mp4", {"is_turned": True, "frames": FRAMES}),
    ],
)
def test_properties_of_a_sound_clip_are_noted(tmp_path, name, expected):
    clip = clip_of((SOUND | TURNED)[name].write(tmp_path / name), frame_start=0, frame_end=None, bbox=None, fps=None)
    assert inspect_clip(clip, 8, decode=False) == Finding(clip, None, **expected)


@pytest.mark.parametrize("name", ["h264_plain.mkv", "h264_plain.avi", "h264_b_frames.avi"])
def test_a_file_that_lacks_its_last_frames_is_read_and_noted(tmp_path, name):
    path = SOUND[name].write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: -(path.stat().st_size // 20)])
    finding = inspect_clip(clip_of(path, frame_start=0, frame_end=None, bbox=None, fps=None), 8, decode=True)
    assert finding.unreadable is None
    assert finding.missing in (1, 2)
    assert finding.frames == FRAMES - finding.missing


def test_a_whole_avi_whose_header_counts_too_many_frames_is_read(tmp_path):
    path = SOUND["mpeg4_plain.avi"].write(tmp_path / "clip.avi")
    content = bytearray(path.read_bytes())
    place = content.index(b"strh") + 8 + 32  # dwLength
    content[place : place + 4] = (100_000).to_bytes(4, "little")
    path.write_bytes(content)
    assert count_frames(path) == FRAMES


def test_a_file_without_usable_stamps_is_counted_once_and_again_when_it_is_replaced(tmp_path):
    path = SOUND["h264_b_frames.avi"].write(tmp_path / "clip.avi")
    before = reader._count_decoded.cache_info()
    assert [count_frames(path) for _ in range(3)] == [FRAMES] * 3
    after = reader._count_decoded.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
    SOUND["mpeg1video_b_frames.avi"].write(path)
    assert count_frames(path) == FRAMES
    assert reader._count_decoded.cache_info().misses - before.misses == 2
