"""The bytes that an operator makes are counted, and the cases are what their titles promise."""

from __future__ import annotations

import pytest
import torch

from slr_bench.worker.operator_cases import CASES, made_bytes, prepared

META = torch.device("meta")


def test_results_count_once_per_storage_without_those_in_host_memory():
    one, other = torch.empty(100, device=META), torch.empty(3, 5, dtype=torch.float64, device=META)
    assert made_bytes(one) == 400
    assert made_bytes((one, other, None, 7)) == 400 + 120
    assert made_bytes([one[10:], one.view(10, 10), one]) == 400
    assert made_bytes((one, torch.zeros((), dtype=torch.int64))) == 400
    assert made_bytes([torch.empty(1, device=META) for _ in range(200)]) == 800


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_case_has_the_precision_and_the_layout_of_its_name(case):
    _, arguments = prepared(case, META)
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[case.precision]
    assert tensors[0].dtype == dtype
    images = [tensor for tensor in tensors if tensor.ndim == 4 and case.layout]
    assert bool(images) is bool(case.layout)
    layout = torch.channels_last if case.layout == "channels last" else torch.contiguous_format
    assert all(image.is_contiguous(memory_format=layout) for image in images)


def test_a_convolutions_results_are_those_of_its_formula():
    """32 images of 224 x 224 to 64 channels of 112 x 112; backward the gradient of the weight alone."""
    found = {case.title: prepared(case, META) for case in CASES if "3 to 64" in case.name and case.precision == "bf16"}
    for title, (operator, arguments) in found.items():
        size = 2 * (64 * 3 * 7 * 7 if "backward" in title else 32 * 64 * 112 * 112)
        assert made_bytes(operator(**arguments)) == size
    assert len(found) == 4
