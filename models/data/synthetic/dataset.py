"""Render a labelled sign-language data set in the layout of WLASL, so that measuring needs no download.

``python -m models.data.synthetic --out DIR`` writes ``WLASL_v0.3.json``, ``nslt_<N>.json``, ``wlasl_class_list.txt``
and ``videos/<video_id>.mp4`` (25 frames per second, H.264, yuv420p). Equal settings give equal bytes, whatever the
number of worker processes. The settings are written to ``synthetic.fingerprint`` before the first video. Files appear
only when they are complete, and the lists are written after the videos. An interrupted rendering therefore has no
annotation list, and the same command completes it.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.command import OneLineParser, run_command
from models.data.synthetic.drawing import draw_frame
from models.data.synthetic.motion import hands_at
from models.data.synthetic.plan import FPS, HELD_OUT, Clip, RenderSettings, plan_clips
from slr_bench.errors import ConfigError, DataError
from slr_bench.files import replace_file
from slr_bench.grid.yaml_files import validate
from slr_bench.units import format_seconds

RENDERER_VERSION = 1
"""Goes up with every change of a pixel or a label; a directory of another version is refused."""

ANNOTATIONS = "WLASL_v0.3.json"
CLASS_LIST = "wlasl_class_list.txt"
FINGERPRINT = "synthetic.fingerprint"
X264_OPTIONS = {"preset": "veryfast", "x264-params": "threads=1:mbtree=0"}
"""One thread and no macroblock tree: with either the bytes can differ from run to run."""


def render_dataset(
    out: Path,
    num_classes: int = 20,
    clips_per_class: int = 24,
    signers: int = 12,
    size: int = 128,
    seed: int = 0,
    nuisance: float = 1.0,
    held_out: float = HELD_OUT,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Render a data set into ``out`` and return the number of clips rendered: 0 if all were there already.

    With more than one worker the calling script needs the ``if __name__ == "__main__"`` guard (processes are spawned).

    Args:
        out: a new or empty directory, or one that a call with equal settings has begun or finished.
        num_classes, clips_per_class, signers, size, seed, nuisance, held_out: see ``RenderSettings``.
        workers: rendering processes; 1 renders in this process.
        progress: called with (clips there, clips in all) after each clip.

    Raises:
        ConfigError: impossible settings; ``out`` is a file, cannot be written, or holds something else.
        DataError: a rendering process was killed.
    """
    values = {name: value for name, value in locals().items() if name in RenderSettings.model_fields}
    settings = validate(RenderSettings, values, "synthetic data")
    if workers < 1:
        raise ConfigError(f"synthetic data: workers={workers}, so no process would render; use 1 or more")
    clips = plan_clips(settings)
    videos = out / "videos"
    try:
        _claim(out, settings)
        videos.mkdir(exist_ok=True)
        there = {path.stem for path in videos.glob("*.mp4")}
        missing = [clip for clip in clips if clip.video_id not in there]
        with closing(write_clips(missing, videos, settings.size, workers)) as written:
            for count, _ in enumerate(written, len(clips) - len(missing) + 1):
                if progress is not None:
                    progress(count, len(clips))
        for name, text in _lists(clips, settings.size).items():
            if not (out / name).exists():
                replace_file(out / name, text, durable=False)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}; choose another directory") from error
    return len(missing)


def _claim(out: Path, settings: RenderSettings) -> None:
    """Reserve ``out`` for this rendering, or find that an equal call did so already.

    Raises:
        ConfigError: it is a file, or holds something else.
        OSError: it cannot be written.
    """
    wanted = json.dumps({"renderer": RENDERER_VERSION, **settings.model_dump(exclude_defaults=True)}) + "\n"
    fingerprint = out / FINGERPRINT
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose a directory")
    if fingerprint.exists():
        found = fingerprint.read_bytes().decode(errors="replace")
        if found != wanted:
            raise ConfigError(
                f"{out} holds another rendering: {found.strip()}, wanted {wanted.strip()}; "
                "choose another directory or delete that one"
            )
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no rendering; choose a new directory")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(fingerprint, wanted, durable=False)


def _lists(clips: list[Clip], size: int) -> dict[str, str]:
    """The annotation files of WLASL: name to text. The instance numbers count within a gloss."""
    by_gloss: dict[str, list[Clip]] = {}
    for clip in clips:
        by_gloss.setdefault(clip.sign.gloss, []).append(clip)
    annotations = [
        {"gloss": gloss, "instances": [_instance(clip, size, number) for number, clip in enumerate(members)]}
        for gloss, members in by_gloss.items()
    ]
    split = {clip.video_id: {"subset": clip.split, "action": [clip.class_id, 1, clip.frames]} for clip in clips}
    return {
        f"nslt_{len(by_gloss)}.json": json.dumps(split, indent=0) + "\n",
        CLASS_LIST: "".join(f"{class_id}\t{gloss}\n" for class_id, gloss in enumerate(by_gloss)),
        ANNOTATIONS: json.dumps(annotations, indent=1) + "\n",
    }


def _instance(clip: Clip, size: int, number: int) -> dict[str, Any]:
    return {
        "bbox": [0, 0, size, size],
        "fps": FPS,
        "frame_start": 1,
        "frame_end": -1,
        "instance_id": number,
        "signer_id": clip.signer_id,
        "source": "synthetic",
        "split": clip.split,
        "url": "",
        "variation_id": 0,
        "video_id": clip.video_id,
    }


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
    replace_file(videos / f"{clip.video_id}.mp4", encode_clip(clip, size), durable=False)
    return clip


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """SIGINT waits until the block is left; processes started inside never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this worker when its parent has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def _parser() -> argparse.ArgumentParser:
    """Options, defaults and help are those of ``render_dataset`` and ``RenderSettings``."""
    parser = OneLineParser(
        prog="python -m models.data.synthetic", description="Render a synthetic sign-language data set."
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty directory, or one to complete")
    helps = {name: field.description or "" for name, field in RenderSettings.model_fields.items()}
    helps["workers"] = "Rendering processes."
    for name, text in helps.items():
        default = inspect.signature(render_dataset).parameters[name].default
        shown = f"{default:.3g}" if isinstance(default, float) else default
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"{text} [{shown}]")
    return parser


def _render_with_progress(options: dict[str, Any]) -> None:
    started_s = time.monotonic()
    columns = (TextColumn("rendering signs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("clips", total=None)

    def show(count: int, total: int) -> None:
        bar.start()  # only now: a refused call prints its one line and no empty bar
        bar.update(task, completed=count, total=total)

    try:
        rendered = render_dataset(**options, progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()
    if rendered:
        print(f"{rendered} clips rendered into {options['out']} in {format_seconds(time.monotonic() - started_s)}")
    else:
        print(f"{options['out']} already holds this rendering; nothing to do")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code. ``arguments`` defaults to the process's own."""
    return run_command(
        lambda: _render_with_progress(vars(_parser().parse_args(arguments))), "the same command completes the rendering"
    )
