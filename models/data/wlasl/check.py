"""``python -m models.data.wlasl check DIR``: report what a data directory holds and lacks. No torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from models.command import OneLineParser, run_command
from models.data.layouts.directory import videos_beside_table
from models.data.left_out import write_list
from models.data.manifest import SPLITS, ClipInfo
from models.data.video.inspection import Finding, inspect_clips
from models.data.wlasl import load_manifest
from models.data.wlasl.directory_report import DirectoryReport
from slr_bench.errors import EXIT_OK, EXIT_USAGE, ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m models.data.wlasl", description="Data directories for training.")
    check = parser.add_subparsers(dest="command", required=True).add_parser(
        "check",
        help="report what a directory holds and lacks",
        description="Report what a data directory holds and lacks: splits, classes, files. Code 0: training can use "
        "all that is not left out; 2: it would be refused, or stop at an unreadable clip. Only --decode finds damage "
        "inside a file.",
    )
    add = check.add_argument
    add("data_dir", type=Path, metavar="DIR", help="data directory")
    add("--num-classes", type=int, metavar="N", help="take nslt_<N>.json; not needed where there is only one")
    add(
        "--num-frames",
        type=int,
        default=16,
        metavar="T",
        help="frames that the network takes; clips with fewer are listed as short [16]",
    )
    add("--decode", action="store_true", help="decode every frame of every clip, not only the packets' headers")
    add("--leave-out", action="store_true", help="name the unreadable clips in DIR/left_out.txt: training skips them")
    add("--json", action="store_true", help="one JSON object, with every clip id, in place of the tables")
    return parser


def _check(options: argparse.Namespace) -> int:
    if options.num_frames < 1:
        raise ConfigError(f"--num-frames {options.num_frames} is not a number of frames; use 1 or more, for example 16")
    manifest = load_manifest(options.data_dir, options.num_classes)
    clips = [clip for split in SPLITS for clip in manifest.clips[split]]
    findings = _with_progress(clips, options)
    unreadable = {finding.clip.video_id: finding.unreadable for finding in findings if finding.unreadable}
    if unreadable and options.leave_out:
        path = write_list(options.data_dir, unreadable)
        manifest = load_manifest(options.data_dir, options.num_classes)
        findings = [finding for finding in findings if not finding.unreadable]
        print(f"{len(unreadable)} unreadable clips are named in {path}; delete it to use them again", file=sys.stderr)
    report = DirectoryReport(
        options.data_dir,
        manifest,
        findings,
        options.num_frames,
        decoded=options.decode,
        beside_table=videos_beside_table(options.data_dir, manifest),
    )
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        console = Console(highlight=False)
        for part in report.renderables():
            console.print(part, soft_wrap=isinstance(part, str))
    return EXIT_OK if report.is_usable else EXIT_USAGE


def _with_progress(clips: Sequence[ClipInfo], options: argparse.Namespace) -> list[Finding]:
    console = Console(stderr=True)
    threads = len(os.sched_getaffinity(0))
    found = inspect_clips(clips, options.num_frames, threads, decode=options.decode)
    shown = track(
        found, "reading videos", total=len(clips), console=console, transient=True, disable=not console.is_terminal
    )
    return list(shown)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code. ``arguments`` defaults to the process's own."""
    return run_command(lambda: _check(_parser().parse_args(arguments)), "nothing was written")
