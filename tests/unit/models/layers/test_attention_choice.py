"""``attention: auto`` is exact, chooses by bytes first, alike on real and fake tensors, and logs its choice."""

import logging
from contextlib import nullcontext

import pytest
import torch
from attention_proof import assert_same_function, inputs, reference
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from models.layers import attention as attention_choice
from models.layers.attention import MUCH_FASTER, NEAR_BYTES, TemporalAttention, choose, torch_attention
from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.fake.tensors import CpuFakeMode, swap_for_fake
from slr_bench.trace.recorder import Recorder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(attention_choice, "_known_choices", {})


def block(kind="auto"):
    torch.manual_seed(0)
    attention = TemporalAttention(16, 4, kind, chunk_size=2)
    torch.nn.init.normal_(attention.project.weight, std=0.3)
    return attention


def tensors(frames=6):
    return [torch.randn(1, 2, frames, 4, requires_grad=True) for _ in range(3)]


def lean(q, k, v, keep=None, bias=None):
    return q + k + v


def slow(q, k, v, keep=None, bias=None):
    """Compute the same as ``lean`` in as many bytes with a hundred times the work."""
    for _ in range(200):
        v.detach().sum()
    return lean(q, k, v)


def wasteful(q, k, v, keep=None, bias=None):
    return lean(q, k, v) + v.new_zeros(10, *v.shape).sum(0)


