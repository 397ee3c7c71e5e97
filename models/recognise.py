"""Recognise the sign in video files: ``python -m models.recognise --checkpoint O/checkpoint.pt FILE...``.

The clips are read and prepared by the code that evaluation uses, so both give the same logits.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from models.command import (
    OneLineParser,
    add_checkpoint_options,
    add_classes_option,
    class_name,
    class_names,
    local_path,
    run_command,
)
from models.data.manifest import VIDEO_SUFFIXES, ClipInfo
from slr_bench.errors import EXIT_OK, EXIT_USAGE, ConfigError, DataError
from slr_bench.files import parse_overrides
from slr_bench.units import format_count, plain

if TYPE_CHECKING:  # these import torch, which takes seconds: mistakes in the options are reported before
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor, nn

    from models.data.loading.clip_reader import ClipReader

TOP = 5


class Sign(NamedTuple):
    """One of the likeliest classes of a clip."""

    label: int
    probability: float


@dataclass(frozen=True)
class Recognition:
    """The likeliest signs of one file, the best first."""

    path: Path
    signs: tuple[Sign, ...]
    repeated_frames: int
    """Frames that only repeat the last one, because the clip is shorter than the network's."""
    damaged_frames: int
    """Damaged frames that the decoder replaced by guesses."""


