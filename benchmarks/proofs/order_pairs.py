"""Test whether the network sees the order of frames, on pairs of signs that are each other's film run backwards.

``python -m benchmarks.proofs.order_pairs`` renders the signs (a minute of one core), trains every
arm of ``configs/order_pairs.yml`` on the pairs alone, and evaluates on signers that
are not in the training data. A clip counts as right if its own class scores above the other class of its pair. A
network that is blind to order is right half the time.

B clip, K sign class
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from models.config import Settings
from models.data.loading.clips import Loaders, SplitLoader, build_loaders
from models.data.manifest import SPLITS
from models.data.synthetic.dataset import render_dataset
from models.data.synthetic.lexicon import pairs
from models.layers.placement import default_device
from models.networks.efficient import build_recogniser
from models.training.efficient_trainer import build_trainer
from models.training.loaders import Splits
from models.training.optimization import autocast, steps_per_epoch
from models.training.stepper import Stepper
from slr_bench.errors import EXIT_OK, ConfigError, SlrBenchError
from slr_bench.files import parse_overrides
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid

GRID = Path(__file__).parents[2] / "configs" / "order_pairs.yml"
SIGNERS, VIDEO_SIZE = 24, 64


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code. A mistake of the user's ends in one line on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--grid", type=Path, default=GRID, help="grid file of the workload train_epochs whose arms are compared")
    add("--arm", help="this arm only")
    add("--clips-per-class", type=int, default=48, help="two thirds are trained on, the rest judged")
    add("--set", action="append", default=[], metavar="A.B=C", help="change one key of every arm; repeatable")
    options = parser.parse_args(arguments)
    try:
        for cell in expand(load_grid(options.grid), parse_overrides(options.set), options.arm):
            settings = cell.settings
            if not isinstance(settings, Settings) or settings.data.dir is None:
                raise ConfigError(f"{options.grid}: the workload must be train_epochs, with data.dir set")
            render_dataset(
                settings.data.dir, settings.model.num_classes, options.clips_per_class, SIGNERS, VIDEO_SIZE, workers=1
            )
            start_cpu_s = time.process_time()
            right, clips = accuracy_within_pairs(settings, pairs(settings.model.num_classes)["order"])
            minutes = (time.process_time() - start_cpu_s) / 60
            print(f"{cell.arm:<10} {right / clips:>6.1%} of {clips} clips, {minutes:.1f} core-minutes", flush=True)
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def accuracy_within_pairs(settings: Settings, order_pairs: Sequence[tuple[int, int]]) -> tuple[float, int]:
    """Train on the classes of ``order_pairs`` alone.

    Return how many clips of unseen signers score higher for their own class than for its pair, and the number of
    clips. A tie counts half."""
    partner = {a: b for pair in order_pairs for a, b in (pair, pair[::-1])}
    torch.manual_seed(settings.training.seed)
    device = default_device()
    model = build_recogniser(settings.model, settings.training.recompute).to(device)
    with closing(build_loaders(settings)) as loaders:
        train, val, test = (
            _of_classes(loaders, split, partner) for split in (loaders.train, loaders.val, loaders.test)
        )
        total_steps = settings.training.epochs * steps_per_epoch(len(train.indices), settings.training)
        trainer = build_trainer(model, settings.training, device, total_steps, Splits(train, val))
        trainer.fit(output_dir=None, console=Console(quiet=True))
        model.eval()
        points_B = torch.cat([_points(trainer.stepper, split, partner) for split in (val, test)])
    return points_B.sum().item(), len(points_B)


def _of_classes(loaders: Loaders, split: SplitLoader, classes: Mapping[int, int]) -> SplitLoader:
    clips = [clip for name in SPLITS for clip in loaders.manifest.clips[name]]
    return replace(split, indices=tuple(index for index in split.indices if clips[index].label in classes))


@torch.no_grad()
def _points(stepper: Stepper, split: SplitLoader, partner: Mapping[int, int]) -> Tensor:
    points = []
    for batch in split:
        with autocast(stepper.device, stepper.config):
            logits_BK = stepper.model(batch.clips_BTCHW.to(stepper.device)).float().cpu()
        points.append(points_within_pairs(logits_BK, batch.labels_B, partner))
    return torch.cat(points)


def points_within_pairs(logits_BK: Tensor, labels_B: Tensor, partner: Mapping[int, int]) -> Tensor:
    """1 where a clip's own class scores above its pair's other one, 0 below, half for a tie."""
    others_B = torch.tensor([partner[label] for label in labels_B.tolist()])
    own_B1, other_B1 = (logits_BK.gather(1, classes_B.unsqueeze(1)) for classes_B in (labels_B, others_B))
    return 0.5 * (1 + (own_B1 - other_B1).sign()).squeeze(1)


if __name__ == "__main__":
    sys.exit(main())
