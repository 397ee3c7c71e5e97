"""Tests that a steady step derived from the first one equals a traced one, and of its allocator requests."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from zoo import CASES, build, is_runnable, quick

from models.config import Settings
from slr_bench.errors import UnsupportedSettingError
from slr_bench.execute.job import Job, ProfileStep, StepToTrace, TraceSteps, Work
from slr_bench.files import nest
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.predict.device import Bound, any_device
from slr_bench.predict.replays import replay_requests
from slr_bench.trace.derived_steps import (
    live_bytes,
    make_steady,
    micro_batch_starts,
    name_state,
    repeat_micro_batches,
)
from slr_bench.trace.fake.cuda_rules import CudaFakeMode, cuda_routes
from slr_bench.trace.fake.tensors import CpuFakeMode
from slr_bench.trace.fake.workspaces import WorkspaceLog, workspace_of
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.requests import ALLOCATE, FREE, LIBRARY, STEADY, TRANSIENT, unmodelled
from slr_bench.trace.step_trace import breakdown, operator_floor
from slr_bench.worker import context as run_context
from slr_bench.worker.context import open_work
from slr_bench.worker.trace_for_prediction import trace_one, trace_steps
from slr_bench.worker.traced_step import no_collection, profile_json, profile_step, recorded_step, summed_up

pytestmark = pytest.mark.filterwarnings("ignore:fp16 on a CPU")

CPU = torch.device("cpu")
TINY = {
    "model.num_classes": 3,
    "model.base_channels": 8,
    "model.num_frames": 4,
    "data.frame_size": 32,
    "training.batch_size": 2,
}
N = "training.gradient_accumulation_steps"
TRACED = 2


def recorded(work, mode):
    with no_collection():
        on_host = mode.is_on_host if isinstance(mode, CudaFakeMode) else None
        recorder = Recorder(CPU, with_unnamed(work.tensors(), CPU, fake=True), fake=True, on_host=on_host)
        work.phase = recorder.phase
        with recorder:
            work.step()
    return recorder.step_trace


def facts(step):
    peak = breakdown(step)
    return {"peak": peak.peak_bytes, "floor": operator_floor(step), "by_category": peak.by_category}


def check_the_second_step(case, mode):
    if not is_runnable(case):
        pytest.skip("no such LSTM on this processor")
    work = build(case, mode)
    with mode:
        first = recorded(work, mode)
        name_state(first, work.tensors())
        peak_of_the_first = first.peak_bytes
        make_steady(first)
        second = recorded(work, mode)
    assert facts(first) == facts(second)
    assert live_bytes(first)[first.peak_position] == first.peak_bytes >= peak_of_the_first


TRAININGS = [case for case in CASES if case.training]
QUICK = [case for case in quick() if case.training]
EVERY_DAY = QUICK[::2]


@pytest.mark.parametrize("case", EVERY_DAY, ids=str)
def test_second_step_of_a_network_is_derived_from_the_first(case):
    check_the_second_step(case, CpuFakeMode())


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in TRAININGS if case not in EVERY_DAY], ids=str)
def test_second_step_of_every_network_is_derived_from_the_first(case):
    check_the_second_step(case, CpuFakeMode())


ROUTED = [case for case in TRAININGS if case.model != "lstm" and case.implementation == "foreach"]  # an LSTM is cuDNN's
ROUTED_EVERY_DAY = [case for case in QUICK if case in ROUTED and case not in EVERY_DAY]


@pytest.mark.parametrize("case", ROUTED_EVERY_DAY, ids=str)
def test_second_step_is_derived_from_the_first_under_cuda_rules(case):
    with cuda_routes():
        check_the_second_step(case, CudaFakeMode())


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ROUTED if case not in ROUTED_EVERY_DAY], ids=str)
def test_second_step_of_every_network_is_derived_from_the_first_under_cuda_rules(case):
    with cuda_routes():
        check_the_second_step(case, CudaFakeMode())


def step(workload, setting, cuda_rules, more=0):
    values = Settings.model_validate(nest(TINY | setting)).model_dump(mode="json")
    return StepToTrace(Work(workload, values, fake=True, cuda_rules=cuda_rules), more)


_DERIVED: dict[str, dict] = {}


def derived(workload, setting, cuda_rules):
    """Derive a step from at most two micro-batches; each step is traced once, for all tests."""
    key = repr((workload, setting, cuda_rules))
    if key not in _DERIVED:
        traced = min(TRACED, setting[N])
        _DERIVED[key] = trace_one(step(workload, setting | {N: traced}, cuda_rules, setting[N] - traced))
    return _DERIVED[key]


def unrolled(workload, setting, cuda_rules):
    """Return the profile of a second step with all micro-batches, and the bytes that it touches."""
    spec, settings, context = open_work(step(workload, setting, cuda_rules).work, "cpu")
    work = spec.build(settings, context)
    with context.tensors():
        work.load()
        work.step()
        traced, _ = recorded_step(work, context, None)
    profile = profile_json(summed_up(traced, {}, None), context)
    assert len(micro_batch_starts(traced)) == setting[N]
    loader = sum(tensor.nbytes for tensor in work.tensors()["loader"])
    return profile | {
        "samples_per_step": work.samples_per_step,
        "loader_bytes": loader,
        "touched_bytes_per_step": traced.touched_bytes,
    }


EQUAL = (
    "peak_tensor_bytes",
    "by_category",
    "by_module",
    "floor_bytes",
    "floor",
    "flops_per_step",
    "samples_per_step",
    "loader_bytes",
    "source",
)


def check_all_micro_batches(workload, setting, cuda_rules):
    found, expected = derived(workload, setting, cuda_rules), unrolled(workload, setting, cuda_rules)
    assert {key: found[key] for key in EQUAL} == {key: expected[key] for key in EQUAL}
    # The first update makes tensors that later ones change; the difference does not grow with the micro-batches.
    parameters = expected["by_category"]["parameter"]
    assert abs(found["touched_bytes_per_step"] - expected["touched_bytes_per_step"]) <= 6 * parameters


FEW_OPERATORS = {"model.attention": "none", "model.temporal_shift": "plain", "model.max_pool": "plain"}
STEPS = [
    ("train_step", FEW_OPERATORS | {N: 3, "training.precision": "fp16"}, True),
    (
        "train_step",
        FEW_OPERATORS | {N: 1, "training.optimizer_in_backward": True, "training.gradient_clip_norm": None},
        True,
    ),
    (
        "train_step",
        FEW_OPERATORS | {N: 3, "training.precision": "fp32", "training.recompute": "none", "training.optimizer": "sgd"},
        False,
    ),
    ("inference", FEW_OPERATORS | {N: 3}, True),
]
OTHER_STEPS = [
    *(
        (workload, {N: n, "training.precision": precision, "training.recompute": recompute} | update, cuda_rules)
        for n, (workload, precision, recompute, update, cuda_rules) in zip(
            itertools.cycle(range(1, 7)),
            itertools.product(
                ("train_step", "inference"),
                ("fp32", "bf16", "fp16"),
                ("none", "block", "lowest", "budget:1"),
                (
                    {},
                    {"training.gradient_clip_norm": None},
                    {"training.optimizer": "sgd", "model.norm": "group"},
                    {"training.optimizer": "sgd", "training.gradient_clip_norm": None, "training.channels_last": True},
                ),
                (False, True),
            ),
            strict=False,
        )
        if workload == "train_step" or recompute == "none"
    ),
    *(
        ("train_step", {N: 3} | values, True)
        for values in (
            {"model.region_focus": "motion", "model.focus_size": 32, "data.frame_size": 40},
            {"model.token_merging": 1, "model.pyramid_levels": [1, 2]},
            {"model.frame_budget": 3, "model.pyramid_levels": [1, 2]},
            {"model.attention": "sparse", "model.temporal_shift": "plain"},
            {"model.attention": "auto"},
            {"model.attention": "dense", "model.stem": "split", "model.max_pool": "plain"},
            {"model.network": "r3d_18", "model.base_channels": 64},
        )
    ),
]


@pytest.mark.parametrize(("workload", "setting", "cuda_rules"), STEPS)
def test_all_micro_batches_are_derived_from_two(workload, setting, cuda_rules):
    check_all_micro_batches(workload, setting, cuda_rules)


@pytest.mark.slow
@pytest.mark.parametrize(("workload", "setting", "cuda_rules"), OTHER_STEPS)
def test_all_micro_batches_of_every_setting_are_derived_from_two(workload, setting, cuda_rules):
    check_all_micro_batches(workload, setting, cuda_rules)


def test_every_free_returns_an_allocation_once():
    found = derived(*STEPS[0])
    held = {}
    for kind, first, second in found["requests"]:
        if kind == ALLOCATE:
            assert first not in held
            assert second > 0
            held[first] = second
        elif kind == FREE:
            del held[first]
    state = sum(found["by_category"][name] for name in ("parameter", "optimizer state", "buffer"))
    losses = sum(held.values()) - state
    assert 0 < losses < 512  # nothing else is left beside the state


def tensors_of(requests):
    return [request for request in requests if request[0] not in (TRANSIENT, LIBRARY)]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_replayed_tensor_requests_have_the_peak_of_the_trace(number):
    found = derived(*STEPS[number][:2], True)
    requests = tensors_of(found["requests"])
    assert [kind for kind, _, _ in requests].count(STEADY) == 1
    peaks = replay_requests(requests, any_device(), Bound.LIKELY)
    assert peaks.requested_bytes == found["peak_tensor_bytes"]
    assert peaks.failure is None


def test_requests_have_both_threads_and_the_memory_of_operators():
    requests = derived(*STEPS[0])["requests"]
    assert {first for kind, first, _ in requests if kind == LIBRARY} == {0, 1}
    transients = [(expected, most) for kind, expected, most in requests if kind == TRANSIENT]
    assert transients
    assert all(0 <= expected <= most for expected, most in transients)
    begins = [kind for kind, _, _ in requests].index(STEADY)
    count = [sum(kind == TRANSIENT for kind, _, _ in part) for part in (requests[:begins], requests[begins:])]
    assert count[0] == count[1]


def test_an_operator_without_a_rule_is_named_with_its_bound():
    """Decompositions come from libraries that allocate their own workspace."""
    mode = CudaFakeMode()
    with mode, cuda_routes():
        x = torch.empty(8, 8, requires_grad=True)
        log = WorkspaceLog(workspace_of)
        mode.on_operator = log
        recorder = Recorder(CPU, {"input": [x]}, fake=True, mark=log.mark)
        torch.linalg.qr(x)  # outside the step
        with recorder:
            torch.linalg.qr(x)
            torch.linalg.qr(x)
            x.sum()
    assert [operator._asdict() for operator in unmodelled(log.needs)] == [
        {"operator": "linalg_qr", "calls": 2, "most_bytes": 3 * 8 * 8 * 4}
    ]


class WithoutPhases:
    """A workload of two micro-batches that loads them in no phase."""

    samples_per_step = 2

    def __init__(self, context):
        self.context = context
        self.model = context.place(nn.Linear(4, 4))

    def load(self):
        pass

    def step(self):
        for _ in range(2):
            self.model(torch.zeros(2, 4)).sum().backward()
        self.model.zero_grad()

    def tensors(self):
        return {"parameter": list(self.model.parameters())}

    def metrics(self):
        return {}


@pytest.fixture
def without_phases(monkeypatch):
    spec = WorkloadSpec("without_phases", Settings, lambda settings, context: WithoutPhases(context), micro_batches=N)
    monkeypatch.setattr(run_context, "find_workload", lambda name: spec)
    return spec


def test_micro_batches_without_phases_are_refused_in_one_line(without_phases):
    with pytest.raises(UnsupportedSettingError, match=r"without_phases: 0 micro-batches .* phase\('load'\)"):
        trace_one(step("without_phases", {}, True, more=3))
    assert trace_one(step("without_phases", {}, True))["peak_tensor_bytes"] > 0


def test_steps_of_a_job_are_sent_one_by_one_and_a_refused_one_costs_no_other(without_phases):
    messages = []
    steps = tuple(step("without_phases", {}, True, more) for more in (0, 3, 0))
    trace_steps(Job(TraceSteps(steps)), messages.append)
    assert [message.number for message in messages] == [0, 1, 2]
    assert [message.refusal is None for message in messages] == [True, False, True]
    assert messages[1].step is None
    assert messages[0].step["requests"] == messages[2].step["requests"]


class Keeper:
    """A step that keeps a tensor until it has the next one, as ``self.outputs = outputs`` does."""

    samples_per_step = 8

    def __init__(self, context, kept):
        self.context, self.kept = context, kept
        self.model = context.place(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 96)))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.outputs = []

    def load(self):
        self.x = torch.zeros(8, 16)

    def step(self):
        hidden = self.model[1](self.model[0](self.x))
        outputs = self.model[2](hidden)
        if self.kept == "outputs":
            self.outputs = outputs
        elif self.kept == "hidden, in backward":
            hidden.register_hook(lambda gradient: setattr(self, "outputs", gradient))
        outputs.square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.kept == "both, at the end":
            self.outputs = [outputs, hidden]

    def tensors(self):
        entries = self.optimizer.state.values()
        return {
            "parameter": list(self.model.parameters()),
            "optimizer state": [value for entry in entries for value in entry.values()],
            "input": [self.x],
        }

    def metrics(self):
        return {}


@pytest.mark.parametrize("cuda_rules", [False, True])
@pytest.mark.parametrize("kept", ["nothing", "outputs", "hidden, in backward", "both, at the end"])
def test_what_a_step_keeps_lives_until_it_is_replaced(kept, cuda_rules, monkeypatch):
    """A prediction and a profile of fake tensors have one steady state."""
    spec = WorkloadSpec("keeper", Settings, lambda settings, context: Keeper(context, kept))
    monkeypatch.setattr(run_context, "find_workload", lambda name: spec)
    predicted = trace_one(step("keeper", {}, cuda_rules))
    profiled = profile_step(Job(ProfileStep(step("keeper", {}, cuda_rules).work, 1)), lambda message: None)
    for key in ("peak_tensor_bytes", "by_category", "by_phase", "floor_bytes"):
        assert predicted[key] == profiled[key], key
    replayed = replay_requests(tensors_of(predicted["requests"]), any_device(), Bound.LIKELY)
    assert replayed.requested_bytes == predicted["peak_tensor_bytes"]


def test_losses_of_further_micro_batches_are_added_and_state_is_not():
    mode = CpuFakeMode()
    with mode:
        weight = nn.Parameter(torch.empty(4, 4))
        recorder = Recorder(CPU, {"parameter": [weight]}, fake=True)
        losses, state = [], []
        with recorder:
            for _ in range(2):
                with recorder.phase("load"):
                    x = torch.zeros(4, 4)
                with recorder.phase("forward"):
                    losses.append((weight * x).sum().detach())
                    del x
                    if not state:
                        state.append(torch.zeros(100))
            with recorder.phase("optimizer"):
                torch.zeros(1)
        name_state(recorder.step_trace, {"optimizer state": state})
    step = recorder.step_trace
    before = len(step.storages)
    touched = step.touched_bytes
    repeat_micro_batches(step, 0)
    assert len(step.storages) == before
    repeat_micro_batches(step, 3)
    assert [storage.size_bytes for storage in step.storages[before:]] == [4, 4, 4]
    assert (step.touched_bytes - touched) % 3 == 0
    assert step.touched_bytes > touched
    make_steady(step)
    alive = breakdown(step).by_category
    assert alive["optimizer state"] == 400
    assert alive["held"] == 5 * 4  # those of the previous step, until this one ends