@dataclass(frozen=True)
class Unreadable:
    """A file, or a name on the command line, that could not be recognised."""

    name: str
    reason: str


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if a file could not be read. The other files are recognised."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "nothing was printed")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.recognise",
        description="Print the likeliest signs of video files that show one sign each.",
    )
    add_checkpoint_options(parser)
    add = parser.add_argument
    add("paths", nargs="+", metavar="FILE", help="video files, or directories with video files")
    add("--top", type=int, default=TOP, metavar="K", help=f"signs to print per file [{TOP}]")
    add("--batch-size", type=int, metavar="B", help="clips to compute together [training.batch_size]")
    add_classes_option(parser)
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _run(options: argparse.Namespace) -> int:
    for name, value in (("--top", options.top), ("--batch-size", options.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value}: use 1 or more")
    files, refused = find_files(options.paths)
    if not files:
        _report(refused)
        return EXIT_USAGE
    from models.data.loading.clip_reader import ClipReader
    from models.layers.placement import default_device
    from models.networks.trained import load_recogniser
    from models.training.optimization import autocast, fp32_products
    from models.training.out_of_memory import explain_out_of_memory

    model, settings, trained = load_recogniser(options.checkpoint, options.config, parse_overrides(options.set))
    names = class_names(trained, options.classes, settings.data.dir)
    device, size = default_device(), min(options.batch_size or settings.training.batch_size, len(files))
    reader = ClipReader.of(settings, threads=len(os.sched_getaffinity(0)))
    what = f"a batch of {size} clips (--batch-size)"
    with explain_out_of_memory(lambda: what, may_halve=False), fp32_products(settings.training):
        precision = autocast(device, settings.training)
        results = recognise(model.to(device).eval(), reader, files, size, options.top, device, precision)
        found = list(_with_progress(results, len(files)))
    unreadable = refused + [result for result in found if isinstance(result, Unreadable)]
    _report(unreadable)
    recognised = [result for result in found if isinstance(result, Recognition)]
    for clip in recognised:
        for remark in _remarks(clip, settings.model.num_frames):
            print(f"{plain(clip.path)}: {remark}", file=sys.stderr)
    if options.json:
        print(json.dumps(as_json(recognised, unreadable, names)))
    elif recognised:
        Console(highlight=False).print(table(recognised, names))
    return EXIT_USAGE if unreadable else EXIT_OK


def _report(unreadable: Sequence[Unreadable]) -> None:
    for failed in unreadable:
        named = "" if failed.reason.startswith(failed.name) else f"{plain(failed.name)}: "
        print(f"error: {named}{plain(failed.reason)}", file=sys.stderr)


def _remarks(clip: Recognition, num_frames: int) -> Iterator[str]:
    if clip.damaged_frames:
        yield f"the decoder replaced {format_count(clip.damaged_frames, 'damaged picture')} by guesses"
    if clip.repeated_frames:
        held = format_count(num_frames - clip.repeated_frames, "frame")
        yield f"the clip has {held}, and the network takes {num_frames}; the last one is repeated"


def find_files(names: Sequence[str]) -> tuple[list[Path], list[Unreadable]]:
    """Return the named files, and the video files inside the named directories at any depth, sorted.

    The second list holds the names that cannot be used.
    """
    files: list[Path] = []
    refused = []
    for name in names:
        try:
            files += _files_of(local_path(name))
        except DataError as error:
            refused.append(Unreadable(name, str(error)))
    return files, refused


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(Path(folder, name) for folder, _, names in os.walk(path, onerror=_refuse) for name in names)
    inside = [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES]
    if not inside:
        raise DataError(f"{path} holds no video file ({', '.join(VIDEO_SUFFIXES)}); name files, or another directory")
    return inside


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot read {error.filename}: {error.strerror}; check the permissions") from error


def recognise(
    model: nn.Module,
    reader: ClipReader,
    files: Sequence[Path],
    batch_size: int,
    top: int,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> Iterator[Recognition | Unreadable]:
    """Yield the likeliest signs of each file in order. ``model`` is on ``device`` and in evaluation mode."""
    from models.training.evaluation import class_logits

    for first in range(0, len(files), batch_size):
        part = files[first : first + batch_size]
        clips_BTCHW, read = _read(reader, part)
        rows = [place for place, result in enumerate(read) if isinstance(result, int)]
        logits_BK = iter(class_logits(model, clips_BTCHW[rows], device, autocast).cpu() if rows else ())
        for path, result in zip(part, read, strict=True):
            if isinstance(result, DataError):
                yield Unreadable(str(path), str(result))
            else:
                yield _recognition(path, next(logits_BK), top, result, reader.concealed.get(str(path), 0))


def _read(reader: ClipReader, files: Sequence[Path]) -> tuple[Tensor, list[int | DataError]]:
    """Return the clips of the files; and for each file its number of repeated frames, or why it cannot be read."""
    import torch

    from models.data.loading.batches import one_torch_thread

    size = reader.frame_size
    clips_BTCHW = torch.zeros((len(files), reader.num_frames, 3, size, size), dtype=torch.uint8)
    read: list[int | DataError] = []
    with one_torch_thread():
        for row_TCHW, path in zip(clips_BTCHW, files, strict=True):
            try:
                read.append(reader.read_into(row_TCHW, whole_file(path), None))
            except DataError as error:
                read.append(error)
    return clips_BTCHW, read


def whole_file(path: Path) -> ClipInfo:
    """Return the clip that is all of a file, with no class."""
    return ClipInfo(
        video_id=str(path),
        label=0,
        gloss="",
        signer_id=-1,
        split="test",
        frame_start=0,
        frame_end=None,
        bbox=None,
        fps=None,
        path=path,
        file_bytes=0,
    )


def _recognition(path: Path, logits_K: Tensor, top: int, repeated: int, damaged: int) -> Recognition | Unreadable:
    probabilities_K = logits_K.softmax(0)
    if not probabilities_K.isfinite().all():
        return Unreadable(str(path), "the network's logits are not finite numbers; use another checkpoint")
    values, labels = probabilities_K.topk(min(top, len(probabilities_K)))
    signs = tuple(map(Sign, labels.tolist(), values.tolist()))
    return Recognition(path, signs, repeated, damaged)


def _with_progress(results: Iterator[Recognition | Unreadable], count: int) -> Iterator[Recognition | Unreadable]:
    console = Console(stderr=True)
    return iter(
        track(results, "recognising", total=count, console=console, transient=True, disable=not console.is_terminal)
    )


def table(recognised: Sequence[Recognition], names: Mapping[int, str]) -> Table:
    """Return one row per sign, grouped by file."""
    result = Table()
    result.add_column("file", overflow="fold")
    result.add_column("sign", overflow="fold")
    result.add_column("probability", justify="right")
    for clip in recognised:
        for place, sign in enumerate(clip.signs):
            file = escape(plain(clip.path)) if place == 0 else ""
            name = escape(plain(class_name(names, sign.label)))
            result.add_row(file, name, f"{100 * sign.probability:.1f} %", end_section=place == len(clip.signs) - 1)
    return result


def as_json(
    recognised: Sequence[Recognition], unreadable: Sequence[Unreadable], names: Mapping[int, str]
) -> dict[str, object]:
    """Return the results as ``--json`` prints them; a class without a word has ``"gloss": null``."""
    clips = [
        {
            "file": str(clip.path),
            "top": [
                {"class": sign.label, "gloss": names.get(sign.label) or None, "probability": sign.probability}
                for sign in clip.signs
            ],
            "repeated_frames": clip.repeated_frames,
            "damaged_frames": clip.damaged_frames,
        }
        for clip in recognised
    ]
    return {"clips": clips, "unreadable": [{"file": file.name, "reason": file.reason} for file in unreadable]}


if __name__ == "__main__":
    sys.exit(main())
