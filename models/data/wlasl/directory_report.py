"""Report on a data directory and the state of its video files, as tables and as JSON. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from models.data.layouts.layout import MANIFEST_NAME, classes_text, command_for
from models.data.left_out import Split, some_of
from models.data.manifest import SPLITS, Manifest
from models.data.video.inspection import Finding
from slr_bench.units import format_count, plain

_COLUMNS = {
    "listed": "clips that the directory names",
    "usable": "found and readable",
    "missing": "no video file",
    "empty": "files of 0 bytes",
    "unannotated": "named by the split file, but not by the annotation list",
    "left_out": "named in left_out.txt",
    "unreadable": "training would stop at them",
    "short": "fewer frames than the network takes: the last one is repeated",
    "other_fps": "annotated at another frame rate: rescaled",
    "stale_bbox": "bbox of another picture size: not used",
    "no_fps": "annotated without a frame rate: frame numbers are those of the file",
    "turned": "recorded on its side or mirrored: read as players show it",
    "several_streams": "files with several videos: the default one is read",
    "uneven": "the frame rate varies, or frames are missing: frames are found by their time stamps",
    "trimmed": "an edit list hides stored frames: numbers count from the first one that players show",
    "ends_early": "the file holds a little less than its header announces: read as far as it goes",
    "concealed": "damaged pictures, which the decoder replaced by guesses (--decode finds them)",
    "damaged": "FFmpeg reports errors in the file (--decode finds more)",
}
"""Column of the table -> what it counts."""


@dataclass(frozen=True)
class DirectoryReport:
    """A manifest and the state of its files."""

    data_dir: Path
    manifest: Manifest
    findings: Sequence[Finding]
    """One for each clip of the manifest."""
    num_frames: int
    decoded: bool
    """True if every frame was decoded, False if only headers and packets were read."""
    beside_table: Sequence[str] = ()
    """Videos that the imported table does not have."""

    @property
    def is_usable(self) -> bool:
        """True if there are clips to train on and to validate with, and none that would stop a training."""
        return not self.empty_splits and not any(finding.unreadable for finding in self.findings)

    @property
    def empty_splits(self) -> list[Split]:
        """Splits that a training needs and that have no readable clip."""
        usable = {finding.clip.split for finding in self.findings if not finding.unreadable}
        return [split for split in ("train", "val") if split not in usable]

    def ids(self, split: Split | None = None) -> dict[str, list[str]]:
        """Return the ids of the clips in each column, for one split or for all together."""
        ids: dict[str, list[str]] = {name: [] for name in _COLUMNS}
        for clip in self.manifest.left_out:
            if split in (None, clip.split):
                ids["listed"].append(clip.video_id)
                ids["left_out" if clip.reason == "unreadable" else clip.reason].append(clip.video_id)
        for finding in self.findings:
            if split in (None, finding.clip.split):
                columns = {
                    "listed": True,
                    "usable": not finding.unreadable,
                    "unreadable": bool(finding.unreadable),
                    "short": finding.is_short,
                    "other_fps": finding.has_other_rate,
                    "stale_bbox": finding.has_stale_bbox,
                    "no_fps": not finding.unreadable and finding.clip.fps is None and not finding.clip.is_whole_file,
                    "turned": finding.is_turned,
                    "several_streams": finding.has_several_streams,
                    "uneven": finding.is_uneven,
                    "trimmed": finding.hidden > 0,
                    "ends_early": finding.missing > 0,
                    "concealed": finding.concealed > 0,
                    "damaged": finding.damage is not None,
                }
                for name in (name for name, holds in columns.items() if holds):
                    ids[name].append(finding.clip.video_id)
        return ids

    def per_class(self) -> list[dict[str, Any]]:
        """Return class, gloss and usable clips of each split, by class id."""
        counts = Counter((f.clip.label, f.clip.split) for f in self.findings if not f.unreadable)
        return [
            {"class": label, "gloss": gloss} | {split: counts[label, split] for split in SPLITS}
            for label, gloss in enumerate(self.manifest.glosses)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, with the ids of all clips that have a problem."""
        ids = self.ids()
        return {
            "data_dir": str(self.data_dir),
            "num_frames": self.num_frames,
            "decoded": self.decoded,
            "usable": self.is_usable,
            "fingerprint": self.manifest.fingerprint,
            "splits": {split: {name: len(found) for name, found in self.ids(split).items()} for split in SPLITS},
            "classes": self.per_class(),
            "clips": {name: sorted(found) for name, found in ids.items() if name not in ("listed", "usable")},
            "beside_table": list(self.beside_table),
            "listed_twice": list(self.manifest.repeated),
            "in_two_splits": [list(group) for group in self.manifest.leaks],
            "causes": {f.clip.video_id: f.unreadable or f.damage for f in self.findings if f.unreadable or f.damage},
        }

    def renderables(self) -> Iterator[Table | str]:
        """Yield the counts by split, the clips behind them, and the balance of the classes."""
        by_split = {split: self.ids(split) for split in SPLITS}
        table = Table(title=f"{self.data_dir}: {classes_text(self.manifest.glosses)}", title_justify="left")
        for name in ("clips", *SPLITS, "all"):
            table.add_column(name, justify="left" if name == "clips" else "right")
        table.add_column("meaning")
        for name, meaning in _COLUMNS.items():
            counts = [len(by_split[split][name]) for split in SPLITS]
            if sum(counts) or name in ("listed", "usable", "missing", "unreadable"):
                table.add_row(name.replace("_", " "), *(f"{count:,}" for count in (*counts, sum(counts))), meaning)
        yield table
        for name, found in self.ids().items():
            if found and name not in ("listed", "usable", "unreadable"):
                yield f"{name.replace('_', ' ')}: {some_of(sorted(found), 10)}"
        yield from self._causes()
        yield from self.manifest.repetition_texts
        if self.beside_table:
            verb = "is" if len(self.beside_table) == 1 else "are"
            yield (
                f"{format_count(len(self.beside_table), 'video')} ({some_of(self.beside_table)}) {verb} not in "
                f"{MANIFEST_NAME} and not used; to use new videos, run {command_for(self.data_dir)} --overwrite, with "
                "the options of the first import other than --seed"
            )
        for split in self.empty_splits:
            yield (
                f"no {split} clips: a training needs some; name them in the split file, in the table's "
                f"column split, or by a folder {split}, and fetch their videos"
            )
        yield from self._balance()

    def _causes(self) -> Iterator[str]:
        for finding in [finding for finding in self.findings if finding.damage][:10]:
            yield f"damaged: {finding.clip.path.name}: {finding.damage}"
        bad = [finding for finding in self.findings if finding.unreadable]
        for finding in bad[:10]:
            where = f"{plain(finding.clip.video_id)}: " if "/" in finding.clip.video_id else ""
            yield f"unreadable: {where}{finding.unreadable}"
        if bad:
            more = f"… and {len(bad) - 10} more (--json names all). " if len(bad) > 10 else ""
            yield f"{more}Fetch these files again, or leave them out of all trainings: add --leave-out"

    def _balance(self) -> Iterator[str]:
        rows = self.per_class()
        for split in SPLITS:
            counts = [row[split] for row in rows]
            if any(counts):
                yield f"{split} clips per class: {min(counts)} to {max(counts)}, median {median(counts):g}"
        without = [f"{row['class']} ({row['gloss'] or 'no name'})" for row in rows if not row["train"]]
        if without:
            verb = "has" if len(without) == 1 else "have"
            yield f"{classes_text(without)} {verb} no training clip and cannot be learned: {some_of(without, 10)}"
