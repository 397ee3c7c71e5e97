"""Recognises the layout of a directory of videos: label tables, or folders named after classes and splits. No torch."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.data.layouts.rows import Row, clean_label, split_named
from models.data.layouts.tables import LabelTable, read_class_list, read_table, why_no_table
from models.data.layouts.tree import Tree
from models.data.left_out import LIST_NAME, some_of
from slr_bench.errors import DataError
from slr_bench.units import format_count, plain

MANIFEST_NAME = "imported_clips.csv"
"""The table that an import writes."""
_CLASS_LIST = re.compile(r"class_?i(nd|d)|class_list|classes", re.IGNORECASE)
_OWN_FILES = (MANIFEST_NAME, LIST_NAME)
"""Tables that this program writes."""
_DEEPEST = 2
"""Folders down to which label tables are looked for."""


@dataclass(frozen=True)
class Layout:
    """The clips that a directory names."""

    name: str
    """Its layout in words."""
    rows: list[Row]
    notices: list[str] = field(default_factory=list)

    @property
    def has_splits(self) -> bool:
        """Return whether every clip has a split."""
        return all(row.split for row in self.rows)


def find_layout(tree: Tree, tables: Sequence[str] = (), classes: Path | None = None, fold: int | None = None) -> Layout:
    """Return the clips that a directory names.

    Args:
        tree: its files.
        tables: label tables to use, relative to it; none: those that are found.
        classes: a file with number and word of each class; None: one that is found.
        fold: which of several divisions into splits to use, as 2 for ``trainlist02.txt``; None: the first.

    Raises:
        DataError: it has no known layout; the message says what it holds and what to do.
    """
    if tree.releases and not tables:
        inside = plain(tree.root / tree.releases[0])
        raise DataError(f"{plain(tree.root)} is not in WLASL layout, but {inside} is; name that directory")
    found = [_read_named(tree, path) for path in tables] or _tables(tree)
    if found:
        layout = _layout_of_tables(tree, found, fold)
    elif tree.videos:
        layout = _layout_of_folders(tree)
    else:
        raise DataError(_without_videos(tree))
    layout = _with_words(layout, tree, classes)
    labels = {row.label for row in layout.rows}
    if len(labels) < 2:
        raise DataError(
            f"{plain(tree.root)} has one class only ({some_of(labels)}); recognising needs two or more, each in a "
            "folder of its own or with its own label"
        )
    return layout


def _read_named(tree: Tree, path: str) -> LabelTable:
    table = read_table(tree.root, path, lambda text: tree.find(text) is not None)
    if table is None:
        raise DataError(why_no_table(tree.root / path))
    return table


def _tables(tree: Tree) -> list[LabelTable]:
    found = []
    for path in tree.tables:
        if path.count("/") <= _DEEPEST and path.rpartition("/")[2] not in _OWN_FILES:
            try:
                table = read_table(tree.root, path, lambda text: tree.find(text) is not None)
            except DataError:
                if path.endswith(".txt"):  # notes of any kind
                    continue
                raise
            found += [table] if table else []
    return found


def _layout_of_tables(tree: Tree, tables: list[LabelTable], fold: int | None) -> Layout:
    notices = []
    folds = sorted({table.fold for table in tables if table.fold is not None})
    if fold is not None and fold not in folds:
        raise DataError(f"--fold {fold}: {plain(tree.root)} has {some_of(map(str, folds)) or 'no'} numbered lists")
    if folds:
        chosen = folds[0] if fold is None else fold
        tables = [table for table in tables if table.fold in (None, chosen)]
        if len(folds) > 1:
            notices.append(f"lists {chosen} of {some_of(map(str, folds))} are used; --fold N takes others")
    if len(tables) > 1 and not all(table.has_split for table in tables):
        names = some_of(table.path for table in tables)
        raise DataError(f"{plain(tree.root)} has several label tables ({names}); choose one with --labels")
    rows = [row for table in tables for row in table.rows]
    unsplit = [row for row in rows if not row.split]
    if 0 < len(unsplit) < len(rows):
        raise DataError(f"{unsplit[0].source}: no split, but other rows have one; fill it in, or remove the column")
    name = some_of(table.path for table in tables)
    return Layout(f"{len(rows):,} rows of {name}", rows, notices)


def _layout_of_folders(tree: Tree) -> Layout:
    parts = {path: path.split("/") for path in tree.videos}
    top = 0
    while len(heads := {part[top] for part in parts.values() if len(part) > top + 1}) == 1 and all(
        len(part) > top + 2 for part in parts.values()
    ):
        if split_named(*heads):
            break
        top += 1
    folders = {path: part[top:-1] for path, part in parts.items()}
    loose = [path for path, names in folders.items() if not names]
    heads = {names[0] for names in folders.values() if names}
    unread = [path for path in tree.tables if path.endswith((".csv", ".tsv", ".jsonl")) and "/" not in path]
    if loose and unread:
        raise DataError(why_no_table(tree.root / unread[0]))
    if len(loose) == len(folders) or (not loose and len(heads) == 1 and not split_named(*heads)):
        raise DataError(
            f"{plain(tree.root)} holds {format_count(len(folders), 'video')} in one folder and no labels; make a "
            f"folder per class, or write a CSV with columns path,label and run {command_for(tree.root)} --labels FILE"
        )
    if loose:
        raise DataError(
            f"{plain(tree.root)} has class folders, and beside them {format_count(len(loose), 'video')} "
            f"({some_of(loose)}); move these into the folder of their class"
        )
    if all(map(split_named, heads)):
        splits = ", ".join(sorted(heads))
        flat = [path for path, names in folders.items() if len(names) < 2]
        if flat:
            videos = f"{format_count(len(flat), 'video')} ({some_of(flat)})"
            raise DataError(
                f"{plain(tree.root)} has the splits {splits} and no class folders for {videos}; make class folders "
                "in each split, or write a metadata.csv with the columns file_name,label in each split"
            )
        return _of_classes(f"class folders in {splits}", folders, 1)
    mixed = sorted(name for name in heads if split_named(name))
    if mixed and any(len(names) > 1 for names in folders.values() if names[0] in mixed):
        other = some_of(sorted(heads - set(mixed)))
        raise DataError(
            f"{plain(tree.root)} has the splits {', '.join(mixed)} and beside them {other or 'loose videos'}; move "
            "these into a split, or elsewhere"
        )
    return _of_classes("class folders", folders, 0)


def _of_classes(name: str, folders: dict[str, list[str]], place: int) -> Layout:
    """Return the clips of folders: the class at ``place``, the split before it, and perhaps the signer after it."""
    below = {names[place + 1] if len(names) > place + 1 else "" for names in folders.values()}
    pairs = {tuple(names[place : place + 2]) for names in folders.values()}
    is_signer = "" not in below and 2 <= len(below) <= len(pairs) / 2
    notices = []
    if is_signer:
        notices.append(f"folders below the classes recur and are taken as signers: {some_of(sorted(below))}")
    elif inner := sorted("/".join(pair) for pair in pairs if len(pair) == 2):
        notices.append(
            f"folders below the classes are not used: {some_of(inner)}; if they are the classes, move them one level up"
        )
    rows = [
        Row(
            path,
            clean_label(names[place]),
            split_named(names[place - 1]) if place else None,
            names[place + 1] if is_signer else None,
        )
        for path, names in folders.items()
    ]
    return Layout(name, rows, notices)


def _with_words(layout: Layout, tree: Tree, classes: Path | None) -> Layout:
    """Replace labels that are numbers by their words, if a class list has them."""
    notices = list(layout.notices)
    numbers = {row.label for row in layout.rows if row.label.isdecimal()}
    listed = [tree.root / path for path in tree.tables if _CLASS_LIST.search(path.rpartition("/")[2])]
    path = classes or next(iter(listed), None)
    words = read_class_list(path) if path else {}
    for row in layout.rows:
        word = words.get(row.number or "", row.label)
        if row.label != row.number and _letters(word) != _letters(row.label):
            raise DataError(
                f"{row.source}: class {row.number} is {plain(word)!r} in {path}, but its folder is "
                f"{plain(row.label)!r}; correct one of them"
            )
    if numbers and numbers <= words.keys():
        rows = [replace(row, label=words.get(row.label, row.label)) for row in layout.rows]
        return Layout(layout.name, rows, [*notices, f"numbers of classes are words of {plain(path)}"])
    if classes:
        missing = some_of(sorted(numbers - words.keys())) or "no label is a number"
        raise DataError(f"--classes {classes} does not name all numbers ({missing}); complete it, or leave it out")
    if numbers and len(numbers) == len({row.label for row in layout.rows}):
        notices.append("labels are numbers; --classes FILE with lines of number and word names them")
    spelt = Counter(label.casefold() for label in {row.label for row in layout.rows})
    if twice := sorted(label for label, count in spelt.items() if count > 1):
        notices.append(f"labels that differ in upper and lower case only are different classes: {some_of(twice)}")
    return Layout(layout.name, layout.rows, notices)


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _without_videos(tree: Tree) -> str:
    root = plain(tree.root)
    if tree.broken_links:
        return f"{root} holds only links to videos that are not there ({some_of(tree.broken_links)}); mend the links"
    if tree.images:
        return (
            f"{root} holds {format_count(len(tree.images), 'image')} and no video; make one video of the images of "
            f"each clip, for example with ffmpeg -framerate 25 {_pattern(min(tree.images))} clip.mp4"
        )
    if not (tree.others or tree.tables):
        return f"{root} is empty; put videos into one folder per class, then run {command_for(tree.root)}"
    return (
        f"{root} holds {format_count(tree.others + len(tree.tables), 'file')} and no video (.mp4, .mkv, .webm, …); "
        "name the directory that holds the videos"
    )


def _pattern(name: str) -> str:
    """Return the option with which ffmpeg reads images that are named like this one."""
    stem, dot, suffix = name.rpartition(".")
    number = re.search(r"\d+$", stem)
    if not number:
        return f"-pattern_type glob -i '*.{plain(suffix)}'"
    digits = number[0]
    count = f"%0{len(digits)}d" if digits.startswith("0") and len(digits) > 1 else "%d"
    return "-i " + quoted(Path(f"{stem[: number.start()]}{count}{dot}{suffix}"))


def command_for(root: Path) -> str:
    """Return the command that imports a directory."""
    return f"python -m models.data.import_videos {quoted(root)}"


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, without control characters."""
    return plain(shlex.quote(str(path)))


def classes_text(labels: Iterable[str]) -> str:
    """Return how many classes there are."""
    count = len(set(labels))
    return "one class" if count == 1 else f"{count:,} classes"
