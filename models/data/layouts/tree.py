"""Lists the files below a directory, and finds the video that a label table means. No torch."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from models.data.manifest import VIDEO_SUFFIXES, VideoFile
from slr_bench.errors import DataError
from slr_bench.units import plain

_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_SPLIT_FILE = re.compile(r"nslt_\d+\.json")
_NOT_DATA = (".", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Beginnings of names that systems make beside the user's files."""
_ENOUGH = 200_000
"""Number of other files after which the search for a first video ends."""


@dataclass
class Tree:
    """The files below ``root``, with paths relative to it; hidden ones are left out."""

    root: Path
    videos: dict[str, int] = field(default_factory=dict)
    """Path to bytes."""
    tables: list[str] = field(default_factory=list)
    """Paths of text files that may hold labels."""
    releases: list[str] = field(default_factory=list)
    """Folders in WLASL layout."""
    images: list[str] = field(default_factory=list)
    """Names of images."""
    others: int = 0
    broken_links: list[str] = field(default_factory=list)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths by file name and by file name without its suffix, both folded."""
        found = defaultdict(list)
        for path in self.videos:
            name = folded(path.rpartition("/")[2])
            found[name].append(path)
            found[os.path.splitext(name)[0]].append(path)
        return found

    def find(self, written: str, folder: str = "") -> VideoFile | None:
        """Return the video that a table in ``folder`` calls ``written``; None if there is none.

        It may be an absolute path, a path from the table's folder or from ``root``, or the end of a path below
        ``root``, with or without a suffix. Upper and lower case, the two forms of accented letters, and containers
        are only different if both exist.

        Raises:
            DataError: several videos are meant equally.
        """
        stripped = written.strip()
        for text in dict.fromkeys((written, stripped, stripped.replace("\\", "/"))):
            for path in (os.path.normpath(os.path.join(folder, text)), text):
                if path in self.videos:
                    return self.file(path)
            if os.path.isabs(text) and (inside := os.path.relpath(text, os.path.abspath(self.root))) in self.videos:
                return self.file(inside)
            outside = self.root / folder / text
            if os.path.splitext(text)[1].lower() in VIDEO_SUFFIXES and outside.is_file():
                return VideoFile(outside, outside.stat().st_size)
            below, (stem, suffix) = text.removeprefix(f"{self.root.name}/"), os.path.splitext(text)
            other = stem if suffix.lower() in VIDEO_SUFFIXES else below
            if matches := self._ending_with(text) or self._ending_with(below) or self._ending_with(other):
                if len(matches) > 1:
                    raise DataError(
                        f"{plain(written)!r} can be {plain(matches[0])} or {plain(matches[1])} in {self.root}; write "
                        "the path from there"
                    )
                return self.file(matches[0])
        return None

    def file(self, path: str) -> VideoFile:
        """Return the video at a path below ``root``."""
        return VideoFile(self.root / path, self.videos[path])

    def _ending_with(self, text: str) -> list[str]:
        wanted = folded(text).split("/")
        matches = []
        for path in self._by_name.get(wanted[-1], []):
            parts = folded(path).split("/")
            if parts[-len(wanted) : -1] == wanted[:-1] and len(parts) >= len(wanted):
                matches.append(path)
        exact = [path for path in matches if path.endswith(text)]
        return exact or matches


def folded(text: str) -> str:
    """Return text in one form for comparison: composed letters, no difference of case."""
    return unicodedata.normalize("NFC", text).casefold()


def scan(root: Path) -> Tree:
    """List the files below ``root``, each directory once, in an order that does not depend on the file system.

    Links to directories are followed after the directories themselves, so that a loop ends and a real name counts.

    Raises:
        DataError: a directory cannot be read.
    """
    if not root.is_dir():
        problem = "is a file, not a directory" if root.exists() else "does not exist"
        raise DataError(f"{plain(root)} {problem}; name the directory that holds the videos")
    tree = Tree(root)
    folders, links, seen = deque([""]), deque[str](), set()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in _visible(root / folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_directory(entry):
                    (links if entry.is_symlink() else folders).append(path)
                else:
                    _add(tree, path, entry)
        except OSError as error:
            where = plain(error.filename or root / folder)
            raise DataError(f"cannot read {where}: {error.strerror}; check the permissions") from error
        if not tree.videos and tree.others + len(tree.images) > _ENOUGH:
            break
    tree.videos = dict(sorted(tree.videos.items()))
    tree.tables.sort()
    return tree


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith(_NOT_DATA):
                yield entry


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _add(tree: Tree, path: str, entry: os.DirEntry[str]) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        try:
            tree.videos[path] = entry.stat().st_size
        except OSError:
            tree.broken_links.append(path)
    elif suffix in _TABLE_SUFFIXES:
        tree.tables.append(path)
    elif suffix in _IMAGE_SUFFIXES:
        tree.images.append(entry.name)
    else:
        tree.others += 1
        if _SPLIT_FILE.fullmatch(entry.name):
            tree.releases.append(path.rpartition("/")[0])
