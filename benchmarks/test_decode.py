"""Decoding: an epoch of rendered clips; on recordings, wanted frames beside whole clips, and the loader beside a plain
one (marked slow: they decode every frame of them, many times). The cache of decoded clips: an epoch that fills it, and
one that reads from it.

Ratios are of work done in turn in one process, by process CPU time and by wall time; the median of the rounds. Run with
``pytest benchmarks/test_decode.py -s -m 'slow or not slow'``; the figures are in ``extra_info`` of the JSON, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import torch
from clip_files import shared_data
from torchvision.transforms.v2 import functional

from models.config import Settings, working_size
from models.data.loading.clips import build_loaders
from models.data.loading.feature_cache import ClipCache
from models.data.synthetic.dataset import render_dataset
from models.data.video.reader import open_video, uniform_indices

CLIPS = ("00010", "00012", "00039")  # 80, 174 and 309 frames of 852 x 480
FRAMES, SIZE = 16, 112


class Seconds(NamedTuple):
    """One execution."""

    cpu: float
    wall: float


def measured(*works: Callable[[], object], rounds: int = 5) -> list[list[Seconds]]:
    """Seconds of each work in each round, all works in turn; the first round warms up and does not count."""
    found: list[list[Seconds]] = [[] for _ in works]
    for number in range(rounds + 1):
        for seconds, work in zip(found, works, strict=True):
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            work()
            if number:
                seconds.append(Seconds(time.process_time() - cpu_s, time.perf_counter() - wall_s))
    return found


def note_ratio(benchmark: Any, name: str, ours: list[Seconds], plain: list[Seconds], asked: float) -> None:
    """Median ratio of the rounds, into the benchmark's record and to the reader."""
    ratios = {kind: median(getattr(o, kind) / getattr(p, kind) for o, p in zip(ours, plain, strict=True)) for kind in
              Seconds._fields}  # fmt: skip
    benchmark.extra_info |= {f"{name}_{kind}_ratio": ratio for kind, ratio in ratios.items()} | {"asked_ratio": asked}
    print(f"\n{name}: {ratios['cpu']:.2f} of the whole clip's CPU time, {ratios['wall']:.2f} of its wall time "
          f"(asked: {asked})")  # fmt: skip


def whole_clip(path: Path, threads: int) -> list[np.ndarray]:
    """Every frame as RGB, as one does who does not choose.

    Converted with one thread, as ours: on a busy machine whoever has more threads waits less for the same CPU time.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.thread_type = threads, "AUTO"
        return [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(stream)]


def wanted(path: Path, numbers: Callable[[int], Any], threads: int, short_side: int | None = None) -> int:
    """Some frames as RGB; bytes of them."""
    with open_video(path, threads=threads) as video:
        parts = video.chunks(np.asarray(numbers(video.frames)), short_side=short_side, chunk_size=32)
        return sum(part.frames_THWC.nbytes for part in parts)


@pytest.mark.memory_benchmark(rss=True)
def test_rendered_epoch(memory_benchmark: Any, tmp_path: Path) -> None:
    """Twelve signs of 64 x 64 in this process, each decoded anew; the decoder's memory is in the resident set alone."""
    render_dataset(tmp_path, num_classes=2, clips_per_class=12, signers=3, size=64, workers=1)
    values = {
        "model": {"num_classes": 2, "num_frames": FRAMES, "enable_feature_caching": False},
        "data": {"dir": tmp_path, "frame_size": 48, "num_workers": 0},
        "training": {"batch_size": 4},
    }
    with closing(build_loaders(Settings.model_validate(values))) as loaders:
        batches = memory_benchmark.pedantic(partial(list, loaders.train), rounds=5, warmup_rounds=1)
    clip_bytes = FRAMES * 3 * 48 * 48
    held_bytes = sum(batch.clips_BTCHW.nbytes for batch in batches)
    assert held_bytes == len(loaders.train.indices) * clip_bytes
    assert memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"] >= held_bytes


@pytest.fixture
def videos() -> list[Path]:
    """Real recordings, key frames every 250: seeking cannot help."""
    return [shared_data("signer") / "videos" / f"{name}.mp4" for name in CLIPS]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 0], ids=["one decoder thread", "automatic decoder threads"])
def test_uniform_frames(benchmark: Any, videos: list[Path], threads: int) -> None:
    """16 uniform frames against every frame, both as RGB of full size."""

    def ours() -> int:
        return sum(
            wanted(path, lambda frames: uniform_indices(0, frames, FRAMES).numbers_T, threads) for path in videos
        )

    def plain() -> None:
        for path in videos:
            whole_clip(path, threads)

    seconds = measured(ours, plain)
    benchmark.extra_info["rgb_bytes"] = benchmark.pedantic(ours, rounds=3)
    note_ratio(benchmark, f"{FRAMES} uniform frames", *seconds, asked=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CLIPS)), ids=CLIPS)
