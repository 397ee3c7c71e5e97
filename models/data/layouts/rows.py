"""One labelled clip as a table or a folder names it, and the clips that these rows mean. No torch."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from models.data.layouts.tree import Tree
from models.data.left_out import Split, some_of
from models.data.manifest import VideoFile
from slr_bench.errors import DataError
from slr_bench.units import plain

_SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, ends of lines, changes of the writing direction, and bytes that are no text. Joiners stay."""


@dataclass(frozen=True)
class Row:
    """A clip as it is written: in a row of a table, or as a file in a folder."""

    path: str
    label: str
    split: Split | None = None
    signer: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    source: str = ""
    """Place of the row, for messages."""
    folder: str = ""
    """Folder of the table, from which its paths may count."""
    video_id: str | None = None
    number: str | None = None
    """Number of the class in a list of files, beside its label."""


class Clip(NamedTuple):
    """A row whose video was looked for."""

    row: Row
    file: VideoFile | None
    """None: there is no such file."""
    video_id: str
    """Name of the clip in messages and lists: its path, and its part of the file."""

    @property
    def part(self) -> tuple[float | None, float | None]:
        """Begin and end in the file, seconds; None means its own."""
        return self.row.start_s, self.row.end_s


def split_named(text: str) -> Split | None:
    """Return the split of a name such as ``train``, ``Validation`` or ``dev``; None if it is not one."""
    return _SPLIT_NAMES.get(text.strip().casefold())


def clean_label(text: str) -> str:
    """Return a label in one form: composed letters, single spaces, no control characters."""
    return " ".join(_CONTROL.sub(" ", unicodedata.normalize("NFC", text)).split())


def seconds_text(seconds: float) -> str:
    """Return a time in a video as a table has it: ``12.5``, to the millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Return the different labels in the order of their class ids: numbers by value, words by letter."""
    different = set(labels)
    if all(label.isdecimal() for label in different):
        return sorted(different, key=lambda label: (int(label), label))
    return sorted(different)


class Looked(NamedTuple):
    """The clips of some rows."""

    clips: list[Clip]
    """Each once, sorted by id."""
    repeated: list[str]
    """Ids of rows that say the same as an earlier one."""


def look_up(rows: Sequence[Row], tree: Tree) -> Looked:
    """Find the video of each row.

    Raises:
        DataError: rows contradict each other, or the name of a video is ambiguous.
    """
    known: dict[tuple[object, ...], Clip] = {}
    repeated = []
    for row in rows:
        clip = _clip(row, tree)
        key = (str(clip.file.path) if clip.file else clip.video_id, *clip.part)
        earlier = known.setdefault(key, clip)
        if earlier is not clip:
            _refuse_contradiction(earlier, clip)
            repeated.append(clip.video_id)
    clips = sorted(known.values(), key=lambda clip: clip.video_id)
    twice = [video_id for video_id, count in Counter(clip.video_id for clip in clips).items() if count > 1]
    if twice:
        raise DataError(f"different clips have the id {some_of(twice)}; make the ids different")
    return Looked(clips, repeated)


def _clip(row: Row, tree: Tree) -> Clip:
    """Look for the video of a row. A file named after the times of the row holds that part alone."""
    if row.start_s is not None and row.end_s is not None:
        start, end = int(row.start_s), int(row.end_s)
        for name in (f"{row.path}_{start:06}_{end:06}", f"{row.path}_{start}_{end}"):
            if file := tree.find(name, row.folder):
                return Clip(replace(row, start_s=None, end_s=None), file, _id(row, file, tree, ""))
    file = tree.find(row.path, row.folder)
    times = seconds_text(row.start_s or 0), seconds_text(row.end_s) if row.end_s is not None else ""
    part = "" if row.start_s is None and row.end_s is None else f"@{'-'.join(times)}"
    return Clip(row, file, _id(row, file, tree, part))


def _id(row: Row, file: VideoFile | None, tree: Tree, part: str) -> str:
    if row.video_id:
        name = row.video_id
    elif file is not None and file.path.is_relative_to(tree.root):
        name = file.path.relative_to(tree.root).as_posix() + part
    else:
        name = row.path + part
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], name)  # a list of ids has one per line


def _refuse_contradiction(first: Clip, second: Clip) -> None:
    for what, values in (
        ("the labels", (first.row.label, second.row.label)),
        ("the splits", (first.row.split or "none", second.row.split or "none")),
        ("the signers", (first.row.signer or "none", second.row.signer or "none")),
    ):
        if values[0] != values[1]:
            places = " and ".join(clip.row.source for clip in (first, second) if clip.row.source)
            raise DataError(
                f"{plain(first.video_id)} has {what} {plain(values[0])!r} and {plain(values[1])!r} ({places}); "
                "correct one of the rows"
            )
