"""Remarks of a prediction on its GPU."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from step_profiles import step_profile

from slr_bench.predict.device import find_device
from slr_bench.predict.peak import predict_step
from slr_bench.report.views.predict import print_cells, print_prediction
from slr_bench.trace.requests import ALLOCATE
from slr_bench.units import MIB

STEP = step_profile(
    [ALLOCATE, 0, MIB], flops_by_dtype={"bfloat16": 1}, peak_tensor_bytes=MIB, by_category={"parameter": MIB}
)
BY_RULE = "Context and workspaces of this GPU are estimated, not measured"


def printed(**changes):
    card = replace(find_device("h200"), **changes)
    out = io.StringIO()
    cell = SimpleNamespace(spec=SimpleNamespace(name="train_step"), arm="a")
    print_prediction(cell, predict_step(STEP, card), {}, Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "calibrated", "by_rule"),
    [
        ({}, False, True),
        ({"calibration": "NVIDIA H200, torch 2.14.1", "is_calibrated": True}, True, False),
        ({"calibration": "NVIDIA H200, torch 2.14.1"}, True, True),  # some of it could not be measured
    ],
)
def test_a_prediction_reports_whether_and_where_the_gpu_was_calibrated(changes, calibrated, by_rule):
    text = printed(**changes)
    assert ("Calibrated on NVIDIA H200, torch 2.14.1." in text) is calibrated
    assert (BY_RULE in text) is by_rule


@pytest.mark.parametrize(("count", "said"), [(0, False), (1, True)])
def test_a_grid_reports_how_many_cells_were_interpolated(count, said):
    steps = [STEP, replace(STEP, interpolated_from=[2, 8]) if count else STEP, STEP]
    cells = [SimpleNamespace(spec=SimpleNamespace(name="train_step"), arm="a", coordinates={"b": n}) for n in (2, 4, 8)]
    out = io.StringIO()
    print_cells(cells, [predict_step(step, find_device("h200")) for step in steps], Console(file=out, width=200))
    assert (f"{count} of 3 are interpolated from traces" in out.getvalue()) is said
