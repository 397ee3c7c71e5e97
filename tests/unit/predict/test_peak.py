"""From requests to peaks, on lists worked by hand."""

from __future__ import annotations

import pytest

from slr_bench.predict.allocator.rules import AllocatorSettings, settings_of
from slr_bench.predict.device import Device, Estimate, find_device
from slr_bench.predict.peak import fits_in, predicted, replayed, verdicts
from slr_bench.trace.request_kinds import ALLOCATE, FREE, LIBRARY, STEADY, TRANSIENT
from slr_bench.units import GIB, MIB

LOW, EXPECTED, HIGH = range(3)
CUBLAS = Estimate(8 * MIB, 4 * MIB, 32 * MIB)
CONTEXT = Estimate(450 * MIB, 250 * MIB, 650 * MIB)


def card(capacity=None):
    return Device("toy", "a toy", capacity, CUBLAS, CONTEXT, False)


def foreseen(*requests):
    return {
        "requests": requests,
        "source": "cuda-rules",
        "cuda_rules": 2,
        "peak_tensor_bytes": 7,
        "floor_bytes": 5,
        "by_category": {"parameter": 7},
        "by_module": [],
        "unmodelled": [{"operator": "qr", "calls": 1, "most_bytes": 9}],
    }


def peaks(*requests, which=EXPECTED, settings=None):
    return replayed(requests, card(), which, settings=settings)


def test_a_byte_takes_512_and_a_segment_of_2_mib():
    assert peaks([ALLOCATE, 0, 1])[:3] == (1, 512, 2 * MIB)
    assert peaks([ALLOCATE, 0, 512], [ALLOCATE, 1, 513])[:3] == (1025, 3 * 512, 2 * MIB)


def test_what_was_freed_serves_the_next_and_the_peak_is_of_what_lived_together():
    assert peaks([ALLOCATE, 0, 12 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 12 * MIB])[:3] == (12 * MIB,) * 3
    assert peaks([ALLOCATE, 0, 12 * MIB], [ALLOCATE, 1, 12 * MIB], [FREE, 0, 0])[:3] == (24 * MIB,) * 3


def test_a_library_takes_its_workspace_once_a_thread():
    requests = [[LIBRARY, 0, 0], [LIBRARY, 0, 0], [LIBRARY, 1, 0], [LIBRARY, 1, 0]]
    for which, size in ((LOW, 4 * MIB), (EXPECTED, 8 * MIB), (HIGH, 32 * MIB)):
        assert peaks(*requests, which=which).requested_bytes == 2 * size
    assert peaks([LIBRARY, 1, 0], which=HIGH).requested_bytes == 32 * MIB


def test_memory_within_an_operator_is_none_the_expected_or_the_most():
    requests = [[ALLOCATE, 0, 16 * MIB], [TRANSIENT, 12 * MIB, 40 * MIB], [TRANSIENT, 0, 12 * MIB]]
    assert peaks(*requests, which=LOW)[:3] == (16 * MIB,) * 3
    assert peaks(*requests, which=EXPECTED)[:3] == (28 * MIB,) * 3
    high = peaks(*requests, which=HIGH)
    assert high[:3] == (56 * MIB,) * 3  # gone before the next, which lies in its place
    assert high.failure is None


def test_peaks_are_of_the_steady_step_and_what_is_reserved_of_both():
    requests = [[ALLOCATE, 0, 12 * MIB], [ALLOCATE, 1, 30 * MIB], [FREE, 1, 0], [STEADY, 0, 0], [ALLOCATE, 2, 14 * MIB]]
    assert peaks(*requests)[:3] == (26 * MIB, 26 * MIB, 42 * MIB)


def test_settings_of_the_allocator_reach_it():
    requests = [[ALLOCATE, 0, 11 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 13 * MIB]]
    assert peaks(*requests).reserved_bytes == (12 + 14) * MIB
    expandable = settings_of("expandable_segments:True")
    assert peaks(*requests, settings=expandable).reserved_bytes == 20 * MIB  # one page, which grows


def test_the_interval_holds_the_likely_value_and_the_ends():
    found = predicted(foreseen([ALLOCATE, 0, 16 * MIB], [LIBRARY, 0, 0], [TRANSIENT, MIB, 20 * MIB]), card())
    assert found.requested == Estimate(25 * MIB, 20 * MIB, 68 * MIB)
    assert found.allocated == found.requested
    assert found.reserved.low <= found.reserved.value <= found.reserved.high
    assert found.nvml == found.reserved + CONTEXT
    assert (found.fits, found.spare_bytes) == (None, None)


@pytest.mark.parametrize(
    ("capacity", "fits"),
    [
        (750 * MIB, True),  # 100 MiB beside the largest context
        (749 * MIB, None),
        (550 * MIB, None),  # 100 MiB beside the likely one
        (549 * MIB, False),
        (1, False),  # less than the context
    ],
)
def test_it_fits_if_the_upper_end_does_and_does_not_if_the_likely_value_does_not(capacity, fits):
    found = predicted(foreseen([ALLOCATE, 0, 100 * MIB]), card(capacity))
    assert found.fits is fits
    assert found.spare_bytes == capacity - 550 * MIB


