"""Reads the manifest of a directory whose clips are named by folders or by a table. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.data.layouts.layout import MANIFEST_NAME, Layout, classes_text, command_for, find_layout
from models.data.layouts.rows import Clip, look_up, seconds_text, sorted_labels
from models.data.layouts.tables import read_table
from models.data.layouts.tree import Tree, scan
from models.data.left_out import LeftOut, Reason, Split, read_list
from models.data.manifest import SPLITS, ClipInfo, Manifest, VideoFile, make_manifest, same_content
from slr_bench.errors import DataError
from slr_bench.units import plain

_TICKS_PER_S = 1000.0
"""Frame rate at which times of a table are counted."""


def imported_words(data_dir: Path) -> list[str]:
    """Return the word of each class of an imported table. Raises DataError."""
    return sorted_labels(row.label for row in find_layout(Tree(data_dir), [MANIFEST_NAME]).rows)


def earlier_splits(directory: Path, clips: Sequence[Clip], same_file: Mapping[str, str]) -> dict[str, Split]:
    """Return the split of each clip in the table of an earlier import, by clip id; empty without one.

    A clip has the split of any file with its content, as ``same_file`` gives them.

    Raises:
        DataError: the table is broken.
    """
    if not (directory / MANIFEST_NAME).is_file():
        return {}
    table = read_table(directory, MANIFEST_NAME, lambda _: False)
    rows = [row for row in (table.rows if table else []) if row.split]
    splits = {_file_and_times(directory / row.path, (row.start_s, row.end_s)): row.split for row in rows}
    found: dict[tuple[object, ...], Split] = {}
    contents = {c.video_id: (same_file.get(str(c.file.path), str(c.file.path)), *c.part) for c in clips if c.file}
    for clip in clips:
        if clip.file and (split := splits.get(_file_and_times(clip.file.path, clip.part))):
            found.setdefault(contents[clip.video_id], split)
    return {video_id: found[content] for video_id, content in contents.items() if content in found}


def _file_and_times(path: Path, part: tuple[float | None, float | None]) -> tuple[str | None, ...]:
    """Return the file and the times of a clip in one form, whatever links lead to its folder."""
    times = (None if value is None else seconds_text(value) for value in part)
    return os.path.join(os.path.realpath(path.parent), path.name), *times


def videos_beside_table(data_dir: Path, manifest: Manifest) -> list[str]:
    """Return the videos below an imported directory that its table does not have; empty without a table.

    Copies of a video in the table and files of 0 bytes do not count, because the import leaves them out.
    """
    if not (data_dir / MANIFEST_NAME).is_file():
        return []
    listed = [VideoFile(clip.path, clip.file_bytes) for split in SPLITS for clip in manifest.clips[split]]
    paths = {os.path.realpath(video.path) for video in listed}
    names = {os.path.normpath(clip.video_id.partition("@")[0]) for clip in manifest.left_out}
    tree = scan(data_dir)
    others = [name for name, size in tree.videos.items() if size and name not in names]
    others = [name for name in others if os.path.realpath(data_dir / name) not in paths]
    if not others:
        return []
    groups = same_content([*listed, *map(tree.file, others)])
    copies = {place for group in groups if group[0] < len(listed) for place in group}
    return [name for place, name in enumerate(others, len(listed)) if place not in copies]


def look_at_layout(data_dir: Path, needed: Split = "train") -> tuple[Tree, Layout]:
    """Return the files of ``data_dir`` and the clips that they name, each with its split.

    Raises:
        DataError: there is no known layout, or it has no splits; the message has the command that imports it.
    """
    if (data_dir / MANIFEST_NAME).exists():
        tree = Tree(data_dir)  # the table has every path, so nothing is searched
        return tree, find_layout(tree, [MANIFEST_NAME])
    tree = scan(data_dir)
    layout = find_layout(tree)
    splits = {row.split for row in layout.rows}
    wanted: tuple[Split, ...] = ("train", "val") if needed == "train" else (needed,)
    lacking = [split for split in wanted if split not in splits]
    if lacking:
        _refuse_undividable(data_dir, layout, needed)
        what = f"no {' and no '.join(lacking)} clips" if layout.has_splits else "no splits"
        raise DataError(
            f"{plain(data_dir)} holds {len(layout.rows):,} clips of {classes_text(row.label for row in layout.rows)} "
            f"({layout.name}) and {what}; run {command_for(data_dir)}, which divides them, and use the directory again"
        )
    return tree, layout


def _refuse_undividable(data_dir: Path, layout: Layout, needed: Split) -> None:
    """Refuse clips that an import cannot divide. Raises DataError."""
    splits = [split for split in SPLITS if any(row.split == split for row in layout.rows)]
    if layout.has_splits and needed != "train":
        raise DataError(f"{plain(data_dir)} has no {needed} clips; choose --split {' or --split '.join(splits)}")
    if layout.has_splits and "train" not in splits:
        raise DataError(
            f"{plain(data_dir)} has {' and '.join(splits)} clips only: it can be evaluated (--split {splits[0]}), not "
            "trained; name a directory with training clips"
        )
    if not layout.has_splits and max(Counter(row.label for row in layout.rows).values()) == 1:
        raise DataError(f"{plain(data_dir)} has one clip per class; add clips, at least two per class are needed")


def read_directory(data_dir: Path, num_classes: int | None, *, needed: Split, exactly: bool) -> Manifest:
    """Read the manifest of a directory in another layout than WLASL's; see ``load_manifest``.

    Class ids count the labels in order: numbers by value, words by letter.

    Raises:
        DataError: no known layout, no splits, contradictory rows, another class count, no clip in ``needed``.
    """
    tree, layout = look_at_layout(data_dir, needed)
    glosses = sorted_labels(row.label for row in layout.rows)
    if exactly and num_classes not in (None, len(glosses)):
        raise DataError(
            f"model.num_classes={num_classes}, but {plain(data_dir)} has {classes_text(glosses)}; use --num-classes "
            f"{len(glosses)} or model.num_classes: {len(glosses)}"
        )
    if all(row.split != needed for row in layout.rows):
        _refuse_undividable(data_dir, layout, needed)
    looked, unreadable = look_up(layout.rows, tree), read_list(data_dir)
    labels = {gloss: label for label, gloss in enumerate(glosses)}
    signers = {name: number for number, name in enumerate(sorted({row.signer or "" for row in layout.rows} - {""}))}
    clips, left_out = [], []
    for clip in looked.clips:
        reason = _why_left_out(clip, unreadable)
        assert clip.row.split is not None, "a layout without splits is refused"
        if reason:
            left_out.append(LeftOut(clip.video_id, clip.row.split, reason))
        else:
            clips.append(_clip_info(clip, labels[clip.row.label], signers.get(clip.row.signer or "", -1)))
    manifest = make_manifest(glosses, clips, left_out, looked.repeated)
    if not manifest.clips[needed]:
        raise DataError(
            f"{plain(data_dir)} has no {needed} clips ({manifest.left_out_text}); fetch the videos, or choose another "
            "directory or split"
        )
    return manifest


def _why_left_out(clip: Clip, unreadable: frozenset[str]) -> Reason | None:
    if clip.file is None:
        return "missing"
    if clip.video_id.strip() in unreadable:
        return "unreadable"
    return None if clip.file.file_bytes else "empty"


def _clip_info(clip: Clip, label: int, signer_id: int) -> ClipInfo:
    row = clip.row
    assert clip.file is not None and row.split is not None  # noqa: PT018
    return ClipInfo(
        video_id=clip.video_id,
        label=label,
        gloss=row.label,
        signer_id=signer_id,
        split=row.split,
        frame_start=round((row.start_s or 0) * _TICKS_PER_S),
        frame_end=None if row.end_s is None else round(row.end_s * _TICKS_PER_S),
        bbox=None,
        fps=_TICKS_PER_S if row.start_s or row.end_s is not None else None,
        path=clip.file.path,
        file_bytes=clip.file.file_bytes,
    )
