"""Reads tables of labels: CSV and TSV with and without names of columns, lists of files, JSON lines. No torch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from models.data.layouts.rows import Row, clean_label, split_named
from models.data.left_out import Split, read_text, some_of
from models.data.manifest import VIDEO_SUFFIXES
from slr_bench.errors import DataError
from slr_bench.units import plain

_COLUMNS = {
    "path": (
        "path", "file_path", "filepath", "file_name", "filename", "file", "video_path", "video_file", "video_name",
        "video", "clip_path", "clip", "youtube_id", "video_id", "name", "id",
    ),
    "label": ("gloss", "word", "sign", "label_name", "class_name", "label", "class", "category"),
    "split": ("split", "subset", "set", "partition"),
    "signer": ("signer", "signer_id", "participant", "participant_id", "performer", "speaker", "person", "subject",
               "subject_id", "user_id", "user"),
    "start_s": ("start_s", "time_start", "start_time"),
    "end_s": ("end_s", "time_end", "end_time"),
    "id": ("clip_id",),
}  # fmt: skip
"""Names of the columns by content of a row; the first name that a table has counts."""
_DELIMITERS = ",;\t"
_LISTED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))((?:\s+-?\d+)*)", re.IGNORECASE)
"""A line of a list: a path, then numbers. The last number is the class."""
_IN_NAME = re.compile(r"(?:^|[^a-z])(train|val|test|dev)(?:ing|id|idation|idate)?(?:list)?(?:[^a-z]|$)", re.IGNORECASE)
_FOLD = re.compile(r"list0*(\d+)$")
CLASSES = re.compile(r"\s*(\d+)[\s,;]+([^,;\t]+)")
"""A line of a class list: a number and its word."""


class LabelTable(NamedTuple):
    """A file that names clips and their labels."""

    path: str
    """Relative to the directory."""
    rows: list[Row]
    has_split: bool
    """True if a column or the name of the file gives the split."""
    fold: int | None
    """Number of the division into splits that a list belongs to, as 2 in ``trainlist02.txt``."""


def read_table(root: Path, path: str, is_video: Callable[[str], bool]) -> LabelTable | None:
    """Read the table at ``root / path``; None if it does not name clips and labels.

    ``is_video`` returns whether a text names a video, for tables without names of columns.

    Raises:
        DataError: the table is broken.
    """
    text = read_text(
        root / path,
        "if it is in another encoding, such as Windows-1252 or UTF-16, save it as UTF-8 text (in Excel: CSV UTF-8)",
    )
    name, suffix = os.path.splitext(path.rpartition("/")[2])
    split = _split_of_file(path, name)
    fold = _FOLD.search(name)
    if suffix == ".jsonl":
        cells = _json_lines(root / path, text)
    elif suffix == ".txt" and (listed := _listed(text)) is not None:
        cells = listed
    else:
        cells = _cells(root / path, text, is_video)
    if cells is None:
        return None
    folder = path.rpartition("/")[0]
    rows = [
        _row(values, f"{plain(path)}, row {number}", split, "" if suffix == ".txt" else folder)
        for number, values in cells
    ]
    has_split = split is not None or any(row.split for row in rows)
    return LabelTable(path, rows, has_split, int(fold[1]) if fold else None) if rows else None


def why_no_table(path: Path) -> str:
    """Return why a file, which ``read_table`` can read, names no clips with labels, and what to change."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        return f"{plain(path)} is empty; write the columns path,label and one row per clip"
    if path.suffix == ".json" or lines[0].lstrip().startswith(("{", "[")):
        return f"{plain(path)} is JSON, which names no clips here; write a CSV with the columns path,label"
    rows = [next(csv.reader([lines[0]], delimiter=delimiter)) for delimiter in _DELIMITERS]
    header = max(rows, key=len)
    if len(lines) == 1 and {"path", "label"} <= _columns(header).keys():
        return f"{plain(path)} has the names of its columns and no row below; write one row per clip"
    return f"{plain(path)} has the columns {some_of(header, 8)}; rename those of video and label to path,label"


