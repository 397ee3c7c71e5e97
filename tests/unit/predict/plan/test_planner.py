"""The planner on traces made by hand: its choice, its refusals, its messages."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
from step_profiles import step_profile

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.grid import cells
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import find_workload
from slr_bench.predict.device import find_device
from slr_bench.predict.peak import predict_step
from slr_bench.predict.plan import planner as planner_module
from slr_bench.predict.plan.planner import Planner
from slr_bench.predict.plan.result import Budget, DoesNotFitError
from slr_bench.trace.requests import ALLOCATE, STEADY
from slr_bench.units import GIB, MIB

GRID = GridConfig(workload="train_step", arms={"a": {}}, set={"data.max_frames_in_memory": None})
KEPT = ("training.recompute", "model.attention", "model.stem")


def trace(cell):
    """A step of 200 MiB per sample of its micro-batch; half of that in 16 bits."""
    training = cell.settings.training
    half = training.precision in ("bf16", "fp16")
    size = 200 * MIB * training.batch_size // (2 if half else 1)
    name = {"bf16": "bfloat16", "fp16": "float16"}.get(training.precision, "float32")
    return step_profile(
        [STEADY, 0, 0],
        [ALLOCATE, 0, size],
        peak_tensor_bytes=size,
        floor_bytes=MIB,
        by_category={"saved activation": size},
        flops_by_dtype={name: 1e12},
        operators=1000 * training.gradient_accumulation_steps,
        samples_per_step=training.batch_size * training.gradient_accumulation_steps,
    )


class FakePool(nullcontext):
    """Replaces the tracing processes."""

    def __init__(self):
        super().__init__(self)

    def trace(self, cells, cuda_rules, on_traced=lambda cell, result: None):
        assert cuda_rules
        results = [trace(cell) for cell in cells]
        for cell, result in zip(cells, results, strict=True):
            on_traced(cell, result)
        return results


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.setattr(planner_module, "TracePool", FakePool)


def plan(device="rtx3060", size=4 * GIB, keep=KEPT, headroom=0.05, **options):
    planner = Planner(GRID, {}, None, None, find_device(device), keep, **options)
    return planner.plan(Budget(size, headroom, None))


@pytest.mark.parametrize(("device", "precision"), [("rtx3060", "bf16"), ("rtx2060", "fp16")])
def test_plan_chooses_the_largest_micro_batch_in_a_type_that_the_card_has(device, precision):
    found = plan(device)
    training = found.cells[found.choice.chosen].settings.training
    assert (training.precision, training.batch_size, training.gradient_accumulation_steps) == (precision, 32, 1)


def test_progress_names_what_is_done_and_what_is_left():
    planner = Planner(GRID, {}, None, None, find_device("rtx3060"), KEPT)
    lines = []
    found = planner.plan(Budget(4 * GIB, 0.05, None), lines.append)
    done = [int(re.match(r"traced (\d+|one)", line)[1].replace("one", "1")) for line in lines]
    left = [[int(number) for number in re.findall(r"(\d+) (?:left|in all)", line)] for line in lines]
    assert done == list(range(1, len(found.choice.evaluated) + 1))
    assert left[-1][0] == 0, "the last round is whole"
    assert all(in_round <= in_all for in_round, in_all in left)


def test_limit_of_the_loader_refuses_no_setting_and_the_plan_says_what_the_loader_needs():
    grid = GRID.model_copy(update={"set": {"data.max_frames_in_memory": 256}})
    found = Planner(grid, {}, None, None, find_device("rtx3060"), KEPT).plan(Budget(4 * GIB, 0.05, None))
    chosen = found.choice.chosen
    frames = 32 * found.cells[chosen].settings.model.num_frames
    assert found.cells[chosen].settings.training.batch_size == 32 == plan().cells[chosen].settings.training.batch_size
    assert found.differences[chosen]["data.max_frames_in_memory"] is None
    assert any(f"set the limit to {frames} or more" in text for text in found.left_alone)


def test_need_of_a_plan_equals_a_prediction_on_any_card_of_that_size():
    found = plan()
    need = found.choice.evaluated[found.choice.chosen].need_bytes
    for card in (find_device("rtx3060"), replace(find_device("rtx3060"), capacity_bytes=4 * GIB)):
        assert predict_step(trace(found.cells[found.choice.chosen]), card).nvml.high == need <= 0.95 * 4 * GIB


def test_incompatible_card_is_reported_before_impossible_settings():
    grid = GRID.model_copy(update={"set": {"data.max_frames_in_memory": 256}})
    card = find_device("rtx2060")
    planner = Planner(grid, {}, None, None, card, (*KEPT, "training.precision"))
    with pytest.raises(NothingMeasuredError, match=r"does not compute in bf16.*use fp16"):
        planner.plan(Budget(4 * GIB, 0.05, None))


def test_error_names_the_headroom_and_the_kept_knobs_if_nothing_fits():
    with pytest.raises(DoesNotFitError) as error:
        plan(size=GIB // 2, keep=(*KEPT, "training.precision"))
    text = str(error.value)
    for words in (
        "nothing fits 486.4 MiB (512.0 MiB less 5 % headroom)",
        "450.0 MiB context",
        "the rest rounding",
        "leave out --keep training.recompute or",
        "--allow model.region_focus",
        "a smaller effective batch",
    ):
        assert words in text


def test_value_that_no_setting_can_have_is_refused():
    with pytest.raises(ConfigError, match=r"--vary model.num_frames: .*num_frames"):
        plan(vary=["model.num_frames=8,0"])


def test_value_that_changes_the_samples_per_step_is_refused(monkeypatch):
    bare = replace(find_workload("train_step"), micro_batch=None, micro_batches=None, knobs=())
    monkeypatch.setattr(cells, "find_workload", lambda name: bare)
    planner = Planner(GRID, {}, None, None, find_device("h200"), vary=["training.batch_size=2,8"])
    found = planner.plan(Budget(64 * GIB, 0.05, None))
    assert [one.reason for one in found.rejected] == [f"takes 8 {bare.unit}s per step, but the given setting takes 32"]
    assert any("its batch stays as it is" in text for text in found.left_alone)
