"""The optimizer inside backward (LOMO, Lv et al., 2023): a gradient is used and freed before the next one is there."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.optim import Optimizer


def update_in_backward(optimizer: Optimizer) -> None:
    """From now on backward updates each parameter as soon as its gradient is whole, and frees the gradient.

    The results are those of ``optimizer.step()`` after backward, to the bit: an update needs its own gradient alone,
    and by then nothing in backward reads the parameter any more. State and ``state_dict`` stay the optimizer's own,
    with one entry a parameter; the rates are those of ``param_groups`` at that moment.

    Saves the gradients' bytes but those of the largest parameter. Cost: one call of the optimizer a parameter, so that
    a fused or foreach implementation has nothing to join.
    """
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(partial(_update, optimizer, number))


def _update(optimizer: Optimizer, group_number: int, parameter: Tensor) -> None:
    groups = optimizer.param_groups
    optimizer.param_groups = [{**groups[group_number], "params": [parameter]}]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups
    parameter.grad = None
