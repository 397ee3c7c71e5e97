"""The C library's heap: worked by hand, and what holds of any sequence of requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slr_bench.predict.glibc_heap import MAPPED_FROM_BYTES, Heap, high_water_bytes
from slr_bench.trace.request_kinds import ALLOCATE, FREE, STEADY, TRANSIENT
from slr_bench.units import MIB


def test_a_hole_serves_what_fits_and_stays_resident_for_what_does_not():
    heap = Heap()
    for name, size in (("a", 4), ("b", 2), ("c", 4)):
        heap.allocate(name, size * MIB)
    heap.release("b")
    heap.allocate("d", 3 * MIB)  # the hole of 2 is too small
    assert heap.high_water_bytes == heap.end == 13 * MIB
    heap.allocate("e", 1 * MIB)
    assert heap.used["e"] == (4 * MIB, MIB)
    assert heap.free == [(5 * MIB, MIB)]
    heap.release("a")
    heap.release("e")
    assert heap.free == [(0, 6 * MIB)]  # merged to both sides
    assert heap.high_water_bytes == 13 * MIB


def test_of_two_holes_the_smaller_serves_and_a_free_end_is_drawn_out():
    heap = Heap()
    for name, size in (("a", 8), ("b", 1), ("c", 4), ("d", 1), ("e", 2)):
        heap.allocate(name, size * MIB)
    for name in ("a", "c", "e"):
        heap.release(name)
    heap.allocate("small", 3 * MIB)
    assert heap.used["small"] == (9 * MIB, 3 * MIB)
    heap.allocate("large", 10 * MIB)
    assert heap.used["large"] == (14 * MIB, 10 * MIB)
    assert heap.end == 24 * MIB


def test_large_blocks_are_mapped_and_leave_nothing():
    heap = Heap()
    heap.allocate("large", MAPPED_FROM_BYTES)
    heap.allocate("small", MAPPED_FROM_BYTES - 1)
    heap.release("large")
    assert (heap.mapped_bytes, heap.end) == (0, MAPPED_FROM_BYTES - 1)
    assert heap.high_water_bytes == 2 * MAPPED_FROM_BYTES - 1


def test_a_long_free_end_is_given_back():
    heap = Heap()
    for name in "abc":
        heap.allocate(name, 30 * MIB)
    for name in "cb":
        heap.release(name)
    assert heap.end == 90 * MIB
    heap.release("a")
    assert (heap.end, heap.high_water_bytes) == (0, 90 * MIB)


def test_requests_of_a_step():
    requests = [[ALLOCATE, 7, 4 * MIB], [TRANSIENT, MIB, 9 * MIB], [STEADY, 0, 0], [FREE, 7, 0], [ALLOCATE, 8, 5 * MIB]]
    assert high_water_bytes(requests) == 5 * MIB


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40 * MIB), st.integers(0, 10**6)), max_size=80))
def test_blocks_never_overlap_and_every_byte_is_used_or_free(moves):
    heap, sizes, most = Heap(), {}, 0
    for number, (is_new, size, which) in enumerate(moves):
        if is_new or not sizes:
            heap.allocate(number, size)
            sizes[number] = size
        else:
            name = sorted(sizes)[which % len(sizes)]
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
