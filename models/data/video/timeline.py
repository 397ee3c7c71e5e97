"""Number the frames of a stored video from its packets, without decoding them. No torch.

Frames are numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import av

_WITH_PRESENTATION_STAMPS = ("mov", "mp4", "matroska", "webm", "flv", "mpegts", "ogg", "nut")
"""Containers that store when each frame is shown; the others store the order of decoding only."""
_WITHOUT_DURATION = ("mpeg", "mpegts", "mpegvideo", "h264", "hevc", "m4v", "obu", "dv")
"""Containers that store no duration; FFmpeg estimates one."""
_TRANSPORT_PACKET_BYTES = (188, 192, 204)
_STEADY = 0.1
"""Intervals between frames may differ by this fraction of the median at a constant frame rate, or by one clock tick if
the clock is finer than the rate."""
_TOLERATED_FRAMES, _TOLERATED_SHARE = 2, 0.02
"""A file that lacks this much at its end is read as far as it goes: some programs write a duration that is too long."""


class Timeline(NamedTuple):
    """The frames of a file, as its packets list them."""

    frames: int
    """Frames that can be requested; in a file that was cut off, those after ``readable`` cannot be read."""
    readable: int
    """Frames whose numbers are certain and whose packets are in the file."""
    missing: int
    """Frames that the file announces and does not hold, at its end."""
    stamps: Sequence[int]
    """Time stamp of each readable frame, ascending; empty if the stamps do not order the frames."""
    key_stamps: Mapping[int, int]
    """Numbers of the frames at which decoding can begin, ascending, each with the time stamp to seek for."""
    damaged: frozenset[int]
    """Frames whose packets are marked as damaged by the container, or that the decoder guessed while counting."""
    fps: float | None
    """Frames per second; None if unknown."""
    is_steady: bool
    """True if the intervals between the frames are equal; if not, the rate varies or frames are missing."""
    hidden: int = 0
    """Stored frames that an edit list hides: the file was trimmed without coding it anew."""


def stored_packets(container: av.container.InputContainer, stream: av.VideoStream) -> list[av.Packet]:
    """Read all packets of the stream that hold a picture for display, without decoding them.

    With a sample table, a damaged packet is one that ends beyond the end of the file; it does not count as stored.
    """
    with_table = bool(stream.frames)
    return [p for p in container.demux(stream) if p.size and not p.is_discard and not (with_table and p.is_corrupt)]


def _stores_presentation_stamps(container: str) -> bool:
    return any(name in _WITH_PRESENTATION_STAMPS for name in container.split(","))


def stamps_order_frames(packets: Sequence[av.Packet], container: str, stream: av.VideoStream) -> bool:
    """Return whether the time stamps of the packets give the order in which the frames are shown."""
    stamps = [packet.pts for packet in packets]
    if any(stamp is None for stamp in stamps) or len(set(stamps)) < len(stamps):
        return False
    if not stream.codec_context.has_b_frames or _stores_presentation_stamps(container):
        return True
    # A program stream may store them, or only some: then FFmpeg fills in the order of decoding, which ascends.
    return container == "mpeg" and stamps != sorted(stamps)


def timeline_by_stamps(
    packets: Sequence[av.Packet], container: av.container.InputContainer, stream: av.VideoStream
) -> Timeline:
    """Number the frames by their time stamps."""
    stamps = sorted(packet.pts for packet in packets)
    # The sample table lists what the file should hold. A fragmented file has none (frames == 0).
    has_table = bool(stream.frames) and "mov" in container.format.name
    in_table = sum(not entry.is_discard for entry in stream.index_entries) if has_table else 0
    # A lost packet could have been shown before as many of the stored ones as the decoder may hold back.
    depth = stream.codec_context.reorder_depth
    fps, is_steady = _frame_rate(stamps[: len(stamps) - depth], stream), _is_steady(stamps)
    missing = max(in_table - len(stamps), _missing_frames(packets, container, stream, fps), 0)
    is_cut = in_table > len(stamps) or _is_cut(len(stamps), missing, container, stream)
    frames = len(stamps) + missing if is_cut else len(stamps)
    if is_cut:
        stamps = stamps[: max(1, len(stamps) - depth)]
    number_of = {stamp: number for number, stamp in enumerate(stamps)}
    keys = {number_of[p.pts]: p for p in packets if p.is_keyframe and p.pts in number_of}
    seeks_pts = _stores_presentation_stamps(container.format.name)
    return Timeline(
        frames=frames,
        readable=len(stamps),
        missing=missing,
        stamps=stamps,
        key_stamps={n: keys[n].pts if seeks_pts or keys[n].dts is None else keys[n].dts for n in sorted(keys)},
        damaged=frozenset(number_of[p.pts] for p in packets if p.is_corrupt and p.pts in number_of),
        fps=fps,
        is_steady=is_steady,
        hidden=stream.frames - in_table if has_table else 0,
    )


def timeline_by_count(
    count: int,
    damaged: frozenset[int],
    packets: Sequence[av.Packet],
    container: av.container.InputContainer,
    stream: av.VideoStream,
) -> Timeline:
    """Number the frames in the order in which the decoder yields them; it yielded ``count``."""
    fps = float(stream.average_rate) if stream.average_rate else None
    missing = _missing_frames(packets, container, stream, fps)
    frames = count + missing if _is_cut(count, missing, container, stream) else count
    # A packet may hold no picture only if another one holds two: old AVI files pack B-frames so.
    lost = len(packets) - count
    is_steady = _is_steady([packet.dts for packet in packets if packet.dts is not None])
    shown = [packet.pts for packet in packets if packet.pts is not None]
    is_steady = is_steady and len(set(shown)) == len(shown)
    return Timeline(frames, count, max(missing, lost), (), {}, damaged, fps, is_steady)


def _frame_rate(stamps: Sequence[int], stream: av.VideoStream) -> float | None:
    """Return the frames per second.

    The declared rate counts unless the stamps contradict it, as in files of browsers, which declare 1000.
    """
    declared = float(stream.average_rate) if stream.average_rate else None
    if len(stamps) < 3:
        return declared
    measured = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * float(stream.time_base))
    is_true = declared is not None and abs(declared / measured - 1) < _STEADY
    return declared if is_true and _is_steady(stamps) else measured


def _is_steady(stamps: Sequence[int]) -> bool:
    if len(stamps) < 3:
        return True
    intervals = sorted(after - before for before, after in pairwise(stamps))
    middle = intervals[len(intervals) // 2]
    return max(intervals[-1] - middle, middle - intervals[0]) <= max(_STEADY * middle, middle > 2)


def _is_cut(count: int, missing: int, container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    # FFmpeg shortens the duration of an AVI that is smaller than its header says; its count alone may be wrong.
    is_whole = container.format.name == "avi" and stream.duration == stream.frames
    return not is_whole and missing > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * count)


def _missing_frames(
    packets: Sequence[av.Packet],
    container: av.container.InputContainer,
    stream: av.VideoStream,
    fps: float | None,
) -> int:
    """Return how many frames the header announces after the last packet; 0 where it announces nothing.

    AVI and IVF count their frames, placeholders included. Elsewhere there is a duration, which may end with the
    beginning of the last frame or with the sound.
    """
    names = container.format.name.split(",")
    if names == ["mpegts"] and packets and all(container.size % size for size in _TRANSPORT_PACKET_BYTES):
        return 1
    if not packets or not fps or any(name in _WITHOUT_DURATION for name in names):
        return 0
    if stream.frames:
        last = packets[-1].dts
        if last is None or "mov" in names:
            return 0
        return max(0, round(float((stream.frames - last) * stream.time_base) * fps) - 1)
    duration_s = (container.duration or 0) / av.time_base
    if (duration_s - _end_s(packets)) * fps < 1.5:
        return 0
    container.seek(0)
    all_packets = packets
    with suppress(IndexError):  # PyAV 18, if a damaged file holds more streams than its header announces
        all_packets = list(container.demux())  # the sound may be longer
    if (duration_s - _end_s(all_packets)) * fps < 1.5:
        return 0
    start_s = min((float(p.pts * p.time_base) for p in packets if p.pts is not None), default=0.0)
    return max(1, round((duration_s - start_s) * fps) - len(packets))  # lost frames may lie before stored B-frames


def _end_s(packets: Sequence[av.Packet]) -> float:
    return max((float((p.pts + (p.duration or 0)) * p.time_base) for p in packets if p.pts is not None), default=0.0)
