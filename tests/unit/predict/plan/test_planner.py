"""A planner over traces made by hand: what it looks at, refuses, and says."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.grid import cells
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import find_workload
from slr_bench.predict.device import find_device
from slr_bench.predict.peak import predicted
from slr_bench.predict.plan import planner as planner_module
from slr_bench.predict.plan.planner import Planner
from slr_bench.predict.plan.result import Budget
from slr_bench.predict.plan.search import DoesNotFitError
from slr_bench.trace.request_kinds import ALLOCATE, STEADY
from slr_bench.units import GIB, MIB

GRID = GridConfig(workload="train_step", arms={"a": {}}, set={"data.max_frames_in_memory": None})
KEPT = ("training.recompute", "model.attention", "model.stem")


def traced(cell):
    """A step of 200 MiB a clip of its micro-batch, half of that in 16 bits."""
    training = cell.settings.training
    half = training.precision in ("bf16", "fp16")
    size = 200 * MIB * training.batch_size // (2 if half else 1)
    name = {"bf16": "bfloat16", "fp16": "float16"}.get(training.precision, "float32")
    return {
        "requests": [[STEADY, 0, 0], [ALLOCATE, 0, size]],
        "source": "cuda-rules",
        "cuda_rules": 2,
        "peak_tensor_bytes": size,
        "floor_bytes": MIB,
        "by_category": {"saved activation": size},
        "by_module": [],
        "unmodelled": [],
        "flops_by_dtype": {name: 1e12},
        "touched_bytes_per_step": 0,
        "operators": 1000 * training.gradient_accumulation_steps,
        "samples_per_step": training.batch_size * training.gradient_accumulation_steps,
    }


class Foresight(nullcontext):
    """In the place of processes that trace."""

    def __init__(self, cuda_rules):
        super().__init__(self)
        assert cuda_rules

    def foresee(self, asked):
        return [traced(cell) for cell in asked]


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.setattr(planner_module, "Foresight", Foresight)


def plan(device="rtx3060", size=4 * GIB, keep=KEPT, headroom=0.05, **options):
    planner = Planner(GRID, {}, None, None, find_device(device), keep, **options)
    return planner.plan(Budget(size, headroom, None))


@pytest.mark.parametrize(("device", "precision"), [("rtx3060", "bf16"), ("rtx2060", "fp16")])
def test_the_largest_micro_batch_that_fits_in_the_type_that_the_card_has(device, precision):
    found = plan(device)
    training = found.cells[found.plan.chosen].settings.training
    assert (training.precision, training.batch_size, training.gradient_accumulation_steps) == (precision, 32, 1)


def test_the_figure_of_a_plan_is_that_of_a_prediction_on_any_card_that_is_as_large():
    found = plan()
    need = found.plan.evaluated[found.plan.chosen].need_bytes
    for card in (find_device("rtx3060"), replace(find_device("rtx3060"), capacity_bytes=4 * GIB)):
        assert predicted(traced(found.cells[found.plan.chosen]), card).nvml.high == need <= 0.95 * 4 * GIB


def test_what_a_card_cannot_compute_is_told_rather_than_what_is_impossible():
    grid = GRID.model_copy(update={"set": {"data.max_frames_in_memory": 256}})
    card = find_device("rtx2060")
    planner = Planner(grid, {}, None, None, card, (*KEPT, "training.precision"))
    with pytest.raises(NothingMeasuredError, match=r"does not compute in bf16.*use fp16"):
        planner.plan(Budget(4 * GIB, 0.05, None))


def test_where_nothing_fits_the_headroom_and_what_was_kept_are_named():
    with pytest.raises(DoesNotFitError) as told:
        plan(size=GIB // 2, keep=(*KEPT, "training.precision"))
    text = str(told.value)
    for words in (
        "nothing fits 486.4 MiB (512.0 MiB less 5 % headroom)",
        "650.0 MiB context",
        "the rest rounding",
        "leave out --keep training.recompute or",
        "--allow model.region_focus",
        "a smaller effective batch",
    ):
        assert words in text


def test_a_value_that_no_setting_can_have_is_a_mistake():
    with pytest.raises(ConfigError, match=r"--vary model.num_frames: .*num_frames"):
        plan(vary=["model.num_frames=8,0"])


def test_a_named_value_that_changes_how_many_clips_a_step_takes_is_refused(monkeypatch):
    bare = replace(find_workload("train_step"), micro_batch=None, micro_batches=None, knobs=())
    monkeypatch.setattr(cells, "find_workload", lambda name: bare)
    planner = Planner(GRID, {}, None, None, find_device("h200"), vary=["training.batch_size=2,8"])
    found = planner.plan(Budget(64 * GIB, 0.05, None))
    assert [one.reason for one in found.rejected] == ["takes 8 clips a step, the setting given 32: another step"]
    assert any("its batch stays as it is" in text for text in found.left_alone)
