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
    "training.recompute",
    "model.stem",
}


@pytest.mark.parametrize("name", ["accuracy_dgs30.yml", "accuracy_synthetic.yml"])
def test_arms_of_an_accuracy_grid_share_recipe_and_effective_batch(name):
    cells = expand(load_grid(CONFIGS / name), {})
    by_seed = {}
    for cell in cells:
        assert cell.spec.name == "train_epochs"
        by_seed.setdefault(cell.settings.training.seed, {})[cell.arm] = cell
    assert len(by_seed) >= 2
    for arms in by_seed.values():
        base, head = arms["baseline"], arms["optimized"]
        assert base.settings.training.effective_batch == head.settings.training.effective_batch
        flat = flatten(base.public_setting), flatten(head.public_setting)
        differing = {key for key in flat[0] | flat[1] if flat[0].get(key) != flat[1].get(key)}
        assert differing <= MAY_DIFFER
        assert differing  # otherwise two names would stand for one setting
