"""Tests of the memory that CUDA's operators allocate while they run, by the layout of their inputs."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
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


def backwards(images, weight, **options):
    weight = weight.requires_grad_()
    output = functional.conv2d(images.requires_grad_(), weight, **options)
    (found,) = needs(lambda: output.backward(torch.ones_like(output)))["convolution_backward"]
    return found


def test_fp32_convolution_of_3_by_3_is_expected_to_go_through_winograd_transforms():
    """Tiles of 6 x 6 give 4 x 4 outputs each: nine tiles of 36 values per channel of a 12 x 12 image."""
    images, weight = torch.ones(2, 3, 12, 12), torch.ones(5, 3, 3, 3)
    transforms = 4 * 36 * (2 * 9 * (3 + 5) + 3 * 5)
    padded = functional.conv2d
    (found,) = needs(lambda: padded(images, weight, padding=1))["convolution"]
    assert found == Workspace(transforms, transforms + images.nbytes + weight.nbytes, True)
    assert backwards(images, weight, padding=1) == found
    for options in ({"stride": 2}, {"dilation": 2}):
        (other,) = needs(lambda: padded(images, weight, **options))["convolution"]  # noqa: B023 - called at once
        assert other.expected_bytes == 0
    assert backwards(images, torch.ones(3, 1, 3, 3), groups=3) == Workspace(0, 0, True)
    last = images.detach().contiguous(memory_format=torch.channels_last)
    assert convolved(last, weight.detach()).expected_bytes == 0


def test_gradient_of_a_pointwise_convolution_copies_its_input_if_the_weight_is_trained():
    images, weight = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 1, 1)
    assert convolved(images, weight).expected_bytes == 0
    assert backwards(images, weight).expected_bytes == images.nbytes + weight.nbytes
    frozen = torch.ops.aten.convolution_backward
    output = torch.ones(2, 5, 8, 8)
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False])
    (found,) = needs(frozen, output, images, weight, *options)["convolution_backward"]
    assert found.expected_bytes == 0


def test_large_kernels_may_go_through_fourier_transforms_of_tiles_of_32():
    images, weight = torch.ones(2, 3, 30, 30), torch.ones(5, 3, 5, 5)
    (found,) = needs(lambda: functional.conv2d(images, weight, padding=2))["convolution"]
    assert found == Workspace(0, 8 * 32 * 17 * (2 * 4 * (3 + 5) + 3 * 5), True)
    whole = torch.ones(5, 3, 30, 30)  # a layer that covers the image is a product
    assert convolved(images, whole).most_bytes == images.nbytes + whole.nbytes + 2 * 5 * 4


@given(
    samples=st.integers(1, 9),
    more=st.integers(0, 9),
    channels=st.sampled_from([(1, 4), (4, 4), (8, 4)]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 7), (5, 5), (7, 7)]),
    groups=st.sampled_from([1, 4]),
    stride=st.integers(1, 2),
    side=st.integers(7, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_more_images_never_need_less_and_each_image_needs_the_same(
    samples, more, channels, kernel, groups, stride, side, dtype
):
    assume(channels[0] % groups == 0)
    made = dict.fromkeys((samples, samples + more, samples + 2 * more))
    for count in made:
        images = torch.ones(count, channels[0], side, side, dtype=dtype, device="meta")
        weight = torch.ones(channels[1], channels[0] // groups, *kernel, dtype=dtype, device="meta")
        call = functools.partial(functional.conv2d, images, weight, groups=groups, stride=stride)
        (made[count],) = needs(call)["convolution"]
        assert 0 <= made[count].expected_bytes <= made[count].most_bytes
    few, some, many = (made[samples + n * more] for n in range(3))
    assert few.expected_bytes <= some.expected_bytes
    assert few.most_bytes <= some.most_bytes
    assert some.most_bytes - few.most_bytes == many.most_bytes - some.most_bytes


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
