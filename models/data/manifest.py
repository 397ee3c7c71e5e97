"""The clips of a data directory, whatever its layout: their classes, splits and files. No torch."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, get_args

from models.data.left_out import LeftOut, Split, describe, some_of

SPLITS: tuple[Split, ...] = get_args(Split)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".flv", ".swf", ".mpg", ".wmv", ".3gp",
                  ".mpeg", ".mts", ".m2ts", ".ts", ".ogv", ".vob")  # fmt: skip
_FIRST_BYTES = 2**14
"""Bytes at the beginning of files of equal size that are compared first; most differ there."""


class VideoFile(NamedTuple):
    """A video of a data directory."""

    path: Path
    file_bytes: int


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
    bbox: tuple[float, float, float, float] | None
    """Left, top, right, bottom in pixels of the original video; resized copies no longer match it. None: unknown."""
    fps: float | None
    """None: the annotation has no rate, so its frame numbers are taken as those of the file."""
    path: Path
    file_bytes: int
    cut_frames: int = 0
    """Frames of the authors' own copy, which holds the sign alone, by the split file; 0 if it does not say."""

    @property
    def is_whole_file(self) -> bool:
        """Return whether the clip is its whole file, so that no frame number of it is annotated."""
        return self.frame_start == 0 and self.frame_end is None


@dataclass(frozen=True)
class Manifest:
    """The usable clips of a data directory."""

    glosses: tuple[str, ...]
    """Gloss of each class, by class id."""
    clips: dict[Split, tuple[ClipInfo, ...]]
    """All three splits, each sorted by video id; a split may be empty."""
    left_out: tuple[LeftOut, ...]
    """Listed clips that cannot be used, sorted by id; a caller reports them once."""
    fingerprint: str
    """SHA-256 over (id, class, split, frame range, file size) of the clips: equal data, wherever it lies."""
    repeated: tuple[str, ...] = ()
    """Ids that are listed more than once, sorted. The clip is used once, and the last entry counts."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Listed ids without a file."""
        return tuple(clip.video_id for clip in self.left_out if clip.reason == "missing")

    @property
    def listed(self) -> int:
        """Number of clips that the directory lists."""
        return len(self.left_out) + sum(map(len, self.clips.values()))

    @property
    def left_out_text(self) -> str | None:
        """One line on the clips that are left out; None if all are present."""
        return describe(self.left_out, self.listed) if self.left_out else None

    @cached_property
    def leaks(self) -> tuple[tuple[str, ...], ...]:
        """Groups of clips of different splits that have the same content, by id. Reads files of equal size."""
        clips = [clip for split in SPLITS for clip in self.clips[split]]
        found = []
        for copies in same_content([VideoFile(clip.path, clip.file_bytes) for clip in clips]):
            # One recording may hold several signs: only equal parts of it are the same clip.
            for group in _groups(copies, lambda place: (clips[place].frame_start, clips[place].frame_end)):
                if len({clips[place].split for place in group}) > 1:
                    found.append(tuple(clips[place].video_id for place in group))
        return tuple(found)

    @property
    def notices(self) -> list[str]:
        """Lines on the directory that its user should know of."""
        return ([self.left_out_text] if self.left_out_text else []) + self.repetition_texts

    @property
    def repetition_texts(self) -> list[str]:
        """Lines on clips that are listed more than once, and on videos that are in more than one split."""
        lines = []
        if self.repeated:
            count, examples = len(self.repeated), some_of(self.repeated)
            lines.append(f"clips that are listed twice: {count} ({examples}); the last entry counts")
        if self.leaks:
            count, examples = len(self.leaks), some_of(" = ".join(group) for group in self.leaks)
            lines.append(
                f"videos that are in two splits: {count} ({examples}); accuracy is then too high, so delete the copies"
            )
        return lines


def make_manifest(
    glosses: Sequence[str], clips: Iterable[ClipInfo], left_out: Iterable[LeftOut], repeated: Iterable[str] = ()
) -> Manifest:
    """Return the manifest of ``clips`` in any order."""
    clips = sorted(clips, key=lambda clip: clip.video_id)
    rows = [[c.video_id, c.label, c.split, c.frame_start, c.frame_end, c.file_bytes] for c in clips]
    return Manifest(
        glosses=tuple(glosses),
        clips={split: tuple(clip for clip in clips if clip.split == split) for split in SPLITS},
        left_out=tuple(sorted(left_out, key=lambda clip: clip.video_id)),
        fingerprint=hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest(),
        repeated=tuple(sorted(repeated)),
    )


def same_content(files: Sequence[VideoFile]) -> list[list[int]]:
    """Return the groups of two or more files with the same bytes, as places in ``files``.

    Only files of equal size are read: first their beginning, then, where beginnings agree, the rest. A file that cannot
    be read has no copies.
    """
    groups = _groups(range(len(files)), lambda place: files[place].file_bytes)
    for limit in (_FIRST_BYTES, None):
        groups = [same for group in groups for same in _groups(group, partial(_digest_at, files, limit))]
    return groups


def _groups(places: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Return the groups of two or more places with the same key; None is no key."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place in places:
        found[key(place)].append(place)
    return [group for value, group in found.items() if value is not None and len(group) > 1]


def _digest_at(files: Sequence[VideoFile], limit: int | None, place: int) -> bytes | None:
    """Return the hash of a file, or of its first ``limit`` bytes; None if it cannot be read."""
    try:
        with files[place].path.open("rb") as file:
            if limit is None:
                return hashlib.file_digest(file, "sha256").digest()
            return hashlib.sha256(file.read(limit)).digest()
    except OSError:
        return None
