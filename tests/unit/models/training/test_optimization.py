"""Learning-rate schedule and parameter groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import TinyNet, tiny_config
from torch.optim import SGD, AdamW

from models.training.optimization import build_optimizer, one_cycle, steps_per_epoch


@given(st.integers(1, 200), st.floats(0, 1))
def test_one_cycle_rises_evenly_then_falls_to_zero(total, warmup):
    factors = [one_cycle(step, total, warmup) for step in range(total)]
    rise = round(total * warmup)
    for step in range(rise):
        assert factors[step] == pytest.approx((step + 1) / (rise + 1))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[rise:] == sorted(factors[rise:], reverse=True)
    if rise < total:
        assert factors[rise] == 1.0
        assert one_cycle(total, total, warmup) == pytest.approx(0.0)
        middle = rise + (total - rise) / 2
        assert one_cycle(middle, total, warmup) == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_norms_and_biases_do_not_decay(name, kind):
    model = TinyNet()
    optimizer = build_optimizer(model, tiny_config(optimizer=name, weight_decay=0.3))
    assert type(optimizer) is kind
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if name in {"conv.weight", "head.weight"} else 0.0)


def test_frozen_parameters_are_left_out():
    model = TinyNet()
    model.conv.weight.requires_grad_(False)
    parameters = [p for group in build_optimizer(model, tiny_config()).param_groups for p in group["params"]]
    assert len(parameters) == len(list(model.parameters())) - 1
    assert all(parameter is not model.conv.weight for parameter in parameters)


def test_partial_window_counts_as_a_step():
    config = tiny_config(batch_size=4, gradient_accumulation_steps=2)
    assert [steps_per_epoch(clips, config) for clips in (1, 8, 9, 16)] == [1, 1, 2, 2]
