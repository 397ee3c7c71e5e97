"""The arms of the accuracy grids train on the same clips, in steps of the same size, with the same recipe."""

from pathlib import Path

import pytest

from slr_bench.files import flatten
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid

CONFIGS = Path(__file__).parents[3] / "configs"
MAY_DIFFER = {
    "model.temporal_shift",
    "model.attention",
    "model.region_focus",
    "model.focus_size",
    "model.frame_budget",
    "model.max_pool",
    "data.max_frames_in_memory",
    "training.batch_size",
    "training.gradient_accumulation_steps",
    "training.mixed_precision",
    "training.precision",
    "training.recompute",
    "model.stem",
}
FOCUS = {"model.region_focus", "model.focus_size"}


@pytest.mark.parametrize("name", ["accuracy_dgs30.yml", "accuracy_synthetic.yml"])
def test_arms_of_an_accuracy_grid_share_recipe_and_effective_batch(name):
    cells = expand(load_grid(CONFIGS / name), {})
    by_seed = {}
    for cell in cells:
        assert cell.spec.name == "train_epochs"
        by_seed.setdefault(cell.settings.training.seed, {})[cell.arm] = cell
    assert len(by_seed) >= 2
    for arms in by_seed.values():
        base = arms.pop("baseline")
        for head in arms.values():
            assert base.settings.training.effective_batch == head.settings.training.effective_batch
            assert _differing(base, head) <= MAY_DIFFER
            assert _differing(base, head)  # otherwise two names would stand for one setting


def test_exact_and_optimized_arm_differ_in_the_focus_alone():
    arms = {cell.arm: cell for cell in expand(load_grid(CONFIGS / "accuracy_dgs30.yml"), {})}
    assert _differing(arms["exact"], arms["optimized"]) == FOCUS


def _differing(base, head):
    flat = flatten(base.public_setting), flatten(head.public_setting)
    return {key for key in flat[0] | flat[1] if flat[0].get(key) != flat[1].get(key)}
