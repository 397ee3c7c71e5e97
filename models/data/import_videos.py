"""Make a directory of your own videos usable: ``python -m models.data.import_videos DIR``. No torch.

It reads class folders, lists, and CSV files, divides the clips into training, validation and test, and writes one
table, ``imported_clips.csv``. Videos stay where they are; none is copied or opened.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.command import OneLineParser, run_command
from models.data.layouts.directory import earlier_splits
from models.data.layouts.layout import MANIFEST_NAME, Layout, find_layout, quoted
from models.data.layouts.rows import Clip, look_up, seconds_text, sorted_labels
from models.data.layouts.splits import Division, Fractions, divide
from models.data.layouts.tree import scan
from models.data.left_out import Split, some_of
from models.data.manifest import SPLITS, same_content
from models.data.wlasl.files import split_files
from slr_bench.errors import EXIT_OK, ConfigError, DataError
from slr_bench.files import why_unreadable, write_atomically
from slr_bench.units import format_bytes, format_count, plain

_COLUMNS = ("clip_id", "path", "label", "split", "signer", "start_s", "end_s")
_KEPT: tuple[Split | None, ...] = ("test", "val", "train", None)
"""The order in which one of several equal videos is kept, by split: published test splits remain whole."""


_real = cache(os.path.realpath)


@dataclass(frozen=True)
class Import:
    """The result of an import."""

    data_dir: Path
    layout: Layout
    clips: list[Clip]
    division: Division
    signers: int
    copies: list[list[str]]
    """Groups of clips with the same content; the first one is used."""
    repeated: list[str]
    missing: list[str]
    empty: list[str]
    seed: int
    earlier: dict[str, Split] = field(default_factory=dict)
    """Clip id -> its split in the table that is replaced."""

    @property
    def notices(self) -> list[str]:
        """Lines that the user should know of."""
        lines = [*self.layout.notices, *self.division.notices]
        kept = [c.video_id for c, split in self._divided if self.earlier.get(c.video_id) == split]
        if kept and self.division.by != "given":
            lines.append(
                f"{format_count(len(kept), 'clip')} of the earlier table, and their {self.division.by}s, keep "
                "their split; --seed N draws all splits again"
            )
        moved = [c.video_id for c, split in self._divided if self.earlier.get(c.video_id, split) != split]
        for ids, what, consequence in (
            (self.repeated, "rows that repeat an earlier one", "they are left out"),
            (
                [" = ".join(group) for group in self.copies],
                "videos with the content of another one",
                "one of each is used",
            ),
            (self.missing, "videos that are missing", "they are left out"),
            (self.empty, "videos of 0 bytes", "they are left out"),
            (moved, "clips that change their split", "a network that was trained before may know them"),
            (self._shared_signers(), "signers in two splits", "accuracy on other people is not measured"),
            (self._without("train"), "classes without a training clip", "they cannot be learned"),
            (self._without("val"), "classes without a validation clip", "their accuracy is not measured"),
        ):
            if ids:
                lines.append(f"{what}: {len(ids):,} ({some_of(ids)}); {consequence}")
        return lines

    def _without(self, split: Split) -> list[str]:
        """Return the classes that have no clip in a split."""
        return sorted({c.row.label for c in self.clips} - {c.row.label for c, own in self._divided if own == split})

    def _shared_signers(self) -> list[str]:
        pairs = {(clip.row.signer, split) for clip, split in self._divided if clip.row.signer}
        splits_of = Counter(signer for signer, _ in pairs)
        return sorted(signer for signer, count in splits_of.items() if signer and count > 1)

    @property
    def _divided(self) -> list[tuple[Clip, Split]]:
        return list(zip(self.clips, self.division.splits, strict=True))

    def table_text(self, out: Path) -> str:
        """Return the table that a training reads, with paths relative to ``out``."""
        rows = [_written(clip, split, self.data_dir, out) for clip, split in self._divided]
        used = [name for name in _COLUMNS if any(row[name] for row in rows)]
        text = io.StringIO()
        # The module quotes a carriage return only if lines end with one.
        quoting = csv.QUOTE_ALL if any("\r" in row["path"] for row in rows) else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return everything that the tables show."""
        labels = sorted_labels(clip.row.label for clip in self.clips)
        splits: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        for clip, split in self._divided:
            splits[split][clip.row.label] = splits[split].get(clip.row.label, 0) + 1
        return {
            "data_dir": str(self.data_dir),
            "layout": self.layout.name,
            "clips": len(self.clips),
            "bytes": sum(clip.file.file_bytes for clip in self.clips if clip.file),
            "classes": labels,
            "signers": self.signers,
            "split_by": self.division.by,
            "seed": self.seed,
            "splits": {split: sum(counts.values()) for split, counts in splits.items()},
            "classes_of_split": {split: len(counts) for split, counts in splits.items()},
            "copies": self.copies,
            "repeated": self.repeated,
            "missing": self.missing,
            "empty": self.empty,
            "notices": self.notices,
        }

    def renderables(self) -> list[Table | str]:
        """Return the counts as a table, and the notices as lines."""
        found = self.to_dict()
        table = Table()
        for name in ("", *SPLITS, "all"):
            table.add_column(name, justify="right" if name else "left")
        table.add_row("clips", *(f"{found['splits'][split]:,}" for split in SPLITS), f"{found['clips']:,}")
        counts = (f"{found['classes_of_split'][split]:,}" for split in SPLITS)
        table.add_row("classes", *counts, f"{len(found['classes']):,}")
        if self.signers:
            used = [{c.row.signer for c, own in self._divided if own == split} - {None} for split in SPLITS]
            table.add_row("signers", *(f"{len(names):,}" for names in used), f"{self.signers:,}")
        sizes = [sum(c.file.file_bytes for c, own in self._divided if own == split and c.file) for split in SPLITS]
        table.add_row("size", *(format_bytes(size) for size in sizes), format_bytes(sum(sizes)))
        giver = "table" if any(row.source for row in self.layout.rows) else "directory"
        by = f"given by the {giver}" if self.division.by == "given" else f"drawn by {self.division.by}"
        title = f"{plain(self.data_dir)}: {self.layout.name}"
        return [title, table, f"splits: {by}", f"classes: {some_of(found['classes'], 12)}", *self.notices]


