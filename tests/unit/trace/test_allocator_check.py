"""Tests of the independent check: hand-made histories with a known answer, and this machine's real allocator."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slr_bench.live_bytes import storages_alive
from slr_bench.trace.allocations import (
    Alloc,
    CpuAllocations,
    CudaAllocations,
    Enter,
    Exit,
    Free,
    StepBegins,
    UntracedBegins,
    cuda_events,
    why_no_cuda_log,
)
from slr_bench.trace.allocator_check import match_peak
from slr_bench.trace.recorder import Recorder, with_unnamed
from slr_bench.trace.step_trace import BEFORE, PARAMETER, Operator, StepTrace, Storage

CPU = torch.device("cpu")


def storage(size, address, born=BEFORE, died=None, category="temporary", operator=None):
    return Storage(size, (size,), "uint8", address, category, born, operator, "m", "forward", "here", died=died)


OPS = [Operator("aten.mm", "m", "forward", ()), Operator("aten.add", "m", "forward", ())]
STATE = storage(100, 1, category=PARAMETER)


def test_every_byte_of_a_hand_made_peak_is_named():
    made = storage(40, 3, born=0, operator="aten.mm")
    events = [Alloc(1, 100, None), StepBegins(), Enter(0), Alloc(2, 512, "aten.mm"), Alloc(3, 48, "aten.mm"), Free(2)]
    events += [Exit(0), Free(3)]
    peak = match_peak(events, StepTrace([STATE, made], OPS))
    assert peak.peak_bytes == 100 + 512 + 48
    assert peak.by_category == {PARAMETER: 100, "temporary": 40, "rounding": 8, "workspace": 512}
    assert peak.workspace == {"aten.mm": 512}
    assert (peak.operator, peak.residual_bytes) == ("aten.mm", 0)
    assert sum(peak.by_category.values()) + peak.unmatched_bytes == peak.peak_bytes


def test_allocation_outside_operators_and_tensors_is_residual():
    events = [Alloc(1, 100, None), Alloc(9, 7, None), StepBegins(), Enter(0), Exit(0)]
    peak = match_peak(events, StepTrace([STATE], OPS))
    assert (peak.unmatched_bytes, peak.residual_bytes) == (7, 7)


def test_traced_bytes_without_an_allocation_are_residual():
    ghost, shrunk = storage(30, 5, born=0, operator="aten.mm"), storage(60, 6, category="buffer")
    events = [
        Alloc(1, 100, None),
        Alloc(6, 50, None),
        StepBegins(),
        Enter(0),
        Exit(0),
        Enter(1),
        Alloc(8, 1, "aten.add"),
    ]
    peak = match_peak(events, StepTrace([STATE, ghost, shrunk], OPS))
    assert peak.missing_bytes == 30 + 10


def test_storage_that_died_before_the_peak_is_not_missing():
    gone = storage(30, 5, born=0, died=0, operator="aten.mm")
    events = [Alloc(1, 100, None), StepBegins(), Enter(0), Alloc(5, 30, "aten.mm"), Exit(0), Free(5), Enter(1)]
    events += [Alloc(7, 80, "aten.add"), Exit(1)]
    kept = storage(80, 7, born=1, operator="aten.add")
    peak = match_peak(events, StepTrace([STATE, gone, kept], OPS))
    assert (peak.peak_bytes, peak.residual_bytes) == (180, 0)


def test_reused_address_belongs_to_its_owner_at_the_peak():
    first = storage(30, 5, born=0, died=0, operator="aten.mm")
    second = storage(30, 5, born=1, operator="aten.add", category="gradient")
    events = [Alloc(1, 100, None), StepBegins(), Enter(0), Alloc(5, 30, "aten.mm"), Exit(0), Free(5)]
    events += [Enter(1), Alloc(5, 30, "aten.add"), Alloc(6, 1, "aten.add"), Free(6), Exit(1)]
    peak = match_peak(events, StepTrace([STATE, first, second], OPS))
    assert peak.by_category == {PARAMETER: 100, "gradient": 30, "workspace": 1}


def test_loader_bytes_are_excluded_and_reported():
    events = [Alloc(1, 100, None), Alloc(50, 999, None), StepBegins(), Enter(0), Exit(0)]
    peak = match_peak(events, StepTrace([STATE], OPS), frozenset([50]))
    assert (peak.peak_bytes, peak.loader_bytes, peak.residual_bytes) == (100, 999, 0)


def test_step_that_allocates_more_with_the_tracer_than_without_is_residual():
    untraced = [Alloc(1, 100, None), UntracedBegins(), Alloc(2, 40, None), Alloc(3, 16, None), Free(2), Free(3)]
    traced = [StepBegins(), Enter(0), Alloc(4, 40, "aten.mm"), Alloc(5, 24, "aten.mm"), Free(5), Exit(0), Free(4)]
    made = storage(40, 4, born=0, died=0, operator="aten.mm")
    peak = match_peak([*untraced, *traced], StepTrace([STATE, made], OPS))
    assert (peak.disturbance_bytes, peak.residual_bytes) == (24, 24)
    peak = match_peak([*untraced[:1], *traced], StepTrace([STATE, made], OPS))
    assert (peak.disturbance_bytes, peak.residual_bytes) == (None, 0)


def test_number_passed_to_an_operator_belongs_to_it_and_larger_allocations_do_not():
    for size, residual in ((8, 0), (64, 64)):
        events = [Alloc(1, 100, None), StepBegins(), Alloc(2, size, None), Enter(0), Exit(0)]
        assert match_peak(events, StepTrace([STATE], OPS)).residual_bytes == residual


@settings(deadline=None, max_examples=12)  # each starts a profiler
@given(st.lists(st.tuples(st.sampled_from(["make", "drop", "add", "sort"]), st.integers(1, 60)), max_size=25))
def test_the_real_allocator_agrees_with_the_tracer_on_any_program(program):
    gc.collect()
    held: list[torch.Tensor] = []
    log = CpuAllocations()
    with log:
        recorder = Recorder(CPU, {}, mark=log.mark)
        log.step_begins()
        with recorder:
            for operation, number in program:
                if operation == "make":
                    held.append(torch.zeros(number))
                elif held and operation == "drop":
                    held.pop(number % len(held))
                elif held and operation == "add":
                    held.append(held[number % len(held)] + 1)
                elif held and operation == "sort":
                    held.extend(held[number % len(held)].sort())
    peak = match_peak(log.events, recorder.step_trace)
    assert peak.residual_bytes == 0
    assert peak.peak_bytes >= recorder.peak_bytes


@pytest.mark.parametrize("is_named", [True, False])
def test_tensor_unknown_to_the_tracer_is_residual(is_named):
    """The check can fail: it finds a live tensor that the trace lacks, to the byte, with the operator that made it."""
    log, others = CpuAllocations(), storages_alive()
    with log:
        model, hidden = nn.Conv2d(3, 8, 3), torch.zeros(1234)

        def step():
            model(torch.ones(2, 3, 24, 24)).sum().backward()
            model.zero_grad()

        step()
        gc.collect()
        named = {PARAMETER: list(model.parameters())}
        recorder = Recorder(CPU, with_unnamed(named, CPU, not_its_own=others) if is_named else named, mark=log.mark)
        log.step_begins()
        with recorder:
            step()
    peak = match_peak(log.events, recorder.step_trace)
    assert peak.unmatched == ({} if is_named else {"aten.zeros": hidden.nbytes})
    assert peak.missing_bytes == 0


def test_cuda_history_yields_the_same_events():
    entries = [
        {"action": "alloc", "addr": 1, "size": 512},
        {"action": "alloc", "addr": 9, "size": 512, "user_metadata": "step"},
        {"action": "free_completed", "addr": 9, "size": 512, "user_metadata": "step"},
        {"action": "alloc", "addr": 2, "size": 1024, "user_metadata": "0"},
        {"action": "segment_alloc", "addr": 7, "size": 2097152, "user_metadata": "0"},
        {"action": "free_requested", "addr": 2, "size": 1024},
        {"action": "free_completed", "addr": 2, "size": 1024},
        {"action": "alloc", "addr": 3, "size": 512, "user_metadata": "1"},
    ]
    assert list(cuda_events(entries)) == [
        Alloc(1, 512, None),
        StepBegins(),
        Alloc(9, 512, None),
        Free(9),
        Enter(0),
        Alloc(2, 1024, "operator 0"),
        Exit(0),
        Free(2),
        Enter(1),
        Alloc(3, 512, "operator 1"),
        Exit(1),
    ]


def test_cuda_log_stamps_operators_and_always_stops_recording():
    calls: list[object] = []
    memory = SimpleNamespace(
        _record_memory_history=lambda enabled="all", **more: calls.append(more.get("stacks", enabled)),
        _snapshot=lambda device: {
            "device_traces": [[{"action": "alloc", "addr": 1, "size": 512, "user_metadata": "0"}]]
        },
    )
    log = CudaAllocations(torch.device("cuda", 0), memory, calls.append)
    with log, log.mark(0):
        pass
    assert calls == ["python", "0", "", None]
    assert log.events == [Enter(0), Alloc(1, 512, "operator 0"), Exit(0)]
    with pytest.raises(KeyError), CudaAllocations(torch.device("cuda", 0), memory, calls.append):
        raise KeyError
    assert calls[-1] is None


def test_reason_is_given_when_a_cuda_allocator_cannot_stamp():
    assert "newer" in why_no_cuda_log(SimpleNamespace())
    assert "PYTORCH_ALLOC_CONF" in why_no_cuda_log(SimpleNamespace(_memory_metadata_supported=lambda: False))
    assert why_no_cuda_log(SimpleNamespace(_memory_metadata_supported=lambda: True)) is None


def test_unnamed_state_found_by_the_collector_leaves_no_residual():
    log, others = CpuAllocations(), storages_alive()
    with log:
        model, cache = nn.Linear(8, 8), [torch.zeros(77)]
        state = with_unnamed({PARAMETER: list(model.parameters())}, CPU, not_its_own=others)
        recorder = Recorder(CPU, state, mark=log.mark)
        log.step_begins()
        with recorder:
            model(torch.ones(2, 8)).sum().backward()
    peak = match_peak(log.events, recorder.step_trace)
    assert peak.residual_bytes == 0
    assert peak.by_category["held"] >= cache[0].nbytes
