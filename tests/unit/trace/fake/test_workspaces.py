"""Tests of the memory that CUDA's operators allocate while they run, by the layout of their inputs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.trace.fake.workspaces import name_of, workspace_of
from slr_bench.trace.requests import (
    ALLOCATE,
    FREE,
    STEADY,
    TRANSIENT,
    UNMODELLED,
    OperatorNeed,
    Request,
    Workspace,
    requests,
    requests_from_json,
)
from slr_bench.trace.step_trace import Operator, StepTrace

functional = nn.functional


class Needs(TorchDispatchMode):
    """Collect the rule's workspace of each call, by operator."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        self.found.setdefault(name_of(func), []).append(workspace_of(func, lambda: arguments, result))
        return result


def needs(call, *inputs):
    with Needs() as mode:
        call(*inputs)
    return mode.found


ROWS = torch.ones(6, 8)
IMAGES = torch.ones(2, 3, 8, 8)
PERMUTED = torch.ones(8, 2, 8, 3).permute(1, 3, 0, 2)  # neither channels first nor last


@pytest.mark.parametrize(
    ("call", "operator"),
    [
        (lambda x: functional.softmax(x, -1), "_softmax"),
        (lambda x: functional.log_softmax(x, -1), "_log_softmax"),
        (lambda x: functional.layer_norm(x, x.shape[-1:]), "native_layer_norm"),
    ],
)
def test_rows_that_are_not_contiguous_are_copied(call, operator):
    (plain,) = needs(call, ROWS)[operator]
    (turned,) = needs(call, ROWS.T)[operator]
    assert (plain.copied_bytes, turned.copied_bytes) == (0, 6 * 8 * 4)
    assert plain.is_modelled
    assert turned.is_modelled


@pytest.mark.parametrize(
    ("call", "operator"),
    [
        (lambda x: functional.max_pool2d(x, 2, return_indices=True), "max_pool2d_with_indices"),
        (lambda x: functional.avg_pool2d(x, 2), "avg_pool2d"),
        (lambda x: functional.interpolate(x, size=4, mode="bilinear"), "upsample_bilinear2d"),
        (lambda x: functional.batch_norm(x, None, None, training=True), "native_batch_norm"),
    ],
)
def test_images_may_have_their_channels_first_or_last_and_are_copied_otherwise(call, operator):
    copied = [
        needs(call, images)[operator][0].copied_bytes
        for images in (IMAGES, IMAGES.contiguous(memory_format=torch.channels_last), PERMUTED)
    ]
    assert copied == [0, 0, IMAGES.nbytes]


def convolved(images, weight):
    (found,) = needs(functional.conv2d, images, weight)["convolution"]
    return found


def test_convolution_brings_its_inputs_into_one_layout():
    weight = torch.ones(4, 3, 3, 3)
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    assert convolved(IMAGES, weight).copied_bytes == 0
    assert convolved(PERMUTED, weight).copied_bytes == IMAGES.nbytes
    assert convolved(last, weight).copied_bytes == weight.nbytes
    assert convolved(last, weight.contiguous(memory_format=torch.channels_last)).copied_bytes == 0


def test_half_precision_is_computed_with_channels_last():
    images, weight = IMAGES.bfloat16(), torch.ones(4, 3, 3, 3, dtype=torch.bfloat16)
    output_bytes = 2 * 4 * 6 * 6 * 2
    assert convolved(images, weight).expected_bytes == images.nbytes + weight.nbytes + output_bytes
    assert convolved(images.contiguous(memory_format=torch.channels_last), weight).expected_bytes == 0
    assert convolved(PERMUTED.bfloat16(), weight).expected_bytes == images.nbytes + weight.nbytes + output_bytes


def test_logsumexp_and_count_nonzero_hold_a_copy_and_a_mask():
    (found,) = needs(lambda x: torch.ops.aten.logsumexp(x, [-1]), ROWS)["logsumexp"]
    assert found.copied_bytes == ROWS.nbytes
    (found,) = needs(lambda x: torch.ops.aten.count_nonzero.dim_IntList(x, [0]), ROWS)["count_nonzero"]
    assert found.copied_bytes == ROWS.numel()


def test_operator_without_a_rule_is_unmodelled_and_bounded_by_its_tensors():
    (found,) = needs(torch.cumsum, ROWS, 0)["cumsum"]
    assert found == Workspace(0, 2 * ROWS.nbytes, False)


def test_copies_are_requested_beside_the_workspace_and_freed_after_the_operator():
    step = StepTrace([], [Operator("a", "", "", (), 0)])
    operator_needs = [
        OperatorNeed(0, "a", Workspace(1, 2, True, 100), False, False),
        OperatorNeed(0, "b", Workspace(0, 9, False), False, False),
    ]
    once = [(ALLOCATE, -1, 100), (TRANSIENT, 1, 2), (FREE, -1, 0), (UNMODELLED, 0, 9)]
    result = requests(step, operator_needs, [], [])
    assert result == [*once, (STEADY, 0, 0), *once]
    assert all(type(request) is Request for request in result)


def test_requests_travel_as_json_lists_of_three_numbers():
    sent = [Request(ALLOCATE, -1, 100), Request(STEADY, 0, 0)]
    text = json.dumps(sent)
    assert text == "[[0, -1, 100], [4, 0, 0]]"
    assert requests_from_json(json.loads(text)) == sent