def test_torch_attention_computes_the_same_with_mask_bias_and_empty_rows():
    keep = torch.rand(2, 1, 1, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    keep[1] = False
    bias = torch.randn(2, 1, 1, 6, dtype=torch.float64)
    for mask, added in ((None, None), (keep, None), (None, bias), (keep, bias)):
        expected = reference(mask, added)
        assert_same_function(lambda *t, m=mask, b=added: torch_attention(*t, m, b), expected, inputs(6, 6))


@pytest.mark.parametrize(
    ("sizes", "seconds", "expected"),
    [
        ({"a": 100, "b": 99}, {}, "b"),
        ({"a": 100, "b": 100}, {}, "a"),
        ({"a": 100, "b": 100}, {"a": 1.9, "b": 1.0}, "a"),
        ({"a": 100, "b": 100}, {"a": 2.0, "b": 1.0}, "b"),
        ({"a": 112, "b": 100}, {"a": 1.0, "b": 1.9}, "b"),
        ({"a": 112, "b": 100}, {"a": 1.0, "b": 2.1}, "a"),
    ],
)
def test_bytes_decide_unless_another_kind_is_much_faster(sizes, seconds, expected):
    assert (NEAR_BYTES, MUCH_FASTER) == (1.125, 2.0)
    assert attention_choice._cheapest(sizes, seconds) == expected


def test_kinds_are_compared_by_bytes_then_by_time():
    q, k, v = tensors()
    size = v.untyped_storage().nbytes()
    choice = choose({"wasteful": wasteful, "slow": slow, "lean": lean}, q, k, v)
    assert choice.kind == "lean"
    assert choice.bytes_by_kind["lean"] == choice.bytes_by_kind["slow"] < 8 * size
    assert choice.bytes_by_kind["wasteful"] >= 10 * size
    assert choice.seconds_by_kind.keys() == {"slow", "lean"}  # what needs far more bytes is never run


def test_kinds_that_would_not_fit_are_never_run():
    def huge(q, k, v, keep=None, bias=None):
        return lean(q, k, v) + torch.ones(2**50, dtype=torch.uint8).sum()

    assert choose({"huge": huge, "lean": lean}, *tensors()).kind == "lean"


def test_counted_bytes_equal_those_of_the_tracer():
    for kind in ("sdpa", "dense", "chunked"):
        attention, inputs_ = block()._backend(kind), (*tensors(), None, None)
        counted = attention_choice._peak_bytes(attention, inputs_)
        grad_BTE = attention_choice._gradient(inputs_)
        with LiveBytes(CPU, {"input": [*inputs_[:3], grad_BTE]}) as tracer:
            before = tracer.live_bytes
            attention_choice._run(attention, inputs_, grad_BTE)
        assert counted == tracer.peak_bytes - before


@pytest.mark.parametrize("training", [True, False])
def test_fake_and_real_tensors_choose_alike_by_bytes(training):
    real = choose({"wasteful": wasteful, "lean": lean}, *tensors())
    with FakeTensorMode(), torch.set_grad_enabled(training):
        fake = choose({"wasteful": wasteful, "lean": lean}, *tensors())
        again = choose({"slow": slow, "lean": lean}, *tensors())
    assert (fake.kind, fake.where) == ("lean", real.where + ("" if training else ", no gradients"))
    assert not again.seconds_by_kind
    assert again.kind == "slow"  # no time to be had, equal bytes: the first


def test_block_logs_its_choice_once_and_computes_the_same(caplog):
    attention, x_BTE = block(), torch.randn(2, 7, 16)
    assert "chose" not in repr(attention)
    with caplog.at_level(logging.INFO):
        outs = [attention(x_BTE) for _ in range(3)]
    kind = attention.choice.kind
    assert [record.getMessage() for record in caplog.records] == [f"attention: auto chose {attention.choice}"]
    assert f"kind=auto, heads=4, chose {kind} for cpu float32 2 x 4 x 7 x 4" in repr(attention)
    torch.testing.assert_close(outs[2], block("dense")(x_BTE))
    assert attention.splits_work == (kind == "chunked")
    attention(x_BTE[:1])
    assert "1 x 4 x 7 x 4" in str(attention.choice)


def test_choice_depends_on_autocast_and_gradients():
    attention, x_BTE = block(), torch.randn(2, 7, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(x_BTE).sum().backward()
    assert "bfloat16" in attention.choice.where
    with torch.no_grad():
        attention(x_BTE)
    assert attention.choice.where.endswith("no gradients")
    assert len(attention_choice._known_choices) == 2


@pytest.mark.parametrize("around", ["checkpoint", "save_on_cpu"])
def test_saved_tensor_hooks_of_the_step_do_not_observe_the_choice(around):
    attention, x_BTE = block(), torch.randn(2, 7, 16, requires_grad=True)
    if around == "checkpoint":
        checkpoint(attention, x_BTE, use_reentrant=False).sum().backward()
    else:
        with torch.autograd.graph.save_on_cpu():
            attention(x_BTE).sum().backward()
    expected = torch.autograd.grad(block("dense")(leaf := x_BTE.detach().requires_grad_()).sum(), leaf)[0]
    torch.testing.assert_close(x_BTE.grad, expected)


def test_choice_works_in_inference_mode():
    with torch.inference_mode():
        x_BTE = torch.randn(2, 7, 16)
        torch.testing.assert_close(block()(x_BTE), block("dense")(x_BTE))


def traced(attention, frames=6, mode=None):
    """Return peak bytes and operators of a training step of the block alone."""
    if mode:
        swap_for_fake(attention, mode)
    with mode or nullcontext():
        x_BTE = torch.ones(2, frames, 16)
        state = {"parameter": list(attention.parameters()), "input": [x_BTE]}
        with Recorder(CPU, state, fake=mode is not None) as recorder:
            attention(x_BTE).sum().backward()
    return recorder.peak_bytes, [operator.name for operator in recorder.step_trace.operators]


def test_choice_does_not_appear_in_a_traced_step():
    choosing = traced(block())
    assert choosing == traced(block())


@pytest.mark.parametrize(("kind", "frames"), [("auto", 6), ("sparse", 70)])
def test_step_on_fake_tensors_has_the_bytes_of_a_real_one(kind, frames):
    assert traced(block(kind), frames) == traced(block(kind), frames, CpuFakeMode())
