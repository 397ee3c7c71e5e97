"""Accuracy of a trained network on a split: ``python -m models.evaluate --checkpoint O/checkpoint.pt --split test``.

A training is judged on the validation split after each epoch; the test split is looked at here, once, at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.config import Settings
from models.data.loading.batches import Batch
from models.data.loading.clips import SplitLoader, build_loaders
from models.data.wlasl import SPLITS
from models.networks.efficient import load_recogniser
from models.training.batch_size import out_of_memory_told
from models.training.evaluation import Evaluation, evaluate
from models.training.optimization import autocast, fp32_products
from slr_bench.errors import EXIT_INTERRUPTED, EXIT_OK, DataError, SlrBenchError
from slr_bench.files import parse_overrides
from slr_bench.units import warn_in_one_line


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code. A mistake of the user's ends in one line on stderr."""
    options = _parser().parse_args(arguments)
    warn_in_one_line()
    try:
        _run(options)
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description="Accuracy of a trained network on a split of a data directory."
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="F", help="checkpoint.pt of train_efficient_model.py")
    add("--split", choices=SPLITS, default="test", help="clips to judge it on [test]")
    add("--data-dir", type=Path, metavar="D", help="data in WLASL layout, in place of the training's")
    add("--config", type=Path, metavar="C", help="configuration of the checkpoint, where that does not hold its own")
    add("--set", action="append", default=[], metavar="A.B=C", help="change one key of the configuration; repeatable")
    add("--json", action="store_true", help="one JSON object, with the rank of each clip's true class")
    return parser


def _run(options: argparse.Namespace) -> None:
    overrides = parse_overrides(options.set)
    if options.data_dir is not None:
        overrides["data.dir"] = str(options.data_dir)
    model, settings = load_recogniser(options.checkpoint, options.config, overrides)
    loaders = build_loaders(settings)
    if left_out := loaders.manifest.left_out_text:
        print(left_out, file=sys.stderr)
    loader: SplitLoader = getattr(loaders, options.split)
    if not loader.indices:
        raise DataError(f"{settings.data.dir} has no {options.split} clips; choose another --split or --data-dir")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    what = f"a batch of {loader.batch_size} clips (training.batch_size)"
    with closing(loaders), out_of_memory_told(lambda: what, may_halve=False), fp32_products(settings.training):
        network, precision = model.to(device), autocast(device, settings.training)
        found = evaluate(network, _watched(loader, options.split), device, precision)
        if padding := loaders.padding_text:
            print(padding, file=sys.stderr)
    if options.json:
        print(json.dumps({"split": options.split, "fingerprint": loaders.manifest.fingerprint} | asdict(found)))
    else:
        Console(highlight=False).print(table(found, settings, options.split))


def _watched(loader: SplitLoader, split: str) -> Iterator[Batch]:
    console = Console(stderr=True)
    batches = track(loader, f"judging {split}", console=console, transient=True, disable=not console.is_terminal)
    yield from batches


def table(found: Evaluation, settings: Settings, split: str) -> Table:
    """Top-1, -5 and -10, per instance and per class, as WLASL's papers give them."""
    classes = settings.model.num_classes
    shown = Table(
        title=f"{found.clips:,} {split} clips, {classes} classes, loss {found.loss:.3f}", title_justify="left"
    )
    for name in ("accuracy", "top-1", "top-5", "top-10"):
        shown.add_column(name, justify="left" if name == "accuracy" else "right")
    per_instance = (found.top1, found.top5, found.top10)
    per_class = (found.per_class_top1, found.per_class_top5, found.per_class_top10)
    shown.add_row("per instance", *(f"{100 * value:.1f} %" for value in per_instance))
    shown.add_row("per class", *(f"{100 * value:.1f} %" for value in per_class))
    return shown


if __name__ == "__main__":
    sys.exit(main())
