"""What CUDA's operators take inside themselves, by the layout of what they are given."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.trace.fake.workspaces import Workspace, name_of, workspace_of
from slr_bench.trace.recording import Operator, Story
from slr_bench.trace.request_kinds import ALLOCATE, FREE, STEADY, TRANSIENT, UNMODELLED
from slr_bench.trace.requests import Heard, requests

functional = nn.functional


class Needs(TorchDispatchMode):
    """By operator: what the rule says of each call."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        self.found.setdefault(name_of(func), []).append(workspace_of(func, lambda: given, made))
        return made


def needs(call, *given):
    with Needs() as mode:
        call(*given)
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
def test_rows_that_do_not_lie_one_behind_the_other_are_copied(call, operator):
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


def test_a_convolution_brings_what_it_is_given_into_one_layout():
    weight = torch.ones(4, 3, 3, 3)
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    assert convolved(IMAGES, weight).copied_bytes == 0
    assert convolved(PERMUTED, weight).copied_bytes == IMAGES.nbytes
    assert convolved(last, weight).copied_bytes == weight.nbytes
    assert convolved(last, weight.contiguous(memory_format=torch.channels_last)).copied_bytes == 0


def test_half_precision_is_computed_with_channels_last():
    images, weight = IMAGES.bfloat16(), torch.ones(4, 3, 3, 3, dtype=torch.bfloat16)
    made = 2 * 4 * 6 * 6 * 2
    assert convolved(images, weight).expected_bytes == images.nbytes + weight.nbytes + made
    assert convolved(images.contiguous(memory_format=torch.channels_last), weight).expected_bytes == 0
    assert convolved(PERMUTED.bfloat16(), weight).expected_bytes == images.nbytes + weight.nbytes + made


def test_an_exponential_of_the_whole_and_a_mask_are_made_inside():
    (found,) = needs(lambda x: torch.ops.aten.logsumexp(x, [-1]), ROWS)["logsumexp"]
    assert found.copied_bytes == ROWS.nbytes
    (found,) = needs(lambda x: torch.ops.aten.count_nonzero.dim_IntList(x, [0]), ROWS)["count_nonzero"]
    assert found.copied_bytes == ROWS.numel()


def test_an_operator_without_a_rule_is_told_and_bounded_by_what_it_touches():
    (found,) = needs(torch.cumsum, ROWS, 0)["cumsum"]
    assert found == Workspace(0, 2 * ROWS.nbytes, False)


def test_a_copy_is_asked_for_beside_the_workspace_and_goes_with_the_operator():
    story = Story([], [Operator("a", "", "", (), 0)])
    heard = [
        Heard(0, "a", Workspace(1, 2, True, 100), False, False),
        Heard(0, "b", Workspace(0, 9, False), False, False),
    ]
    once = [[ALLOCATE, -1, 100], [TRANSIENT, 1, 2], [FREE, -1, 0], [UNMODELLED, 0, 9]]
    assert requests(story, heard, [], []) == [*once, [STEADY, 0, 0], *once]
