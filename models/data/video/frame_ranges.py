"""Which frames of its video file are a clip: annotations hold for a file that may be another one.

WLASL annotates original videos at 25 frames a second; people have copies: cut, of another rate, or resized. No torch.
"""

from __future__ import annotations

from models.data.wlasl import ClipInfo
from slr_bench.errors import DataError


def rate_ratio(clip: ClipInfo, file_fps: float | None) -> float:
    """Frames of the file for each annotated one; 1 where the file does not say its rate, or it is a rounding apart."""
    ratio = file_fps / clip.fps if file_fps else 1.0
    return 1.0 if abs(ratio - 1.0) < 0.01 else ratio  # 29.97 against 30, or a rounded header


def frame_range(clip: ClipInfo, file_frames: int, file_fps: float | None) -> tuple[int, int]:
    """The clip's frames [start, end) in a file of ``file_frames`` at ``file_fps``.

    Annotated numbers count at the annotation's rate (25 a second) and are scaled where the file's rate is another.
    WLASL's own preparation cuts the sign out of a long source and keeps the annotation: a range that does not fit a
    file which is as long as the range, or as the split file says the authors' copy is, means the whole file.

    Raises:
        DataError: the file ends before the clip begins.
    """
    rate = rate_ratio(clip, file_fps)
    start = round(clip.frame_start * rate)
    end = file_frames if clip.frame_end is None else round(clip.frame_end * rate)
    if end <= file_frames and start < end:
        return start, end
    lengths = [clip.cut_frames] if clip.frame_end is None else [clip.cut_frames, end - start]
    if any(abs(length - file_frames) <= max(2, file_frames // 10) for length in lengths):
        return 0, file_frames
    if start >= file_frames:
        raise DataError(
            f"{clip.path.name} has {file_frames} frames, but its sign begins at frame {start}; "
            "fetch the file again, or delete it to leave it out"
        )
    return start, max(start + 1, min(end, file_frames))
