from fractions import Fraction
from math import floor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_files import number_shown, shared_data, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from models.data.video.reader import count_frames, open_video, read_frames, segment_candidates, uniform_indices
from slr_bench.errors import DataError

FRAMES = 100
KINDS = {
    "one_group": {},
    "no_b_frames": {"gop": 12, "b_frames": 0},
    "closed_groups": {"gop": 12},
    "open_groups": {"gop": 12, "open_gop": True},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {kind: write_video(folder / f"{kind}.mp4", FRAMES, **options) for kind, options in KINDS.items()}


@pytest.fixture(scope="module")
def full_decodes(videos):
    """The second implementation: everything decoded, nothing sought."""
    decoded = {}
    for kind, path in videos.items():
        with av.open(str(path)) as container:
            decoded[kind] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return decoded


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_show_their_numbers(kind, full_decodes):
    assert [number_shown(frame) for frame in full_decodes[kind]] == list(range(FRAMES))


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_frame_is_exact(kind, videos, full_decodes):
    for number in range(0, FRAMES, 3):
        np.testing.assert_array_equal(read_frames(videos[kind], [number])[0], full_decodes[kind][number])


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    numbers=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=20),
    chunk_size=st.integers(1, 25),
    threads=st.integers(1, 2),
)
def test_any_frames_in_any_order_equal_a_full_decode(videos, full_decodes, kind, numbers, chunk_size, threads):
    frames = read_frames(videos[kind], numbers, chunk_size=chunk_size, threads=threads)
    np.testing.assert_array_equal(frames, full_decodes[kind][numbers])


@pytest.mark.parametrize("kind", KINDS)
def test_count(kind, videos):
    assert count_frames(videos[kind]) == FRAMES


def test_count_without_a_sample_table(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, gop=10, movflags="frag_keyframe+empty_moov")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert count_frames(path) == 30
    assert [number_shown(frame) for frame in read_frames(path, [29, 0, 15])] == [29, 0, 15]


class CountingContainer:
    def __init__(self, container):
        self.container, self.decoded, self.seeks = container, 0, 0

    def seek(self, *args, **options):
        self.seeks += 1
        self.container.seek(*args, **options)

    def decode(self, stream):
        for frame in self.container.decode(stream):
            self.decoded += 1
            yield frame

    def close(self):
        self.container.close()


@pytest.mark.parametrize(
    ("kind", "numbers", "most_decoded"),
    [
        ("one_group", [0, 5], 6),  # nothing after the last wanted frame
        ("closed_groups", [99], 99 - 96 + 1),  # from the key frame before it
        ("closed_groups", [2, 98], 3 + 3),  # and over the gap
        ("one_group", list(range(0, 100, 10)), 91),  # no key frame to go to: one pass
    ],
)
def test_decodes_no_more_than_needed(videos, kind, numbers, most_decoded):
    with open_video(videos[kind]) as video:
        video._container = counting = CountingContainer(video._container)
        list(video.chunks(np.array(numbers), short_side=None, chunk_size=32))
    assert counting.decoded <= most_decoded


def test_chunks_hold_at_most_chunk_size_frames(videos):
    with open_video(videos["closed_groups"]) as video:
        chunks = list(video.chunks(np.arange(0, 50, 5), short_side=40, chunk_size=4))
    assert [len(chunk.frames_THWC) for chunk in chunks] == [4, 4, 2]
    assert np.concatenate([chunk.numbers_T for chunk in chunks]).tolist() == list(range(0, 50, 5))


@pytest.mark.parametrize(("height", "width"), [(60, 120), (120, 60)])
def test_scaling_matches_torchvision(tmp_path, height, width):
    ramp = np.linspace(30, 220, height)[:, None] * 0.5 + np.linspace(30, 220, width)[None, :] * 0.5
    picture = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    path = write_video(tmp_path / "a.mp4", 2, picture=lambda _: picture)
    scaled = read_frames(path, [1], short_side=30)[0]
    full_CHW = torch.from_numpy(read_frames(path, [1])[0]).permute(2, 0, 1)
    expected = functional.resize(full_CHW, [30], antialias=True).permute(1, 2, 0).numpy()
    assert scaled.shape == expected.shape
    assert np.abs(scaled.astype(int) - expected).max() <= 3


def test_a_file_that_was_cut_off_gives_its_front_and_names_the_rest(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 48, 3), dtype=np.uint8)
    path = write_video(tmp_path / "00007.mp4", 60, gop=12, movflags="faststart", picture=noise.__getitem__)
    whole = read_frames(path, range(60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert count_frames(path) == 60
    np.testing.assert_array_equal(read_frames(path, range(20)), whole[:20])
    with pytest.raises(DataError, match=r"frame 59 of 00007\.mp4 cannot be decoded.*of its 60 frames.*delete it"):
        read_frames(path, [3, 59])


def broken_files(folder: Path) -> dict[str, Path]:
    good = write_video(folder / "good.mp4", 10)
    data = good.read_bytes()
    contents = {"empty": b"", "text": b"<html>not found</html>" * 50, "headless": data[40:], "stump": data[:200]}
    paths = {name: folder / f"{name}.mp4" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    sound = folder / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        for packet in [*stream.encode(silence), *stream.encode()]:
            container.mux(packet)
    (folder / "folder.mp4").mkdir()
    return paths | {"sound": sound, "missing": folder / "missing.mp4", "folder": folder / "folder.mp4"}


@pytest.mark.parametrize("name", ["empty", "text", "headless", "stump", "sound", "missing", "folder"])
def test_a_file_that_is_not_a_video_gives_one_line(tmp_path, name, capfd):
    with pytest.raises(DataError) as caught:
        read_frames(broken_files(tmp_path)[name], [0])
    assert f"{name}.mp4" in str(caught.value)
    assert ("check the path" if name == "missing" else "delete it") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["00039", "00010"])
def test_real_recordings_are_exact(name):
    path = shared_data("signer") / "videos" / f"{name}.mp4"
    wanted = [0, 37, 78] if name == "00010" else [0, 100, 249, 250, 251, 308]
    with av.open(str(path)) as container:
        decoded = enumerate(container.decode(video=0))
        expected = [frame.to_ndarray(format="rgb24") for number, frame in decoded if number in wanted]
    np.testing.assert_array_equal(read_frames(path, wanted), expected)


def test_real_counts_are_those_of_a_full_decode():
    path = shared_data("dgs30") / "videos" / "00000.mp4"
    with av.open(str(path)) as container:
        assert count_frames(path) == sum(1 for _ in container.decode(video=0)) == 45


def test_uniform_indices_by_hand():
    assert uniform_indices(0, 8, 4).numbers_T.tolist() == [1, 3, 5, 7]
    assert uniform_indices(10, 15, 5).numbers_T.tolist() == [10, 11, 12, 13, 14]
    choice = uniform_indices(3, 6, 5)
    assert (choice.numbers_T.tolist(), choice.padded) == ([3, 4, 5, 5, 5], 2)


@given(st.integers(0, 500), st.integers(1, 400), st.integers(1, 40), st.integers(1, 3))
def test_candidates_are_the_middles_of_their_sub_segments(start, length, count, variants):
    found_TV, padded = segment_candidates(start, start + length, count, variants)
    if length < count:
        row = [start + min(t, length - 1) for t in range(count)]
        expected, repeats = [[number] * variants for number in row], count - length
    else:
        part = Fraction(length, count * variants)
        expected = [
            [start + floor((t * variants + v + Fraction(1, 2)) * part) for v in range(variants)] for t in range(count)
        ]
        repeats = 0
    assert found_TV.tolist() == expected
    assert padded == repeats