def _split_of_file(path: str, name: str) -> Split | None:
    """Return the split that the name of a file or of its folder says."""
    if found := _IN_NAME.search(name):
        return split_named(found[1])
    return split_named(path.split("/")[-2]) if "/" in path else None


Cells = Sequence[tuple[int, dict[str, str]]]
"""Number of each row, and its cells by content."""


def _cells(path: Path, text: str, is_video: Callable[[str], bool]) -> Cells | None:
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    first_rows = {delimiter: next(csv.reader([first_line], delimiter=delimiter)) for delimiter in _DELIMITERS}
    for delimiter, header in first_rows.items():
        columns = _columns(header)
        if {"path", "label"} <= columns.keys():
            return _with_columns(path, _numbered(path, text, delimiter)[1:], len(header), columns)
    for delimiter, first in first_rows.items():
        if len(first) >= 2 and first[1].strip() and is_video(first[0]):
            return _with_columns(path, _numbered(path, text, delimiter), len(first), {"path": 0, "label": 1})
    return None


def _numbered(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: {error}; save it as CSV") from error


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Return the place of each known column."""
    names = [re.sub(r"\W+", "_", name.strip().casefold()).strip("_") for name in header]
    found: dict[str, int] = {}
    for meaning, known in _COLUMNS.items():
        place = next((names.index(name) for name in known if name in names), None)
        if place is not None and place not in found.values():
            found[meaning] = place
    return found


def _with_columns(path: Path, rows: Sequence[tuple[int, list[str]]], width: int, columns: dict[str, int]) -> Cells:
    for number, row in rows:
        if len(row) != width:
            raise DataError(
                f"{path}, row {number}: {len(row)} columns, expected {width}; put quotes around text with commas"
            )
    return [(number, {name: row[place] for name, place in columns.items()}) for number, row in rows]


def _listed(text: str) -> Cells | None:
    """Return the rows of a list of files: ``Class/v_x.avi 1``; None if it is something else."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found = _LISTED.fullmatch(line.strip())
            if not found:
                return None
            folder = found[1].replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
            numbers = found[2].split()
            if not folder and not numbers:
                return None
            rows.append((number, {"path": found[1], "label": folder or numbers[-1], "number": (numbers or [""])[-1]}))
    return rows


def _json_lines(path: Path, text: str) -> Cells | None:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise DataError(f"{path}, row {number} is not JSON: {error}; fix the file") from error
        if values is not None:
            columns = _columns(list(values)) if isinstance(values, dict) else {}
            if not {"path", "label"} <= columns.keys():
                return None
            cells = ["" if cell is None else str(cell) for cell in values.values()]
            rows.append((number, {name: cells[place] for name, place in columns.items()}))
    return rows


def _row(values: dict[str, str], source: str, split: Split | None, folder: str) -> Row:
    path, label = values["path"], clean_label(values["label"])
    if not path.strip() or not label:
        raise DataError(f"{source}: no {'label' if path.strip() else 'path'}; fill it in, or delete the row")
    if written := values.get("split", "").strip():
        split = split_named(written)
        if split is None:
            raise DataError(f"{source}: unknown split {plain(written)!r}; use train, val or test")
    start_s, end_s = (_seconds(values.get(name, ""), source) for name in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0):
        raise DataError(f"{source}: the clip ends at {end_s:g} s, before it begins; correct the times")
    signer = clean_label(values.get("signer", "")) or None
    video_id, number = (values.get(name) or None for name in ("id", "number"))
    return Row(path, label, split, signer, start_s, end_s, source, folder, video_id, number)


def _seconds(text: str, source: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if re.fullmatch(r"\d+,\d+", text.strip()):
        raise DataError(f"{source}: {text.strip()!r} is a time with a comma; write {text.strip().replace(',', '.')}")
    if not 0 <= value < math.inf:
        raise DataError(f"{source}: {plain(text)!r} is not a time in seconds; correct it")
    return value


def read_class_list(path: Path) -> dict[str, str]:
    """Return number -> word of a file with one of each per line; lines without are passed over. Raises DataError."""
    found = [CLASSES.match(line) for line in read_text(path).splitlines()]
    return {match[1]: clean_label(match[2]) for match in found if match}