def import_videos(options: argparse.Namespace) -> Import:
    """Read the directory that the options name.

    Raises:
        DataError: it has no known layout, or its files or rows contradict each other.
        ConfigError: options that cannot work.
    """
    fractions = Fractions(options.val, options.test)
    if min(fractions) < 0 or sum(fractions) >= 1 or not fractions.val:
        raise ConfigError(f"--val {options.val:g} --test {options.test:g}: use parts of 1 with a sum below 1, as 0.15")
    tree = scan(options.data_dir)
    layout = find_layout(
        tree, [_from(options.data_dir, path) for path in options.labels], options.classes, options.fold
    )
    if options.signer_from:
        layout = replace(layout, rows=[replace(row, signer=_signer(options, row.path)) for row in layout.rows])
    looked = look_up(layout.rows, tree)
    missing = [clip.video_id for clip in looked.clips if clip.file is None]
    if missing and (not options.skip_missing or len(missing) == len(looked.clips)):
        raise DataError(
            f"not in {plain(options.data_dir)}: {len(missing):,} of {len(looked.clips):,} videos ({some_of(missing)}); "
            "correct their paths, or add --skip-missing to leave them out"
        )
    there = [clip for clip in looked.clips if clip.file]
    empty = [clip.video_id for clip in there if clip.file and not clip.file.file_bytes]
    clips, copies, same_file = _without_copies([clip for clip in there if clip.video_id not in set(empty)])
    seed = options.seed or 0
    earlier = earlier_splits(options.out or options.data_dir, there, same_file) if options.overwrite else {}
    division = divide(clips, same_file, fractions, seed, earlier if options.seed is None else {})
    signers = len({clip.row.signer for clip in clips if clip.row.signer})
    return Import(
        options.data_dir,
        layout,
        clips,
        division,
        signers,
        copies,
        looked.repeated,
        missing,
        empty,
        seed,
        earlier,
    )


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from error


def _from(data_dir: Path, path: Path) -> str:
    """Return the path of a table from ``data_dir``, or its absolute path if it is elsewhere."""
    inside = os.path.relpath(path, data_dir)
    return os.path.abspath(path) if inside.startswith("..") else inside


def _signer(options: argparse.Namespace, path: str) -> str | None:
    found = options.signer_from.search(path)
    if found is None:
        return None
    return str(found[1] if found.re.groups else found[0])


def _without_copies(clips: list[Clip]) -> tuple[list[Clip], list[list[str]], dict[str, str]]:
    """Return the clips with different content, the ids of equal ones, and the first of equal files for each file.

    Raises:
        DataError: equal videos have different labels.
    """
    files = list({clip.file.path: clip.file for clip in clips if clip.file}.values())
    first = {str(files[place].path): str(files[group[0]].path) for group in same_content(files) for place in group}
    groups: dict[tuple[object, ...], list[Clip]] = {}
    for clip in clips:
        path = str(clip.file.path) if clip.file else ""
        groups.setdefault((first.get(path, path), *clip.part), []).append(clip)
    kept, copies = [], []
    for group in groups.values():
        group.sort(key=lambda clip: _KEPT.index(clip.row.split))
        for clip in group:
            if clip.row.label != group[0].row.label:
                raise DataError(
                    f"{plain(group[0].video_id)} and {plain(clip.video_id)} have the same content and the labels "
                    f"{plain(group[0].row.label)!r} and {plain(clip.row.label)!r}; delete the wrong one"
                )
        kept.append(group[0])
        copies += [[clip.video_id for clip in group]] if len(group) > 1 else []
    return sorted(kept, key=lambda clip: clip.video_id), copies, first