def test_a_workspace_that_may_be_wanted_makes_it_uncertain():
    step = foreseen([ALLOCATE, 0, 100 * MIB], [TRANSIENT, 0, 50 * MIB])
    sizes = (800, 799, 550, 549)
    assert [fits_in(step, card(size * MIB)) for size in sizes] == [True, None, None, False]
    assert [predicted(step, card(size * MIB)).fits for size in sizes] == [True, None, None, False]
    assert fits_in(step, card()) is None


def test_under_pressure_cached_memory_is_given_back():
    """The first step caches 60 MiB that the steady one cannot use; together 140 MiB are more than there is."""
    requests = [[ALLOCATE, 0, 60 * MIB], [FREE, 0, 0], [STEADY, 0, 0], [ALLOCATE, 1, 80 * MIB]]
    found = predicted(foreseen(*requests), card(650 * MIB + 100 * MIB))
    assert found.reserved.value == 140 * MIB  # beside the likely context there is room for it
    assert (found.fits, found.retries, found.is_tight) == (True, 1, True)
    assert found.nvml == Estimate((450 + 140) * MIB, (250 + 140) * MIB, (650 + 80) * MIB)
    tighter = predicted(foreseen(*requests), card(650 * MIB + 80 * MIB))
    assert (tighter.fits, tighter.nvml.high, tighter.spare_bytes) == (True, 730 * MIB, 140 * MIB)
    roomy = predicted(foreseen(*requests), card(650 * MIB + 140 * MIB))
    assert (roomy.fits, roomy.retries, roomy.is_tight) == (True, 0, False)
    assert predicted(foreseen(*requests), card(650 * MIB + 79 * MIB)).fits is None
    assert predicted(foreseen(*requests), card(450 * MIB + 79 * MIB)).fits is False


def test_a_replay_that_fails_says_why():
    found = peaks([ALLOCATE, 0, 100 * MIB], [ALLOCATE, 1, 1], settings=AllocatorSettings(capacity_bytes=50 * MIB))
    assert "100.0 MiB" in found.failure
    assert found.allocated_bytes == 0


def test_the_json_object_has_every_figure_with_its_interval():
    found = predicted(foreseen([ALLOCATE, 0, GIB]) | {"flops_by_dtype": {}}, find_device("rtx4090")).as_json()
    for name in ("requested_bytes", "allocated_bytes", "reserved_bytes", "nvml_bytes"):
        assert found[name].keys() == {"value", "low", "high"}
    assert found["nvml_bytes"]["value"] == GIB + 450 * MIB
    assert found["capacity_bytes"] - found["nvml_bytes"]["value"] == found["spare_bytes"]
    assert (found["device"], found["fits"], found["calibrated"]) == ("rtx4090", True, False)
    assert found["unmodelled"] == [{"operator": "qr", "calls": 1, "most_bytes": 9}]


def test_what_was_given_back_in_the_first_step_is_tight_and_no_retry_of_a_steady_one():
    requests = [[ALLOCATE, 0, 60 * MIB], [FREE, 0, 0], [ALLOCATE, 1, 80 * MIB], [STEADY, 0, 0], [ALLOCATE, 2, 12 * MIB]]
    found = peaks(*requests, settings=AllocatorSettings(capacity_bytes=100 * MIB))
    assert (found.retries, found.failure) == (0, None)
    whole = predicted(foreseen(*requests), card(650 * MIB + 100 * MIB))
    assert (whole.fits, whole.is_tight, whole.retries) == (True, True, 0)


def test_a_card_that_cannot_compute_the_step_is_none_that_it_fits():
    step = foreseen([ALLOCATE, 0, MIB]) | {"flops_by_dtype": {"bfloat16": 1}}
    for name, fits in (("t4", False), ("rtx3060", True)):
        found = predicted(step, find_device(name))
        assert (found.fits, found.lacks is None, fits_in(step, find_device(name))) == (fits, fits, fits)


def test_every_known_card_has_a_verdict_and_old_ones_do_not_compute_in_bf16():
    step = foreseen([ALLOCATE, 0, 5 * GIB])
    found = verdicts(step | {"flops_by_dtype": {"bfloat16": 1}})
    assert (found["rtx4090"].fits, found["gtx1650"].fits) == (True, False)
    assert [verdict.device.capacity_bytes for verdict in found.values()] == sorted(
        verdict.device.capacity_bytes for verdict in found.values()
    )
    assert found["rtx4090"].lacks is None
    assert "NVIDIA T4 (compute capability 7.5) does not compute in bf16" in found["t4"].lacks
    assert {one.lacks for one in verdicts(step | {"flops_by_dtype": {"float16": 1}}).values()} == {None}


def test_settings_of_the_allocator_reach_every_card():
    """Twice 11 MiB after 15 in the small segments' place: one growing segment holds what separate ones do not."""
    gap = [[ALLOCATE, n, 300 * MIB] for n in range(10)] + [[FREE, n, 0] for n in range(10)]
    step = foreseen(*gap, [ALLOCATE, 10, 3000 * MIB], [ALLOCATE, 11, 1]) | {"flops_by_dtype": {}}
    name, room = "gtx1650", find_device("gtx1650").capacity_bytes
    assert room < 6000 * MIB
    assert predicted(step, find_device(name)).reserved.value < predicted(step, card()).reserved.value
    expandable = settings_of("expandable_segments:True")
    calm = predicted(step, find_device(name), settings=expandable)
    assert calm.retries == 0
    assert predicted(step, find_device(name)).retries == 1
    assert verdicts(step, expandable)[name].fits is calm.fits is True
