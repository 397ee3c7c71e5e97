"""Tests of each corrected fake kernel against the real one: types, shapes and bytes of its results."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from slr_bench.trace.fake.tensors import RULES, CpuFakeMode

aten = torch.ops.aten
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
BATCH, CHANNELS, GROUPS, SIZE = 2, 4, 2, 6


def described(made):
    made = [made] if isinstance(made, torch.Tensor) else made
    return [None if t is None else (t.dtype, tuple(t.shape), t.untyped_storage().nbytes()) for t in made]


def fake_and_real(func, args, mode):
    real = described(func(*args))
    with mode:
        fake = described(func(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args)))
    return fake, real


def norm_cases():
    """(operator, arguments) for every norm with inputs and parameters of equal and of mixed types."""
    types = [(F32, F32), (BF16, F32), (BF16, BF16), (BF16, None), (F16, F32), (F16, F16), (F32, None)]
    for (x_dtype, w_dtype), training in itertools.product(types, (True, False)):
        x = torch.randn(BATCH, CHANNELS, SIZE, SIZE).to(x_dtype)
        w = None if w_dtype is None else torch.ones(CHANNELS, dtype=w_dtype)
        running = torch.ones(CHANNELS, dtype=w_dtype or F32)
        batch = (x, w, w, running, running, training, 0.1, 1e-5)
        yield aten.native_batch_norm.default, batch
        yield aten._native_batch_norm_legit.default, batch
        _, mean, deviation = aten.native_batch_norm(*batch)
        yield (
            aten.native_batch_norm_backward.default,
            (x, x, w, running, running, mean, deviation, training, 1e-5, [True] * 3),
        )
        if not training:
            continue
        yield aten._native_batch_norm_legit.no_stats, (x, w, w, True, 0.1, 1e-5)
        affine = None if w is None else torch.ones(SIZE, dtype=w_dtype)
        yield aten.native_layer_norm.default, (x, [SIZE], affine, affine, 1e-5)
        shape = (BATCH, CHANNELS, SIZE * SIZE, GROUPS)
        yield aten.native_group_norm.default, (x, w, w, *shape, 1e-5)
        _, mean, deviation = aten.native_group_norm(x, w, w, *shape, 1e-5)
        yield aten.native_group_norm_backward.default, (x, x, mean, deviation, w, *shape, [True] * 3)


def rnn_cases():
    for time, hidden, training in itertools.product((1, 6, 33), (8, 64), (True, False)):
        x, h = torch.randn(time, 2, 24), torch.zeros(1, 2, hidden)
        w = [torch.randn(4 * hidden, n) for n in (24, hidden)] + [torch.randn(4 * hidden)] * 2
        args = (x, *w, h, h, False, [], 2, hidden, 1, True, False, False, training)
        yield aten.mkldnn_rnn_layer.default, args
        if training:
            y, hy, cy, workspace = aten.mkldnn_rnn_layer(*args)
            gradients = (y, hy, cy)
            rest = (False, 2, hidden, 1, True, True, False, [], False, workspace)
            yield aten.mkldnn_rnn_layer_backward.default, (x, *w, h, h, y, hy, cy, *gradients, *rest)


def loss_cases():
    """Losses of each reduction; the targets of two of them are broadcast."""
    x, y = torch.rand(BATCH, SIZE), torch.rand(BATCH, SIZE)
    for reduction in (0, 1, 2):
        yield aten.mse_loss.default, (x, y, reduction)
        yield aten.mse_loss.default, (x, y[:1], reduction)
        yield aten.smooth_l1_loss.default, (x, y, reduction)
        yield aten.smooth_l1_loss.default, (x[:1], y, reduction)
        yield aten.soft_margin_loss.default, (x, y, reduction)
        yield aten.binary_cross_entropy.default, (x, y, None, reduction)


CASES = [*norm_cases(), *rnn_cases(), *loss_cases()]


@pytest.mark.parametrize(("func", "args"), CASES, ids=[f"{func}-{n}" for n, (func, _) in enumerate(CASES)])
def test_corrected_kernel_returns_the_same_as_the_real_one(func, args):
    fake, real = fake_and_real(func, args, CpuFakeMode())
    assert fake == real


def distinct_storages(made):
    made = [made] if isinstance(made, torch.Tensor) else made
    return len({t.untyped_storage()._cdata for t in made if t is not None})


def test_the_two_bias_gradients_of_an_lstm_are_two_tensors():
    FakeTensorMode.cache_clear()
    func, args = next(case for case in CASES if case[0] is aten.mkldnn_rnn_layer_backward.default)
    with CpuFakeMode() as mode:
        made = func(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args))
    assert distinct_storages(made) == distinct_storages(func(*args)) == 7


@pytest.mark.parametrize("func", RULES, ids=str)
def test_every_rule_is_still_needed(func):
    """A rule whose kernel torch has mended goes."""

    def differs(args):
        mode = FakeTensorMode()
        fake, real = fake_and_real(func, args, mode)
        FakeTensorMode.cache_clear()  # a cached answer is made anew: two tensors where the kernel returned one twice
        with mode:
            made = func(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args))
        return fake != real or distinct_storages(made) != distinct_storages(func(*args))

    assert any(differs(args) for case_func, args in CASES if case_func is func)
