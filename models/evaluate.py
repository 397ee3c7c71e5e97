"""Accuracy of a trained network on a split: ``python -m models.evaluate --checkpoint O/checkpoint.pt --split test``.

A training is evaluated on the validation split after each epoch. The test split is used only here, once, at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.command import OneLineParser, add_checkpoint_options, run_command
from models.config import Settings
from models.data.manifest import SPLITS
from models.data.wlasl import load_manifest, look_at
from slr_bench.errors import ConfigError, DataError
from slr_bench.files import parse_overrides

if TYPE_CHECKING:  # these import torch, which takes seconds: mistakes in the options are reported before
    from models.data.loading.batches import Batch
    from models.data.loading.clips import SplitLoader
    from models.networks.weights import Glosses
    from models.training.evaluation import Evaluation


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code. Errors that the user can mend print one line on stderr."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.evaluate", description="Accuracy of a trained network on a split of a data directory."
    )
    add_checkpoint_options(parser)
    add = parser.add_argument
    add("--split", choices=SPLITS, default="test", help="clips to evaluate on [test]")
    add("--data-dir", type=Path, metavar="D", help="data directory, instead of that of the training")
    add("--json", action="store_true", help="print one JSON object, with the rank of each clip's true class")
    return parser


def _run(options: argparse.Namespace) -> None:
    overrides = parse_overrides(options.set)
    if options.data_dir is not None:
        overrides["data.dir"] = str(options.data_dir)
        look_at(options.data_dir, options.split)
    from models.data.loading.clips import build_loaders
    from models.layers.placement import default_device
    from models.networks.trained import load_recogniser
    from models.training.evaluation import evaluate
    from models.training.optimization import autocast, fp32_products
    from models.training.out_of_memory import explain_out_of_memory

    model, settings, trained = load_recogniser(options.checkpoint, options.config, overrides)
    if settings.data.dir is None:
        raise ConfigError(f"checkpoint {options.checkpoint} names no data directory; pass one with --data-dir")
    if not settings.data.dir.is_dir():
        raise DataError(f"the data directory {settings.data.dir} is not there; pass --data-dir DIR")
    # Words are matched below, so the data may have other classes than the network, if their words are known.
    classes, is_numbered = settings.model.num_classes, trained is None
    manifest = load_manifest(settings.data.dir, classes, needed=options.split, exactly=is_numbered)
    loaders = build_loaders(settings, manifest)
    for notice in manifest.notices:
        print(notice, file=sys.stderr)
    order = _class_order(trained, manifest.glosses, options.checkpoint)
    loader: SplitLoader = getattr(loaders, options.split)
    device = default_device()
    batch = f"a batch of {loader.batch_size} clips (training.batch_size)"
    with closing(loaders), explain_out_of_memory(lambda: batch, may_halve=False), fp32_products(settings.training):
        network, precision = model.to(device), autocast(device, settings.training)
        evaluation = evaluate(network, _with_progress(loader, options.split, order), device, precision)
        for remark in loaders.remarks:
            print(remark, file=sys.stderr)
    if options.json:
        print(json.dumps({"split": options.split, "fingerprint": manifest.fingerprint} | asdict(evaluation)))
    else:
        Console(highlight=False).print(table(evaluation, settings, options.split))


def _class_order(trained: Glosses | None, data: Glosses, checkpoint: Path) -> list[int] | None:
    """Return the trained class of each class of the data; None if their numbers are the same.

    Raises:
        DataError: the data have words that the network was not trained on.
    """
    if trained is None:
        print(
            f"checkpoint {checkpoint} does not name its words, so classes are compared by number; a checkpoint of this "
            "version names them",
            file=sys.stderr,
        )
        return None
    if trained == data:
        return None
    from models.networks.weights import class_order

    order = class_order(trained, data)
    if order is None:
        new = ", ".join(map(repr, sorted(set(data) - set(trained))[:3]))
        raise DataError(
            f"checkpoint {checkpoint} was not trained on all words of the data (not on {new}); use data with the words "
            "of the training, or train on these with --weights"
        )
    print("the data number the classes differently from the training; they are matched by their words", file=sys.stderr)
    return order


def _with_progress(loader: SplitLoader, split: str, order: list[int] | None) -> Iterator[Batch]:
    import torch

    console = Console(stderr=True)
    text = f"evaluating {split}"
    for batch in track(loader, text, console=console, transient=True, disable=not console.is_terminal):
        yield batch if order is None else replace(batch, labels_B=torch.tensor(order)[batch.labels_B])


def table(evaluation: Evaluation, settings: Settings, split: str) -> Table:
    """Return top-1, -5 and -10 per instance and per class, as in the WLASL papers."""
    classes = settings.model.num_classes
    result = Table(
        title=f"{evaluation.clips:,} {split} clips, {classes} classes, loss {evaluation.loss:.3f}", title_justify="left"
    )
    for name in ("accuracy", "top-1", "top-5", "top-10"):
        result.add_column(name, justify="left" if name == "accuracy" else "right")
    per_instance = (evaluation.top1, evaluation.top5, evaluation.top10)
    per_class = (evaluation.per_class_top1, evaluation.per_class_top5, evaluation.per_class_top10)
    result.add_row("per instance", *(f"{100 * value:.1f} %" for value in per_instance))
    result.add_row("per class", *(f"{100 * value:.1f} %" for value in per_class))
    return result


if __name__ == "__main__":
    sys.exit(main())
