"""From a planned clip to an mp4 file, and many of them in worker processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from models.data.synthetic.drawing import draw_frame
from models.data.synthetic.motion import hands_at
from models.data.synthetic.plan import FPS, Clip
from slr_bench.errors import DataError

X264_OPTIONS = {"preset": "veryfast", "x264-params": "threads=1:mbtree=0"}
"""One thread and no macroblock tree: with either the bytes can differ from run to run."""


def render_frames(clip: Clip, size: int) -> Iterator[np.ndarray]:
    """The clip's frames before compression, uint8 RGB of shape (size, size, 3)."""
    light = clip.scene.light(size)
    for frame in range(clip.frames):
        drift_part = 2 * frame / (clip.frames - 1) - 1
        hands = hands_at(clip.sign, clip.performance, frame)
        yield np.asarray(draw_frame(clip.signer, clip.scene, light, hands, drift_part))


def encode_clip(clip: Clip, size: int) -> bytes:
    """The clip as an mp4 file: H.264, yuv420p, ``FPS``; bitexact, so without date and library version."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={**X264_OPTIONS, "crf": str(clip.crf)})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        reformatter = VideoReformatter()
        for rgb_HWC in render_frames(clip, size):
            frame = reformatter.reformat(av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24"), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def write_clips(clips: list[Clip], videos: Path, size: int, workers: int) -> Generator[Clip, None, None]:
    """Write each clip to ``videos`` and yield it when its file is there, in any order.

    Args:
        workers: processes; 1 renders in this one.

    Raises:
        OSError: a file cannot be written.
        DataError: a worker was killed.
    """
    if workers == 1 or len(clips) <= 1:
        for clip in clips:
            yield write_clip(clip, videos, size)
        return
    # spawn, not fork: the caller may have torch's threads running
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(clips)), context, initializer=_end_with_parent)
    try:
        with _interrupt_held_back():  # workers start here and inherit this: Ctrl-C is for the parent alone
            jobs = [pool.submit(write_clip, clip, videos, size) for clip in clips]
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a rendering process was killed (out of memory?); run again, finished clips are kept, or use fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def write_clip(clip: Clip, videos: Path, size: int) -> Clip:
    """Render, encode and write one clip."""
    write_whole(videos / f"{clip.video_id}.mp4", encode_clip(clip, size))
    return clip


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """SIGINT waits until the block is left; processes started inside never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()
