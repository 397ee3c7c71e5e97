"""Tests that a step interpolated between two traced ones equals a traced one."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from models.config import Settings
from slr_bench.execute.job import Job, StepToTrace, TraceSteps, Work
from slr_bench.files import nest
from slr_bench.trace.derived_steps import TracedStep, interpolate
from slr_bench.trace.requests import OperatorNeed, Workspace
from slr_bench.trace.step_trace import Operator, StepTrace, Storage
from slr_bench.worker.trace_for_prediction import trace_one, trace_steps

pytestmark = pytest.mark.filterwarnings("ignore:fp16 on a CPU")

TINY = {
    "model.num_classes": 3,
    "model.base_channels": 8,
    "model.num_frames": 4,
    "data.frame_size": 32,
    "training.gradient_accumulation_steps": 2,
}


def step(workload, setting, samples, cuda_rules=True):
    values = Settings.model_validate(nest(TINY | setting | {"training.batch_size": samples})).model_dump(mode="json")
    work = Work(workload, values, fake=True, cuda_rules=cuda_rules)
    return StepToTrace(work, more_micro_batches=1, samples=samples, family="one")


SIZES = (4, 12, 8)


def check(workload, setting, cuda_rules):
    """Check the third of ``SIZES``, and return whether it was interpolated from the first two instead of traced.

    Pooling splits the frames into 16 equal parts and the split stem into 32, which 16 frames do not allow.
    """
    steps = tuple(step(workload, setting, samples, cuda_rules) for samples in SIZES)
    messages = []
    trace_steps(Job(TraceSteps(steps)), messages.append)
    assert [message.number for message in messages] == [0, 1, 2]
    found = dict(messages[2].step)
    assert "told_from_samples" not in messages[1].step
    sources = found.pop("told_from_samples", None)
    assert sources in (None, [4, 12])
    assert found == trace_one(steps[2])
    return sources is not None


FEW_OPERATORS = {"model.attention": "none", "model.temporal_shift": "plain", "model.max_pool": "plain"}
STEPS = [
    ("train_step", FEW_OPERATORS | {"training.precision": "bf16", "training.recompute": "stage"}, True),
    ("train_step", FEW_OPERATORS | {"training.precision": "fp32", "training.recompute": "none"}, False),
    ("inference", {"training.precision": "fp16"}, True),
]
OTHER_STEPS = [
    *(
        ("train_step", {"training.precision": precision, "training.recompute": recompute} | update, cuda_rules)
        for precision, recompute, update, cuda_rules in itertools.product(
            ("fp32", "bf16"),
            ("none", "block", "lowest", "budget:2"),
            ({}, {"training.optimizer": "sgd", "model.norm": "group", "model.stem": "split"}),
            (False, True),
        )
    ),
    *(
        ("train_step", values, True)
        for values in (
            {"model.region_focus": "motion", "model.focus_size": 32, "data.frame_size": 40},
            {"model.token_merging": 1, "model.pyramid_levels": [1, 2]},
            {"model.frame_budget": 3, "model.pyramid_levels": [1, 2]},
            {"model.attention": "sparse", "training.channels_last": True},
            {"model.attention": "dense"},
            {"model.network": "r3d_18", "model.base_channels": 64},
        )
    ),
]


@pytest.mark.parametrize(("workload", "setting", "cuda_rules"), STEPS)
def test_step_is_interpolated_from_a_smaller_and_a_larger_one(workload, setting, cuda_rules):
    assert check(workload, setting, cuda_rules)


@pytest.mark.slow
@pytest.mark.parametrize(("workload", "setting", "cuda_rules"), OTHER_STEPS)
def test_interpolated_or_traced_step_is_the_same_in_every_setting(workload, setting, cuda_rules):
    plans = setting.get("training.recompute") not in (
        None,
        "none",
        "block",
    )  # the plan of recomputation depends on the size
    assert check(workload, setting, cuda_rules) or plans or setting.get("model.stem") == "split"


def test_micro_batch_of_one_runs_other_operators_and_is_not_interpolated_from():
    setting = FEW_OPERATORS | {"model.attention": "chunked"}
    messages = []
    trace_steps(
        Job(TraceSteps(tuple(step("train_step", setting, samples) for samples in (1, 4, 2, 3)))), messages.append
    )
    sources = [message.step.get("told_from_samples") for message in messages]
    assert sources == [None, None, None, [2, 4]]


def storage(size, **changes):
    result = Storage(size, (size // 4, 4), "uint8", None, "temporary", 0, "aten.add", "conv", "forward", "x.py:1")
    return replace(result, **{"died": 1} | changes)


def traced(samples, size, changes=None, operator="aten.add", most=100):
    operators = [Operator(operator, "conv", "forward", (0,), 2 * size), Operator("aten.mul", "", "forward", (0,), size)]
    step = StepTrace(
        [storage(size, **(changes or {}))], operators, ("conv",), 10 * samples, Counter(float32=10 * samples)
    )
    needs = [OperatorNeed(1, "mul", Workspace(samples, most, True), False, False)]
    return TracedStep(samples, step, needs, samples, 3 * samples)


def test_sizes_grow_in_proportion():
    found = interpolate(traced(2, 40), traced(6, 104, most=180), 3)
    assert found is not None
    assert (found.samples, found.samples_per_step, found.loader_bytes) == (3, 3, 9)
    assert [(one.size_bytes, one.shape) for one in found.step.storages] == [(56, (14, 4))]
    assert found.step.flops == found.step.flops_by_dtype["float32"] == 30
    assert found.needs[0].workspace == Workspace(3, 120, True)


@pytest.mark.parametrize(
    "high",
    [
        traced(6, 82),  # 50.5 bytes
        traced(6, 104, {"category": "input"}),
        traced(6, 104, {"saved_from": 0}),
        traced(6, 104, {"died": None}),
        traced(6, 104, operator="aten.sub"),
    ],
)
def test_steps_that_differ_in_more_than_sizes_are_not_interpolated(high):
    assert interpolate(traced(2, 40), high, 3) is None