def _written(clip: Clip, split: Split, data_dir: Path, out: Path) -> dict[str, str]:
    assert clip.file is not None, "only clips with a file are written"
    row, path = clip.row, os.path.join(_real(clip.file.path.parent), clip.file.path.name)
    if path.startswith(f"{_real(data_dir)}/") or not os.path.isabs(row.path):
        path = os.path.relpath(path, _real(out))
    else:
        path = row.path
    times = ("" if value is None else seconds_text(value) for value in clip.part)
    values = ("" if path == clip.video_id else clip.video_id, path, row.label, split, row.signer or "", *times)
    return dict(zip(_COLUMNS, values, strict=True))


def _write(text: str, out: Path, overwrite: bool) -> str:
    """Write the table unless it is there; return what was done.

    Raises:
        ConfigError: another table is there, or the directory cannot be used.
    """
    path = out / MANIFEST_NAME
    try:
        names = [entry.name for entry in out.iterdir()] if out.exists() else []
        before = path.read_text(encoding="utf-8") if MANIFEST_NAME in names else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--out {plain(out)} cannot be used: {why_unreadable(error)}; choose another") from error
    if split_files(names):
        raise ConfigError(f"{plain(out)} is in WLASL layout, which is used as it is; choose another --out")
    if before == text:
        return f"{plain(path)} is there already and stays as it is"
    if before is not None and not overwrite:
        raise ConfigError(f"{plain(path)} is there and different; add --overwrite, or choose another --out")
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        line = next(line for line in text.splitlines() if any("\ud800" <= char <= "\udfff" for char in line))
        raise DataError(f"the name of a file is not valid UTF-8 text ({ascii(line)[:80]}); rename it") from error
    write_atomically(path, content, cure="add --out with a directory that can be written", make_directory=True)
    return f"wrote {plain(path)}"


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.data.import_videos",
        description="Make a directory of your own videos usable: write one table of its clips, labels and splits. "
        "Videos stay where they are. Run it again after adding videos.",
    )
    add = parser.add_argument
    add("data_dir", type=Path, metavar="DIR", help="class folders, lists, or videos with a table of labels")
    add("--out", type=Path, metavar="D", help=f"directory for {MANIFEST_NAME} [DIR]")
    add("--labels", type=Path, action="append", default=[], metavar="F", help="table of path and label; repeatable")
    add("--classes", type=Path, metavar="F", help="number and word of each class, if labels are numbers")
    add("--fold", type=int, metavar="N", help="which of several lists to use, as 2 for trainlist02.txt")
    add("--signer-from", type=_expression, metavar="REGEX", help="the signer is this part of the path, as 'P[0-9]+'")
    add("--val", type=float, default=0.15, metavar="F", help="part for validation, if no split is given [0.15]")
    add("--test", type=float, default=0.15, metavar="F", help="part for test, if no split is given [0.15]")
    add("--seed", type=int, metavar="N", help="draw all splits with this number, also those of an earlier table [0]")
    add("--skip-missing", action="store_true", help="leave out rows whose video is missing")
    add("--overwrite", action="store_true", help="replace an earlier table that differs")
    add("--json", action="store_true", help="one JSON object in place of the table")
    return parser


def _run(options: argparse.Namespace) -> int:
    out = options.out or options.data_dir
    if split_files(sorted(os.listdir(options.data_dir)) if options.data_dir.is_dir() else []):
        raise DataError(f"{plain(options.data_dir)} is in WLASL layout; use it as it is, with --data-dir")
    result = import_videos(options)
    done = _write(result.table_text(out), out, options.overwrite)
    if options.json:
        print(json.dumps(result.to_dict() | {"manifest": str(out / MANIFEST_NAME)}))
        return EXIT_OK
    console = Console(highlight=False, markup=False)
    for part in result.renderables():
        console.print(part, soft_wrap=isinstance(part, str))
    classes = len({clip.row.label for clip in result.clips})
    print(f"{done} ({format_count(len(result.clips), 'clip')}). Next:")
    print(f"python -m models.data.wlasl check {quoted(out)}")
    if {"train", "val"} <= set(result.division.splits):
        print(f"python train_efficient_model.py --data-dir {quoted(out)} --num-classes {classes} --output-dir outputs")
    return EXIT_OK


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code. ``arguments`` defaults to the process's own."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
