"""Predicted peaks of request lists whose results are worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_profiles import step_profile

from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, AllocatorSettings, settings_of
from slr_bench.predict.device import Bound, Device, Estimate, Fit, find_device
from slr_bench.predict.peak import predict_fit, predict_fit_per_card, predict_step
from slr_bench.predict.replays import SHARES, replay_requests
from slr_bench.predict.trace_pool import UnmodelledOperator
from slr_bench.trace.requests import ALLOCATE, FREE, LIBRARY, STEADY, TRANSIENT
from slr_bench.units import GIB, MIB

QR = UnmodelledOperator("qr", calls=1, most_bytes=9)
CUBLAS = Estimate(8 * MIB, 4 * MIB, 32 * MIB)
CONTEXT = Estimate(450 * MIB, 250 * MIB, 650 * MIB)


def card(capacity=None):
    return Device("toy", "a toy", capacity, CUBLAS, CONTEXT, False)


def peaks(*requests, bound=Bound.LIKELY, settings=DEFAULT_SETTINGS):
    return replay_requests(requests, card(), bound, settings=settings)


def test_one_byte_takes_512_bytes_and_a_segment_of_2_mib():
    assert peaks([ALLOCATE, 0, 1])[:3] == (1, 512, 2 * MIB)
    assert peaks([ALLOCATE, 0, 512], [ALLOCATE, 1, 513])[:3] == (1025, 3 * 512, 2 * MIB)


def test_freed_memory_is_reused_and_the_peak_counts_what_was_alive_together():
    assert peaks([ALLOCATE, 0, 12 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 12 * MIB])[:3] == (12 * MIB,) * 3
    assert peaks([ALLOCATE, 0, 12 * MIB], [ALLOCATE, 1, 12 * MIB], [FREE, 0, 0])[:3] == (24 * MIB,) * 3


def test_library_takes_its_workspace_once_per_thread():
    requests = [[LIBRARY, 0, 0], [LIBRARY, 0, 0], [LIBRARY, 1, 0], [LIBRARY, 1, 0]]
    for bound, size in ((Bound.LOW, 4 * MIB), (Bound.LIKELY, 8 * MIB), (Bound.HIGH, 32 * MIB)):
        assert peaks(*requests, bound=bound).requested_bytes == 2 * size
    assert peaks([LIBRARY, 1, 0], bound=Bound.HIGH).requested_bytes == 32 * MIB


def test_inner_memory_of_an_operator_depends_on_the_bound():
    requests = [[ALLOCATE, 0, 16 * MIB], [TRANSIENT, 12 * MIB, 40 * MIB], [TRANSIENT, 0, 12 * MIB]]
    assert peaks(*requests, bound=Bound.LOW)[:3] == (28 * MIB,) * 3  # the expected part of a larger bound is sure
    assert peaks(requests[0], [TRANSIENT, 40 * MIB, 40 * MIB], bound=Bound.LOW)[:3] == (16 * MIB,) * 3
    assert peaks(*requests, bound=Bound.LIKELY)[:3] == (28 * MIB,) * 3
    high = peaks(*requests, bound=Bound.HIGH)
    assert high[:3] == (56 * MIB,) * 3  # gone before the next, which lies in its place
    assert high.failure is None


def test_interval_ends_where_a_workspace_between_the_bounds_reserves_most():
    """The second tensor fits in what is left of 32 MiB, and not in what is left of 24."""
    requests = [
        [TRANSIENT, 0, 32 * MIB],
        [ALLOCATE, 0, 12 * MIB],
        [ALLOCATE, 1, 20 * MIB],
        [STEADY, 0, 0],
    ]
    reserved = [replay_requests(requests, card(), Bound.HIGH, share=share).reserved_bytes for share in SHARES]
    assert reserved == [32 * MIB, 44 * MIB, 36 * MIB, 40 * MIB, 32 * MIB]
    found = predict_step(step_profile(*requests), card(650 * MIB + 40 * MIB))
    assert found.reserved.high == predict_step(step_profile(*requests), card()).reserved.high == 44 * MIB
    assert found.fit is predict_fit(step_profile(*requests), card(650 * MIB + 40 * MIB)) is Fit.MAYBE


@given(
    sizes=st.lists(st.tuples(st.integers(0, 40 * MIB), st.integers(0, 40 * MIB)), min_size=1, max_size=8),
    more=st.integers(0, 40 * MIB),
)
def test_larger_bounds_never_need_less_at_the_high_end(sizes, more):
    def high(extra):
        requests = [
            request
            for number, (tensor, workspace) in enumerate(sizes)
            for request in ([ALLOCATE, number, tensor], [TRANSIENT, 0, workspace + extra])
        ]
        return predict_step(step_profile(*requests), card())

    few, many = high(0), high(more)
    assert few.requested.high <= many.requested.high
    assert few.reserved.low <= few.reserved.value <= few.reserved.high


def test_peaks_cover_the_steady_step_and_reserved_memory_covers_both_steps():
    requests = [[ALLOCATE, 0, 12 * MIB], [ALLOCATE, 1, 30 * MIB], [FREE, 1, 0], [STEADY, 0, 0], [ALLOCATE, 2, 14 * MIB]]
    assert peaks(*requests)[:3] == (26 * MIB, 26 * MIB, 42 * MIB)


def test_allocator_settings_reach_the_allocator():
    requests = [[ALLOCATE, 0, 11 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 13 * MIB]]
    assert peaks(*requests).reserved_bytes == (12 + 14) * MIB
    expandable = settings_of("expandable_segments:True")
    assert peaks(*requests, settings=expandable).reserved_bytes == 20 * MIB  # one page, which grows


def test_interval_holds_the_likely_value_and_both_bounds():
    found = predict_step(step_profile([ALLOCATE, 0, 16 * MIB], [LIBRARY, 0, 0], [TRANSIENT, MIB, 20 * MIB]), card())
    assert found.requested == Estimate(25 * MIB, 21 * MIB, 68 * MIB)
    assert found.allocated == found.requested
    assert found.reserved.low <= found.reserved.value <= found.reserved.high
    assert found.nvml == found.reserved + CONTEXT
    assert (found.fit, found.spare_bytes) == (Fit.NO_CARD, None)


@pytest.mark.parametrize(
    ("capacity", "fit"),
    [
        (750 * MIB, Fit.YES),  # 100 MiB beside the largest context
        (749 * MIB, Fit.MAYBE),
        (550 * MIB, Fit.MAYBE),  # 100 MiB beside the likely one
        (549 * MIB, Fit.NO),
        (1, Fit.NO),  # less than the context
    ],
)
def test_step_fits_if_the_high_end_fits_and_does_not_if_the_likely_value_does_not(capacity, fit):
    found = predict_step(step_profile([ALLOCATE, 0, 100 * MIB]), card(capacity))
    assert found.fit is fit
    assert found.spare_bytes == capacity - 550 * MIB


def test_optional_workspace_makes_the_fit_uncertain():
    step = step_profile([ALLOCATE, 0, 100 * MIB], [TRANSIENT, 0, 50 * MIB])
    sizes = (800, 799, 550, 549)
    assert [predict_fit(step, card(size * MIB)) for size in sizes] == [Fit.YES, Fit.MAYBE, Fit.MAYBE, Fit.NO]
    assert [predict_step(step, card(size * MIB)).fit for size in sizes] == [Fit.YES, Fit.MAYBE, Fit.MAYBE, Fit.NO]
    assert predict_fit(step, card()) is Fit.NO_CARD


def test_cached_memory_is_given_back_under_pressure():
    """The first step caches 60 MiB that the steady one cannot use; together 140 MiB are more than there is."""
    requests = [[ALLOCATE, 0, 60 * MIB], [FREE, 0, 0], [STEADY, 0, 0], [ALLOCATE, 1, 80 * MIB]]
    found = predict_step(step_profile(*requests), card(650 * MIB + 100 * MIB))
    assert found.reserved.value == 140 * MIB  # beside the likely context there is room for it
    assert (found.fit, found.retries, found.is_tight) == (Fit.YES, 1, True)
    assert found.nvml == Estimate((450 + 140) * MIB, (250 + 140) * MIB, (650 + 80) * MIB)
    tighter = predict_step(step_profile(*requests), card(650 * MIB + 80 * MIB))
    assert (tighter.fit, tighter.nvml.high, tighter.spare_bytes) == (Fit.YES, 730 * MIB, 140 * MIB)
    roomy = predict_step(step_profile(*requests), card(650 * MIB + 140 * MIB))
    assert (roomy.fit, roomy.retries, roomy.is_tight) == (Fit.YES, 0, False)
    assert predict_step(step_profile(*requests), card(650 * MIB + 79 * MIB)).fit is Fit.MAYBE
    assert predict_step(step_profile(*requests), card(450 * MIB + 79 * MIB)).fit is Fit.NO


def test_failed_replay_has_the_out_of_memory_message():
    found = peaks([ALLOCATE, 0, 100 * MIB], [ALLOCATE, 1, 1], settings=AllocatorSettings(capacity_bytes=50 * MIB))
    assert "100.0 MiB" in found.failure
    assert found.allocated_bytes == 0


def test_json_object_has_every_figure_with_its_interval():
    found = predict_step(step_profile([ALLOCATE, 0, GIB], unmodelled=[QR]), find_device("rtx4090")).to_dict()
    for name in ("requested_bytes", "allocated_bytes", "reserved_bytes", "nvml_bytes"):
        assert found[name].keys() == {"value", "low", "high"}
    assert found["nvml_bytes"]["value"] == GIB + 350 * MIB
    assert found["capacity_bytes"] - found["nvml_bytes"]["value"] == found["spare_bytes"]
    assert (found["device"], found["fits"], found["calibrated"]) == ("rtx4090", True, False)
    assert found["unmodelled"] == [{"operator": "qr", "calls": 1, "most_bytes": 9}]


def test_memory_given_back_in_the_first_step_is_tight_but_not_a_retry_of_the_steady_step():
    requests = [[ALLOCATE, 0, 60 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 80 * MIB], [STEADY, 0, 0], [ALLOCATE, 2, 12 * MIB]]
    found = peaks(*requests, settings=AllocatorSettings(capacity_bytes=100 * MIB))
    assert (found.retries, found.failure) == (0, None)
    whole = predict_step(step_profile(*requests), card(650 * MIB + 100 * MIB))
    assert (whole.fit, whole.is_tight, whole.retries) == (Fit.YES, True, 0)


def test_step_does_not_fit_a_card_that_cannot_compute_it():
    step = step_profile([ALLOCATE, 0, MIB], flops_by_dtype={"bfloat16": 1})
    for name, fit in (("t4", Fit.NO), ("rtx3060", Fit.YES)):
        found = predict_step(step, find_device(name))
        assert (found.fit, predict_fit(step, find_device(name))) == (fit, fit)
        assert (found.incompatibility is None) is (fit is Fit.YES)


def test_every_known_card_is_judged_and_old_cards_do_not_compute_in_bf16():
    in_bf16, in_fp16 = (
        step_profile([ALLOCATE, 0, 5 * GIB], flops_by_dtype={name: 1}) for name in ("bfloat16", "float16")
    )
    found = predict_fit_per_card(in_bf16)
    assert (found["rtx4090"].fit, found["gtx1650"].fit) == (Fit.YES, Fit.NO)
    assert [one.device.capacity_bytes for one in found.values()] == sorted(
        one.device.capacity_bytes for one in found.values()
    )
    assert found["rtx4090"].incompatibility is None
    assert "NVIDIA T4 (compute capability 7.5) does not compute in bf16" in found["t4"].incompatibility
    assert {one.incompatibility for one in predict_fit_per_card(in_fp16).values()} == {None}


def test_allocator_settings_reach_every_card():
    """Twice 11 MiB after 15 in the small segments' place: one growing segment holds what separate ones do not."""
    gap = [[ALLOCATE, n, 300 * MIB] for n in range(10)] + [[FREE, n, 0] for n in range(10)]
    step = step_profile(*gap, [ALLOCATE, 10, 3000 * MIB], [ALLOCATE, 11, 1])
    name, room = "gtx1650", find_device("gtx1650").capacity_bytes
    assert room < 6000 * MIB
    assert predict_step(step, find_device(name)).reserved.value < predict_step(step, card()).reserved.value
    expandable = settings_of("expandable_segments:True")
    calm = predict_step(step, find_device(name), settings=expandable)
    assert calm.retries == 0
    assert predict_step(step, find_device(name)).retries == 1
    assert predict_fit_per_card(step, expandable)[name].fit is calm.fit is Fit.YES
