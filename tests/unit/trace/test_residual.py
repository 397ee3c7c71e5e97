"""Every byte at the allocator's own peak is named: architectures x precision x recomputation x optimizers.

The peak is that of the same step without a tracer, to the byte.
"""

from __future__ import annotations

import gc

import pytest
import torch
from zoo import CASES, Case, build, is_runnable, quick

from slr_bench.live_bytes import storages_alive
from slr_bench.trace.allocations import CpuAllocations
from slr_bench.trace.allocator_check import match_peak
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.step_trace import breakdown, operator_floor

QUICK = quick("mvit_v2_s", "s3d")
CPU = torch.device("cpu")


def is_disturbed(case: Case) -> bool:
    """Return whether the tracer changes the step: it turns autocast off within the fused layer of inference."""
    return case.model == "transformer_encoder" and not case.training and case.precision != "fp32"


def check(case: Case) -> None:
    if not is_runnable(case):
        pytest.skip("oneDNN has no bf16 LSTM on this processor")
    build(case)  # the zoo keeps its networks; they are not part of the step
    gc.collect()
    log, others = CpuAllocations(), storages_alive()
    with log:
        work = build(case)
        work.warm_up()
        gc.collect()
        gc.disable()
        try:
            log.untraced_begins()
            work.step()
            gc.collect()
            recorder = Recorder(CPU, with_unnamed(work.tensors(), CPU, not_its_own=others), mark=log.mark)
            work.phase = recorder.phase
            log.step_begins()
            with recorder:
                work.step()
        finally:
            gc.enable()
    peak = match_peak(log.events, recorder.step_trace)
    assert (peak.unmatched, peak.missing_bytes) == ({}, 0)
    assert (peak.disturbance_bytes != 0) == is_disturbed(case)
    assert sum(peak.by_category.values()) == peak.peak_bytes >= recorder.peak_bytes
    assert sum(breakdown(recorder.step_trace).by_category.values()) == recorder.peak_bytes
    floor = operator_floor(recorder.step_trace)
    assert 0 < floor.floor_bytes <= recorder.peak_bytes


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_no_byte_is_unmatched(case: Case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK], ids=str)
def test_no_byte_is_unmatched_in_any_case(case: Case):
    check(case)
