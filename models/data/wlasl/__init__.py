"""The manifest of a WLASL-style data directory: its clips, their classes and their splits. No torch.

Layout: an annotation list (any ``*.json`` that is a list of glosses with instances), split files ``nslt_<N>.json``,
optionally a class list (``*class_list*.txt``), and ``videos/<video_id>.mp4`` (or another container). Source: Li et al.,
WACV 2020. ``python -m models.data.wlasl check DIR`` lists what such a directory holds and lacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from models.data.wlasl.files import (
    Instance,
    LeftOut,
    Reason,
    Split,
    SplitEntry,
    VideoFile,
    choose_split_file,
    describe,
    find_videos,
    list_directory,
    load_annotations,
    load_class_list,
    load_split,
    read_list,
)
from slr_bench.errors import DataError

SPLITS: tuple[Split, ...] = get_args(Split)
_LEAST_ANNOTATED = 0.5
"""Fraction of the split file that the annotation list must name; with less, they are of different releases."""
_RESPELT = frozenset({"lose", "losear"})
"""WLASL v0.3 spells the gloss of class 163 in two ways: in the annotation list and in the class list."""


@dataclass(frozen=True)
class ClipInfo:
    """One sign in one video file. Frame numbers count at ``fps``, which may differ from the file's own rate."""

    video_id: str
    label: int
    gloss: str
    signer_id: int
    split: Split
    frame_start: int
    """0-based first frame."""
    frame_end: int | None
    """One past the last frame; None: to the end of the file."""
    bbox: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the original video; resized copies no longer match it."""
    fps: float | None
    """None: the annotation has no rate, so its frame numbers are taken as those of the file."""
    path: Path
    file_bytes: int
    cut_frames: int = 0
    """Frames of the authors' own copy, which holds the sign alone, by the split file; 0 if it does not say."""


@dataclass(frozen=True)
class Manifest:
    """The usable clips of a data directory."""

    glosses: tuple[str, ...]
    """Gloss of each class, by class id."""
    clips: dict[Split, tuple[ClipInfo, ...]]
    """All three splits, each sorted by video id; a split may be empty, train is not."""
    left_out: tuple[LeftOut, ...]
    """Clips of the split file that cannot be used, sorted by id; a caller reports them once."""
    fingerprint: str
    """SHA-256 over (id, class, split, frame range, file size) of the clips: equal data, wherever it lies."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the split file without a file in ``videos/``."""
        return tuple(clip.video_id for clip in self.left_out if clip.reason == "missing")

    @property
    def listed(self) -> int:
        """Clips of the split file."""
        return len(self.left_out) + sum(map(len, self.clips.values()))

    @property
    def left_out_text(self) -> str | None:
        """One line on the clips that are left out; None if all are present."""
        return describe(self.left_out, self.listed) if self.left_out else None


def load_manifest(data_dir: Path, num_classes: int | None) -> Manifest:
    """Read the manifest of ``data_dir``; ``num_classes`` chooses ``nslt_<N>.json``, None takes the only one.

    Class ids are those of the split file; other tools' ids (sorted glosses) are not interchangeable. Clips without a
    file, with an empty one, without an annotation, or named in ``left_out.txt`` are left out and listed. No video is
    opened.

    Raises:
        DataError: unreadable directory, broken or contradictory files, another class count, no training video.
    """
    names = list_directory(data_dir)
    count, split_path = choose_split_file(data_dir, names, num_classes)
    entries = load_split(split_path)
    instances = {i.video_id: (g.gloss, i) for g in load_annotations(data_dir, names) for i in g.instances}
    glosses = load_class_list(data_dir, names)
    videos, unreadable = find_videos(data_dir), read_list(data_dir)
    clips: dict[Split, list[ClipInfo]] = {split: [] for split in SPLITS}
    left_out = []
    for video_id, entry in sorted(entries.items()):
        label = entry.action[0]
        if label >= count:
            raise DataError(f"{split_path}: video {video_id} has class {label}, not 0 to {count - 1}; fix the file")
        if video_id not in instances:  # 12 ids of the official nslt_2000.json are not in WLASL_v0.3.json
            left_out.append(LeftOut(video_id, entry.subset, "unannotated"))
            continue
        gloss, instance = instances[video_id]
        known = glosses.get(label, gloss)
        if known != gloss and {known, gloss} != _RESPELT:
            raise DataError(
                f"{split_path}: class {label} is {known!r} elsewhere, but {gloss!r} for video {video_id}; "
                "use a class list and a split file of one release"
            )
        glosses[label] = gloss
        video = videos.get(video_id)
        reason = _why_left_out(video, video_id in unreadable)
        if video is None or reason is not None:
            left_out.append(LeftOut(video_id, entry.subset, reason or "missing"))
        else:
            clips[entry.subset].append(_clip(video, entry, gloss, instance))
    _check_annotated(split_path, len(entries), left_out)
    if all(entry.subset != "train" for entry in entries.values()):
        raise DataError(f'{split_path} lists no clip of the subset "train"; use the split file of a release')
    if not clips["train"]:
        raise DataError(
            f"no training video of {split_path.name} is in {data_dir / 'videos'} ({describe(left_out, len(entries))}); "
            "fetch or render the videos, or change data.dir"
        )
    return Manifest(
        glosses=tuple(glosses.get(label, "") for label in range(count)),
        clips={split: tuple(found) for split, found in clips.items()},
        left_out=tuple(left_out),
        fingerprint=_fingerprint(clip for split in SPLITS for clip in clips[split]),
    )


def _check_annotated(split_path: Path, listed: int, left_out: list[LeftOut]) -> None:
    annotated = listed - sum(clip.reason == "unannotated" for clip in left_out)
    if annotated < _LEAST_ANNOTATED * listed:
        raise DataError(
            f"{split_path}: the annotation list has only {annotated} of its {listed} videos; use files of one release"
        )


def _why_left_out(video: VideoFile | None, unreadable: bool) -> Reason | None:
    if video is None:
        return "missing"
    if unreadable:
        return "unreadable"
    return None if video.file_bytes else "empty"


def _clip(video: VideoFile, entry: SplitEntry, gloss: str, instance: Instance) -> ClipInfo:
    end = None if instance.frame_end == -1 else instance.frame_end
    if end is not None and end < instance.frame_start:
        raise DataError(
            f"video {instance.video_id}: frame_end {end} is before frame_start {instance.frame_start}; "
            "fix the annotation list"
        )
    return ClipInfo(
        video_id=instance.video_id,
        label=entry.action[0],
        gloss=gloss,
        signer_id=instance.signer_id,
        split=entry.subset,
        frame_start=instance.frame_start - 1,
        frame_end=end,
        bbox=instance.bbox,
        fps=instance.fps,
        path=video.path,
        file_bytes=video.file_bytes,
        cut_frames=max(0, entry.action[2] - entry.action[1] + 1),
    )


def _fingerprint(clips: Iterable[ClipInfo]) -> str:
    rows = [[c.video_id, c.label, c.split, c.frame_start, c.frame_end, c.file_bytes] for c in clips]
    return hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()
