"""What the video files of a data directory are like, clip by clip. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.data.loading.region import bbox_applies
from models.data.video.frame_ranges import frame_range, rate_ratio
from models.data.video.reader import open_video
from models.data.wlasl import ClipInfo
from slr_bench.errors import DataError


@dataclass(frozen=True)
class Finding:
    """One clip's file. The flags are False where it cannot be read."""

    clip: ClipInfo
    unreadable: str | None
    """Why training could not read it; None: it could."""
    frames: int = 0
    """Of the sign, in the file."""
    is_short: bool = False
    """The sign has fewer frames than the network takes: the last one is repeated."""
    has_other_rate: bool = False
    """Annotated frame numbers count at another rate than the file's and are rescaled."""
    has_stale_bbox: bool = False
    """The bbox was measured on another picture than the file's."""


def inspect_clip(clip: ClipInfo, num_frames: int, *, decode: bool) -> Finding:
    """Open a clip's file and read its packets (1 to 2 ms); ``decode``: decode all frames of the sign, too."""
    try:
        with open_video(clip.path) as video:
            start, end = frame_range(clip, video.frames, video.fps)
            video.verify(start, end, decode=decode)
    except DataError as error:
        return Finding(clip, str(error))
    return Finding(
        clip,
        unreadable=None,
        frames=end - start,
        is_short=end - start < num_frames,
        has_other_rate=rate_ratio(clip, video.fps) != 1.0,
        has_stale_bbox=not bbox_applies(clip.bbox, *video.size),
    )


def inspect_clips(clips: Sequence[ClipInfo], num_frames: int, threads: int, *, decode: bool) -> Iterator[Finding]:
    """Findings in the order of ``clips``; FFmpeg works beside the interpreter, so threads help."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda clip: inspect_clip(clip, num_frames, decode=decode), clips)
