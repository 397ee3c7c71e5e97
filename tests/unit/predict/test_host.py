"""The predicted high-water mark of a step on the CPU, and the heap model behind it, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_profiles import step_profile

from slr_bench.predict.device import Estimate, Fit
from slr_bench.predict.host import (
    MAPPED_FROM_BYTES,
    START_BYTES,
    GlibcHeap,
    heap_high_water_bytes,
    predict_step_on_cpu,
)
from slr_bench.trace.requests import ALLOCATE, FREE, STEADY, TRANSIENT
from slr_bench.units import MIB


def step_with(tensors, workspace=0):
    """Tensors of 10 MiB, and a workspace beside them."""
    numbers = range(tensors // 10)
    return step_profile(
        *([ALLOCATE, number, 10 * MIB] for number in numbers),
        [TRANSIENT, workspace * MIB, 2 * workspace * MIB],
        *([FREE, number, 0] for number in numbers),
        peak_tensor_bytes=tensors * MIB,
        source="cpu-fake",
        cuda_rules=None,
    )


def test_tensors_copies_and_twice_the_largest_tensor_add_up_over_a_base():
    small, large = predict_step_on_cpu(step_with(1000)), predict_step_on_cpu(step_with(1000, workspace=200))
    assert large.rss_over_start.value - small.rss_over_start.value == 200 * MIB
    assert small.rss_over_start.value == (1000 + 2 * 10 + 100) * MIB


@pytest.mark.parametrize(("tensors", "spread"), [(100, 100), (880, 100), (1880, 200)])
def test_interval_is_a_tenth_and_at_least_100_mib(tensors, spread):
    found = predict_step_on_cpu(step_with(tensors)).rss_over_start
    assert found.high - found.value == spread * MIB
    assert found.low == max(tensors * MIB, found.value - spread * MIB)  # never below the tensors


def test_step_fits_if_its_high_end_fits_beside_the_process_itself():
    whole = predict_step_on_cpu(step_with(880)).rss_over_start
    capacities = [START_BYTES + size for size in (whole.high, whole.high - 1, whole.value, whole.value - 1)]
    fits = [predict_step_on_cpu(step_with(880), capacity).fit for capacity in capacities]
    assert fits == [Fit.YES, Fit.MAYBE, Fit.MAYBE, Fit.NO]
    assert predict_step_on_cpu(step_with(880)).fit is Fit.NO_CARD


def test_json_object_has_the_keys_of_a_gpu_with_nulls():
    found = predict_step_on_cpu(step_with(880), 2000 * MIB).to_dict()
    exact = 880 * MIB
    assert found["requested_bytes"] == Estimate(exact, exact, exact).to_dict()
    assert (found["allocated_bytes"], found["reserved_bytes"], found["nvml_bytes"]) == (None, None, None)
    assert (found["device"], found["fits"], found["capacity_bytes"]) == ("cpu", True, 2000 * MIB)
    assert found["rss_over_start_bytes"].keys() == {"value", "low", "high"}


def test_hole_serves_a_block_that_fits_and_stays_resident_otherwise():
    heap = GlibcHeap()
    for name, size in (("a", 4), ("b", 2), ("c", 4)):
        heap.allocate(name, size * MIB)
    heap.release("b")
    heap.allocate("d", 3 * MIB)  # the hole of 2 MiB is too small
    assert heap.high_water_bytes == heap.end == 13 * MIB
    heap.allocate("e", 1 * MIB)
    assert heap.used["e"] == (4 * MIB, MIB)
    assert heap.free == [(5 * MIB, MIB)]
    heap.release("a")
    heap.release("e")
    assert heap.free == [(0, 6 * MIB)]  # merged with both neighbours
    assert heap.high_water_bytes == 13 * MIB


def test_smaller_of_two_holes_is_used_and_a_free_end_is_extended():
    heap = GlibcHeap()
    for name, size in (("a", 8), ("b", 1), ("c", 4), ("d", 1), ("e", 2)):
        heap.allocate(name, size * MIB)
    for name in ("a", "c", "e"):
        heap.release(name)
    heap.allocate("small", 3 * MIB)
    assert heap.used["small"] == (9 * MIB, 3 * MIB)
    heap.allocate("large", 10 * MIB)
    assert heap.used["large"] == (14 * MIB, 10 * MIB)
    assert heap.end == 24 * MIB


def test_large_blocks_are_mapped_and_leave_nothing_behind():
    heap = GlibcHeap()
    heap.allocate("large", MAPPED_FROM_BYTES)
    heap.allocate("small", MAPPED_FROM_BYTES - 1)
    heap.release("large")
    assert (heap.mapped_bytes, heap.end) == (0, MAPPED_FROM_BYTES - 1)
    assert heap.high_water_bytes == 2 * MAPPED_FROM_BYTES - 1


def test_long_free_end_is_given_back():
    heap = GlibcHeap()
    for name in "abc":
        heap.allocate(name, 30 * MIB)
    for name in "cb":
        heap.release(name)
    assert heap.end == 90 * MIB
    heap.release("a")
    assert (heap.end, heap.high_water_bytes) == (0, 90 * MIB)


def test_high_water_mark_counts_the_requests_of_a_step():
    requests = [[ALLOCATE, 7, 4 * MIB], [TRANSIENT, MIB, 9 * MIB], [STEADY, 0, 0], [FREE, 7, 0], [ALLOCATE, 8, 5 * MIB]]
    assert heap_high_water_bytes(requests) == 5 * MIB


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40 * MIB), st.integers(0, 10**6)), max_size=80))
def test_blocks_never_overlap_and_every_byte_is_used_or_free(moves):
    heap, sizes, most = GlibcHeap(), {}, 0
    for number, (is_new, size, number_of_block) in enumerate(moves):
        if is_new or not sizes:
            heap.allocate(number, size)
            sizes[number] = size
        else:
            name = sorted(sizes)[number_of_block % len(sizes)]
            heap.release(name)
            del sizes[name]
        most = max(most, sum(sizes.values()))
        chunks = sorted([*heap.used.values(), *heap.free])
        ends = [0, *(start + length for start, length in chunks)]
        assert [start for start, _ in chunks] == ends[:-1]
        assert ends[-1] == heap.end
        assert all(a + length < b for (a, length), (b, _) in zip(heap.free, heap.free[1:], strict=False))
        assert sum(length for _, length in heap.used.values()) + heap.mapped_bytes == sum(sizes.values())
    assert heap.high_water_bytes >= most
