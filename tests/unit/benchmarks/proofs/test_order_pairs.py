from pathlib import Path

import pytest
import torch

from benchmarks.proofs.order_pairs import GRID, accuracy_within_pairs, points_within_pairs
from models.data.synthetic.dataset import render_dataset
from models.data.synthetic.lexicon import pairs
from models.networks.efficient import build_recogniser
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid

TINY = {
    "data.frame_size": 32,
    "model.base_channels": 8,
    "model.num_frames": 8,
    "model.num_classes": 8,
    "training.epochs": 1,
}


def settings_of(arm, **overrides):
    return expand(load_grid(GRID), TINY | overrides, arm)[0].settings


def test_points_within_pairs_look_at_two_scores_only():
    logits = torch.tensor([[1.0, 2.0, 9.0, 0.0], [3.0, 2.0, 9.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    partner = {0: 1, 1: 0, 2: 3, 3: 2}
    assert points_within_pairs(logits, torch.tensor([0, 0, 3]), partner).tolist() == [0.0, 1.0, 0.5]
    assert points_within_pairs(logits, torch.tensor([1, 1, 2]), partner).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("arm", ["no_time", "shift", "attention", "pyramid"])
def test_without_temporal_parts_a_clip_run_backwards_scores_the_same_and_with_any_it_does_not(arm):
    torch.manual_seed(1)
    model = build_recogniser(settings_of(arm).model).double().eval()
    if model.attention is not None:  # it starts as the identity
        torch.nn.init.normal_(model.attention.project.weight)
    clip = torch.rand(1, 8, 3, 32, 32, dtype=torch.float64)
    difference = (model(clip) - model(clip.flip(1))).abs().max().item()
    assert difference < 1e-12 if arm == "no_time" else difference > 1e-6


def test_only_the_pairs_are_trained_on_and_only_unseen_signers_judged(tmp_path: Path):
    settings = settings_of("shift", **{"data.dir": str(tmp_path / "signs"), "training.batch_size": 2})
    render_dataset(settings.data.dir, num_classes=8, clips_per_class=3, signers=3, size=32, workers=1)
    order = pairs(8)["order"]
    assert order == [(0, 1), (6, 7)]
    right, clips = accuracy_within_pairs(settings, order)
    assert clips == 2 * 4  # one clip of val and one of test for each of four classes
    assert 0 <= right <= clips
