"""Inspect the video files of clips: what a user has to know of them before a training. No torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import av.logging

from models.data.manifest import ClipInfo
from models.data.video.clip_location import bbox_applies, frame_range, rate_ratio
from models.data.video.reader import open_video
from slr_bench.errors import DataError

_BARE_STREAMS = frozenset({"mjpeg", "h264", "hevc", "mpegvideo", "m4v", "h263", "obu", "dv", "av1"})
"""Formats without a container, which FFmpeg also recognises in the rest of a container that lost its beginning."""
_CONTAINER_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".3gp"})


@dataclass(frozen=True)
class Finding:
    """The state of one clip's file. The flags are False if it cannot be read."""

    clip: ClipInfo
    unreadable: str | None
    """Reason why training cannot read it; None if it can."""
    frames: int = 0
    """Frames of the sign in the file."""
    is_short: bool = False
    """The sign has fewer frames than the network takes: the last one is repeated."""
    has_other_rate: bool = False
    """Annotated frame numbers count at another rate than the file's and are rescaled."""
    has_stale_bbox: bool = False
    """The bbox was measured on another picture than the file's."""
    is_turned: bool = False
    """The coded pictures are rotated or mirrored for display."""
    has_several_streams: bool = False
    """The file holds several videos; the default one is read."""
    is_uneven: bool = False
    """The intervals between the frames differ: the rate varies, or frames are missing."""
    hidden: int = 0
    """Stored frames that an edit list hides."""
    missing: int = 0
    """Frames that the file announces and does not hold, at its end."""
    concealed: int = 0
    """Damaged frames whose pictures the decoder guessed; counted only when every frame is decoded."""
    damage: str | None = None
    """The first error that FFmpeg reported while it read the file; None if it reported none."""


def inspect_clip(clip: ClipInfo, num_frames: int, *, decode: bool) -> Finding:
    """Open the file of a clip and read its packets (2 to 4 ms); with ``decode``, decode all frames of the sign too."""
    with av.logging.Capture() as messages:
        try:
            with open_video(clip.path) as video:
                start, end = frame_range(clip, video)
                size = video.size
                video.verify(start, end, decode=decode)
        except DataError as error:
            return Finding(clip, str(error))
    errors = [f"{name}: {' '.join(text.split())}" for level, name, text in messages if level <= av.logging.ERROR]
    if video.format in _BARE_STREAMS and clip.path.suffix.lower() in _CONTAINER_SUFFIXES:
        errors.append(f"the beginning of the {clip.path.suffix} file is missing: it is read as bare {video.format}")
    return Finding(
        clip,
        unreadable=None,
        frames=end - start,
        is_short=end - start < num_frames,
        has_other_rate=rate_ratio(clip, video.fps) != 1.0,
        has_stale_bbox=clip.bbox is not None and not bbox_applies(clip.bbox, *size),
        is_turned=video.is_turned,
        has_several_streams=video.streams > 1,
        is_uneven=not video.timeline.is_steady,
        hidden=video.timeline.hidden,
        missing=video.timeline.missing,
        concealed=len(video.concealed),
        damage=errors[0] if errors else None,
    )


def inspect_clips(clips: Sequence[ClipInfo], num_frames: int, threads: int, *, decode: bool) -> Iterator[Finding]:
    """Yield findings in the order of ``clips``. FFmpeg releases the interpreter lock, so threads help."""
    with _ffmpeg_errors(), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda clip: inspect_clip(clip, num_frames, decode=decode), clips)


@contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    """Make FFmpeg's error messages reach ``av.logging.Capture``; each is captured in the thread that reads the file.

    FFmpeg notices more damage than it marks in the frames, above all in containers and in lossless codecs.
    """
    logger = logging.getLogger("libav")  # where messages of FFmpeg's own threads go
    before, was_disabled = av.logging.get_skip_repeated(), logger.disabled
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # the same error in two files counts in both
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was_disabled
        av.logging.set_skip_repeated(before)
        av.logging.set_level(None)
