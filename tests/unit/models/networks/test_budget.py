"""``recompute: budget:<MiB>`` on the backbone: traced bytes equal planned ones, and the step is the same."""

import pytest
import torch

import models.networks.backbone as module
from models.layers.recompute_plan import chain_costs, least_bytes, within_budget
from models.networks.backbone import FrameBackbone
from slr_bench.errors import UnsupportedSettingError
from slr_bench.trace.recorder import Recorder
from slr_bench.trace.step_trace import SAVED, WEIGHT_CAST

CPU = torch.device("cpu")
CLIPS_BTCHW = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def budgets_in_bytes(monkeypatch):
    monkeypatch.setattr(module, "MIB", 1)


def build(recompute, norm="batch", shift="memory_efficient"):
    torch.manual_seed(0)
    return FrameBackbone("resnet18", 8, 2, shift, recompute, norm)


def step(backbone, precision="fp32"):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        features_BTD = backbone(CLIPS_BTCHW)
    features_BTD.float().sum().backward()
    return features_BTD.nbytes


def costs_of(norm, precision):
    backbone = build("none", norm)
    backbone.recompute = "block"  # its units, and the stem that keeps bytes
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
        return chain_costs(backbone._units(), CLIPS_BTCHW.flatten(0, 1))


def planned_peak(costs, recompute):
    kept = peak = 0
    for cost, again in zip(costs, recompute, strict=True):
        peak = max(peak, kept + cost.peak_bytes(again))
        kept += cost.kept_bytes(again)
    return peak


def every_plan(costs):
    """Yield budgets from keeping everything to the smallest possible."""
    budget, plans = 10**9, []
    while True:
        try:
            plans.append(within_budget(costs, budget))
        except UnsupportedSettingError:
            return plans
        budget = planned_peak(costs, plans[-1].recompute) - 1


def traced(backbone, precision):
    """Return the peak above what lives between steps, and the most bytes that autograd holds at any time."""
    step(backbone, precision)
    gradients = [parameter.grad for parameter in backbone.parameters()]
    state = {"parameter": list(backbone.parameters()), "gradient": gradients, "buffer": list(backbone.buffers())}
    with Recorder(CPU, state | {"loader": [CLIPS_BTCHW]}) as recorder:
        features_bytes = step(backbone, precision)
    standing = sum(tensor.nbytes for tensors in state.values() for tensor in tensors)
    storages = recorder.step_trace.storages
    held = [
        sum(s.size_bytes for s in storages if s.lives_at(at) and s.category_at(at) in (SAVED, WEIGHT_CAST))
        for at in {storage.saved_from for storage in storages} - {None}
    ]
    return recorder.peak_bytes - standing - features_bytes, max(held)


@pytest.mark.parametrize(("norm", "precision"), [("batch", "fp32"), ("batch", "bf16"), ("group", "fp32")])
def test_traced_bytes_are_the_planned_ones_and_fall_with_the_budget(norm, precision):
    costs = costs_of(norm, precision)
    plans = every_plan(costs)
    peaks = []
    for plan in [plans[0], plans[len(plans) // 2], plans[-1]]:
        planned = planned_peak(costs, plan.recompute)
        backbone = build(f"budget:{planned}", norm)
        peak, held = traced(backbone, precision)
        assert list(backbone.plans.values()) == [plan]
        # Below by no more than one unit's statistics: their copies go one by one. The loss at the end is a few bytes.
        assert planned - max(cost.buffer_bytes for cost in costs) <= peak <= planned + 16
        assert plan.kept_bytes <= held <= planned
        peaks.append(peak)
    assert peaks == sorted(peaks, reverse=True)
    assert len(plans) > 8
    assert peaks[-1] < 0.7 * peaks[0]


def test_plain_shift_stays_within_the_budget():
    """The plan is an upper bound here: a plain shift keeps its own copy, and its input may be freed."""
    backbone = build("budget:330000", shift="plain")
    peak, held = traced(backbone, "fp32")
    assert any(next(iter(backbone.plans.values())).recompute)
    assert max(peak, held) <= 330_000


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_step_and_statistics_equal_those_without_recomputation(norm):
    plain, planned = build("none", norm), build("budget:300000", norm)
    for backbone in (plain, planned):
        step(backbone)
    again = next(iter(planned.plans.values())).recompute
    assert any(again)
    assert not all(again)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), planned.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), planned.buffers(), strict=True))
    if norm == "batch":
        assert {int(value) for name, value in planned.named_buffers() if name.endswith("tracked")} == {1}


def test_one_plan_per_shape_and_none_without_gradients():
    backbone = build("budget:10000000")
    with torch.no_grad():
        backbone(CLIPS_BTCHW)
    assert not backbone.plans
    for clips in (2, 1, 2):
        backbone(CLIPS_BTCHW[:clips])
    assert len(backbone.plans) == 2


def test_impossible_budget_is_refused_with_the_smallest_possible():
    with pytest.raises(
        UnsupportedSettingError, match=r"budget:0 is below.*use budget:1, lowest, or a smaller training"
    ):
        step(build("budget:1"))


def test_lowest_is_the_smallest_budget_that_fits():
    costs = costs_of("batch", "fp32")
    backbone = build("lowest")
    peak, _ = traced(backbone, "fp32")
    (plan,) = backbone.plans.values()
    assert plan == within_budget(costs, least_bytes(costs))
    assert peak <= least_bytes(costs) + 16
    assert not all(plan.recompute), "block would recompute all: as low, with more work"
