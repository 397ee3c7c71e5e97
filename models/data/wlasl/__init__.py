"""The manifest of a data directory, and the layout of WLASL. No torch.

Layout: an annotation list (any ``*.json`` that is a list of glosses with instances), split files ``nslt_<N>.json``,
optionally a class list (``*class_list*.txt``), and ``videos/<video_id>.mp4`` (or another container). Source: Li et al.,
WACV 2020. ``python -m models.data.wlasl check DIR`` lists what such a directory holds and lacks.
"""

from __future__ import annotations

from pathlib import Path

from models.data.layouts.directory import look_at_layout, read_directory
from models.data.left_out import LeftOut, Reason, Split, describe, read_list
from models.data.manifest import SPLITS, ClipInfo, Manifest, VideoFile, make_manifest
from models.data.wlasl.files import (
    Instance,
    SplitEntry,
    choose_split_file,
    find_videos,
    list_directory,
    load_annotations,
    load_class_list,
    load_split,
    split_files,
)
from slr_bench.errors import DataError

__all__ = ["SPLITS", "ClipInfo", "Manifest", "load_manifest"]

_LEAST_ANNOTATED = 0.5
"""Fraction of the split file that the annotation list must name; with less, they are of different releases."""
_RESPELT = frozenset({"lose", "losear"})
"""WLASL v0.3 spells the gloss of class 163 in two ways: in the annotation list and in the class list."""


def load_manifest(
    data_dir: Path, num_classes: int | None, *, needed: Split = "train", exactly: bool = True
) -> Manifest:
    """Read the manifest of ``data_dir``. No video is opened.

    Clips without a file, with an empty one, without an annotation, or named in ``left_out.txt`` are left out and
    listed. Class ids are those of the split file; other tools' ids (sorted glosses) are not interchangeable.

    Args:
        data_dir: data in WLASL layout, or in another one that ``models.data.layouts`` reads.
        num_classes: chooses ``nslt_<N>.json``; None takes the only one.
        needed: the split that must have clips.
        exactly: whether data with another number of classes are refused.

    Raises:
        DataError: unreadable directory, broken or contradictory files, another class count, no clip in ``needed``.
    """
    names = list_directory(data_dir)
    if not _is_release(data_dir, names):
        return read_directory(data_dir, num_classes, needed=needed, exactly=exactly)
    count, split_path = choose_split_file(data_dir, names, num_classes, exactly=exactly)
    return _read_release(data_dir, names, count, split_path, needed)


def look_at(data_dir: Path, needed: Split) -> None:
    """Refuse a directory that ``load_manifest`` cannot read, whatever the number of classes. Takes a moment.

    Raises:
        DataError: the directory cannot be read, or has no known layout with clips in ``needed``.
    """
    if not _is_release(data_dir, list_directory(data_dir)):
        look_at_layout(data_dir, needed)


def _is_release(data_dir: Path, names: list[str]) -> bool:
    """Return whether the directory is in WLASL layout. Raises DataError if it only lacks the split file."""
    if not split_files(names) and "videos" in names and any(name.endswith(".json") for name in names):
        raise DataError(f"{data_dir} has a list in JSON, but no split file nslt_<N>.json; use the files of one release")
    return bool(split_files(names))


def _read_release(data_dir: Path, names: list[str], count: int, split_path: Path, needed: Split) -> Manifest:
    entries, repeated = load_split(split_path)
    instances: dict[str, tuple[str, Instance]] = {}
    for gloss, instance in ((g.gloss, i) for g in load_annotations(data_dir, names) for i in g.instances):
        if instance.video_id in instances and instance.video_id in entries:
            repeated.add(instance.video_id)
        instances[instance.video_id] = gloss, instance
    glosses = _glosses(split_path, count, entries, instances, load_class_list(data_dir, names))
    videos, unreadable = find_videos(data_dir), read_list(data_dir)
    clips, left_out = [], []
    for video_id, entry in entries.items():
        annotated, video = instances.get(video_id), videos.get(video_id)
        reason = _why_left_out(video, video_id in unreadable) if annotated else "unannotated"
        if video is None or annotated is None or reason is not None:
            left_out.append(LeftOut(video_id, entry.subset, reason or "missing"))
        else:
            clips.append(_clip(video, entry, *annotated))
    manifest = make_manifest([glosses.get(label, "") for label in range(count)], clips, left_out, repeated)
    _check_complete(data_dir, split_path, entries, manifest, needed)
    return manifest


def _glosses(
    split_path: Path,
    count: int,
    entries: dict[str, SplitEntry],
    instances: dict[str, tuple[str, Instance]],
    class_list: dict[int, str],
) -> dict[int, str]:
    """Return the gloss of each class, as all files of the release agree on it."""
    glosses = dict(class_list)
    for video_id, entry in sorted(entries.items()):
        label = entry.action[0]
        if label >= count:
            raise DataError(f"{split_path}: video {video_id} has class {label}, not 0 to {count - 1}; fix the file")
        if video_id not in instances:  # 12 ids of the official nslt_2000.json are not in WLASL_v0.3.json
            continue
        gloss, _ = instances[video_id]
        known = glosses.get(label, gloss)
        if known != gloss and {known, gloss} != _RESPELT:
            raise DataError(
                f"{split_path}: class {label} is {known!r} elsewhere, but {gloss!r} for video {video_id}; "
                "use a class list and a split file of one release"
            )
        glosses[label] = gloss
    return glosses


def _check_complete(
    data_dir: Path, split_path: Path, entries: dict[str, SplitEntry], manifest: Manifest, needed: Split
) -> None:
    annotated = len(entries) - sum(clip.reason == "unannotated" for clip in manifest.left_out)
    if annotated < _LEAST_ANNOTATED * len(entries):
        raise DataError(
            f"{split_path}: the annotation list has only {annotated} of its {len(entries)} videos; "
            "use files of one release"
        )
    if needed != "train" and not manifest.clips[needed]:
        left_out = f" ({manifest.left_out_text})" if manifest.left_out else ""
        raise DataError(f"{data_dir} has no {needed} clips{left_out}; choose another --split or --data-dir")
    if all(entry.subset != needed for entry in entries.values()):
        raise DataError(f'{split_path} lists no clip of the subset "{needed}"; use the split file of a release')
    if not manifest.clips[needed]:
        raise DataError(
            f"no training video of {split_path.name} is in {data_dir / 'videos'} "
            f"({describe(manifest.left_out, len(entries))}); fetch or render the videos, or change data.dir"
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