def test_last_second(benchmark: Any, videos: list[Path], number: int, tmp_path: Path) -> None:
    """The last 25 frames of a clip that has a key frame every 12, against every frame."""
    pictures = whole_clip(videos[number], 1)
    path = tmp_path / "gop12.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"g": "12", "preset": "veryfast", "sc_threshold": "0"}
        )
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())

    def ours() -> int:
        return wanted(path, lambda frames: range(frames - 25, frames), 1)

    seconds = measured(ours, lambda: whole_clip(path, 1))
    benchmark.pedantic(ours, rounds=3)
    share = 25 / len(pictures)
    benchmark.extra_info["share_of_frames"] = share
    note_ratio(benchmark, f"the last second ({share:.0%} of the frames)", *seconds, asked=0.3)


def plain_clips(paths: Sequence[Path], threads: int) -> None:
    """A plain loader: every frame to RGB, then 16 of them, scaled and cropped by torchvision."""
    for path in paths:
        frames = whole_clip(path, threads)
        chosen = np.stack([frames[number] for number in uniform_indices(0, len(frames), FRAMES).numbers_T])
        scaled = functional.resize(torch.from_numpy(chosen).permute(0, 3, 1, 2), [working_size(SIZE)], antialias=True)
        functional.center_crop(scaled, [SIZE, SIZE])


@pytest.mark.slow
def test_loader_throughput(benchmark: Any) -> None:
    """Clips a CPU second: the loader's first and later epochs, and a plain one; owned frames keep to their limit."""
    limit = 4 * FRAMES
    values = {
        "model": {"num_classes": 20, "num_frames": FRAMES},
        "data": {"dir": shared_data("signer"), "frame_size": SIZE, "num_workers": 0, "max_frames_in_memory": limit},
        "training": {"batch_size": 4},
    }
    warm = build_loaders(Settings.model_validate(values))
    paths = [clip.path for clip in warm.manifest.clips["val"]]
    later = partial(list, warm.val)

    def first() -> None:
        with closing(build_loaders(Settings.model_validate(values))) as loaders:
            list(loaders.val)

    decoder_threads = len(os.sched_getaffinity(0))  # as many as the loader takes without loader processes
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    works = {"plain": partial(plain_clips, paths, decoder_threads), "first epoch": first, "later epochs": later}
    rates = {
        name: len(paths) / median(one.cpu for one in seconds)
        for name, seconds in zip(works, measured(*works.values(), rounds=3), strict=True)
    }
    benchmark.pedantic(later, rounds=3)
    torch.set_num_threads(torch_threads)
    owned = warm.train.loader.high_water_frames
    warm.close()
    benchmark.extra_info |= {f"{name}, clips per CPU second": rate for name, rate in rates.items()}
    benchmark.extra_info |= {"frames owned at most": owned, "data.max_frames_in_memory": limit}
    print(f"\n{len(paths)} clips of 852 x 480; " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    assert 0 < owned <= limit


CACHED, SHAPE_TCHW = 64, (16, 3, 64, 64)
"""Clips of 192 KiB in uint8."""
CLIP_BYTES = 16 * 3 * 64 * 64


def filled(clips: int, room_for: int) -> ClipCache:
    """Return a cache after an attempt to store ``clips`` clips, each a view of a batch, as those of a loader are."""
    cache = ClipCache(room_for * CLIP_BYTES)
    for first in range(0, clips, 8):
        batch_BTCHW = torch.zeros(8, *SHAPE_TCHW, dtype=torch.uint8)
        for number, clip_TCHW in enumerate(batch_BTCHW, first):
            if cache.has_room(CLIP_BYTES):
                cache.put(number, clip_TCHW)
    return cache


def test_first_epoch(memory_benchmark: Any) -> None:
    """The peak is at most the limit of the cache plus the batch that is being stored."""
    cache = memory_benchmark.pedantic(filled, args=(CACHED, CACHED // 2), rounds=5, warmup_rounds=1)
    assert cache.stored_bytes == CACHED // 2 * CLIP_BYTES
    peak_bytes = memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"]
    assert cache.stored_bytes < peak_bytes <= cache.stored_bytes + 2 * 8 * CLIP_BYTES


def test_later_epoch(memory_benchmark: Any) -> None:
    """Stored clips are returned without a copy: a clip is copied once, into the batch."""
    cache = filled(CACHED, CACHED)

    def epoch() -> None:
        for first in range(0, CACHED, 8):
            torch.stack([clip for number in range(first, first + 8) if (clip := cache.get(number)) is not None])

    memory_benchmark.pedantic(epoch, rounds=10, warmup_rounds=1)
    peak_bytes = memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"]
    assert peak_bytes == cache.stored_bytes + 8 * CLIP_BYTES
