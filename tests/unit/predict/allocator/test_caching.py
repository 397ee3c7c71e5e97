"""The simulated allocator: compared with a naive one on random traces, its invariants, and cases worked out by hand."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_allocator import Full, NaiveAllocator

from slr_bench.predict.allocator.caching import OutOfDeviceMemoryError
from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.rules import DEFAULT_SETTINGS, UNLIMITED, AllocatorSettings
from slr_bench.units import GIB, KIB, MIB

SIZES = st.one_of(
    st.integers(1, 4 * KIB),
    st.integers(1, 2 * MIB),
    st.integers(MIB, 30 * MIB),
    st.sampled_from([512, 513, MIB - 1, MIB, MIB + 1, 10 * MIB - 512, 10 * MIB, 12 * MIB, 20 * MIB, 63 * MIB]),
)
EVENTS = st.lists(st.one_of(st.tuples(SIZES, st.integers(0, 1)), st.integers(0, 30)), max_size=50)
"""A request (size, stream), or the free of a block that is alive."""


def make_allocator(settings=DEFAULT_SETTINGS):
    return ALLOCATORS[settings.expandable_segments](settings)


class Replay:
    """Drives both allocators with the same events."""

    def __init__(self, capacity, expandable, max_split):
        configured = AllocatorSettings(
            expandable_segments=expandable, max_split_size_bytes=max_split, capacity_bytes=capacity
        )
        self.fast = make_allocator(settings=configured)
        self.slow = NaiveAllocator(
            capacity, max_split, expandable, space=capacity if capacity < UNLIMITED else 1024 * GIB
        )
        self.blocks = {}

    def request(self, handle, size, stream):
        try:
            block = self.fast.allocate(size, stream)
        except OutOfDeviceMemoryError:
            with pytest.raises(Full):
                self.slow.allocate(handle, size, stream)
            return
        self.slow.allocate(handle, size, stream)
        self.blocks[handle] = block

    def free(self, handle):
        self.fast.free(self.blocks.pop(handle))
        self.slow.free(handle)

    def compare(self):
        fast, slow = self.fast, self.slow
        assert fast.requested_bytes == slow.requested
        assert fast.allocated_bytes == slow.allocated
        assert fast.reserved_bytes == slow.reserved
        assert fast.segments == len([segment for segment in slow.segments if segment.page is None])
        naive_blocks = {handle: segment.taken[handle] for handle, segment in slow.where.items()}
        assert {handle: (block.address, block.size_bytes) for handle, block in self.blocks.items()} == naive_blocks

    def check(self):
        """Check that blocks do not overlap, are merged, add up to the reserved bytes, and hold what was requested."""
        blocks = sorted([*self.blocks.values(), *self.fast.blocks()], key=lambda block: block.address)
        for block, following in itertools.pairwise(blocks):
            assert block.address + block.size_bytes <= following.address
            touching = block.next is following
            assert touching == (following.previous is block)
            can_merge = block.is_free and following.is_free and block.is_mapped == following.is_mapped
            assert not (touching and can_merge)
        assert sum(block.size_bytes for block in blocks if block.is_mapped) == self.fast.reserved_bytes
        assert all(block.size_bytes >= block.requested_bytes for block in self.blocks.values())
        assert self.fast.requested_bytes <= self.fast.allocated_bytes <= self.fast.reserved_bytes


@settings(deadline=None, max_examples=300)
@given(
    events=EVENTS,
    capacity=st.sampled_from([UNLIMITED, 64 * MIB, 150 * MIB]),
    kind=st.sampled_from([(False, UNLIMITED), (False, 24 * MIB), (True, UNLIMITED)]),
)
def test_allocator_equals_the_naive_one_event_by_event(events, capacity, kind):
    replay = Replay(capacity, *kind)
    for number, event in enumerate(events):
        if isinstance(event, tuple):
            replay.request(number, *event)
        elif replay.blocks:
            replay.free(list(replay.blocks)[event % len(replay.blocks)])
        replay.compare()
        replay.check()
    replay.fast.empty_cache()
    replay.slow.empty()
    replay.compare()
    for handle in list(replay.blocks):
        replay.free(handle)
    replay.fast.empty_cache()
    assert (replay.fast.reserved_bytes, replay.fast.segments) == (0, 0)


def test_unsplit_block_counts_as_allocated_in_full():
    """A request of 11.2 MiB gets a segment of 12 MiB. Less than 1 MiB would remain, so it is not split off."""
    allocator = make_allocator()
    allocator.allocate(int(11.2 * MIB))
    assert allocator.requested_bytes == int(11.2 * MIB)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (12 * MIB, 12 * MIB)


def test_small_and_large_requests_have_segments_of_different_size():
    allocator = make_allocator()
    allocator.allocate(1)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (512, 2 * MIB)
    allocator.allocate(MIB + 1)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (512 + MIB + 512, 22 * MIB)
    assert allocator.segments == 2


def test_best_fit_takes_the_smaller_gap_and_freed_neighbours_merge():
    """Adjacent free blocks become one; the smaller of two gaps is used."""
    allocator = make_allocator()
    first, second, third, _ = (allocator.allocate(4 * MIB) for _ in range(4))
    allocator.free(second)
    gap = allocator.allocate(2 * MIB)  # the gap of 4 MiB, not the 4 at the end: equal sizes, lower address
    assert gap.address == first.address + 4 * MIB
    allocator.free(gap)
    allocator.free(first)
    allocator.free(third)
    assert allocator.allocate(12 * MIB).address == first.address
    assert allocator.reserved_bytes == 20 * MIB


def test_cached_segments_are_given_back_before_memory_runs_out():
    allocator = make_allocator(settings=AllocatorSettings(capacity_bytes=40 * MIB))
    allocator.free(allocator.allocate(30 * MIB))
    allocator.allocate(36 * MIB)
    assert (allocator.reserved_bytes, allocator.segments, allocator.retries) == (36 * MIB, 1, 1)
    with pytest.raises(OutOfDeviceMemoryError, match=r"tried to allocate 8.0 MiB: 36.0 MiB are allocated"):
        allocator.allocate(8 * MIB)


def test_pages_under_two_blocks_are_not_given_back():
    """Free every other one of 20 blocks of 12 MiB: that is ten whole segments, but no whole page of 20 MiB."""

    def outcome(expandable):
        configured = AllocatorSettings(capacity_bytes=240 * MIB, expandable_segments=expandable)
        allocator = make_allocator(settings=configured)
        blocks = [allocator.allocate(12 * MIB) for _ in range(20)]
        for block in blocks[::2]:
            allocator.free(block)
        allocator.allocate(100 * MIB)
        return allocator.reserved_bytes

    assert outcome(False) == 220 * MIB  # ten segments are given back, one of 100 MiB is made
    with pytest.raises(OutOfDeviceMemoryError):
        outcome(True)  # pages of 20 MiB under blocks of 12: no whole page is free


def test_expandable_segment_grows_by_pages_and_gives_them_back():
    allocator = make_allocator(settings=AllocatorSettings(expandable_segments=True, capacity_bytes=GIB))
    first = allocator.allocate(15 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    second = allocator.allocate(15 * MIB)
    assert second.address == first.address + 15 * MIB
    assert allocator.reserved_bytes == 40 * MIB
    allocator.free(second)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 20 * MIB
    assert allocator.segments == 0


def test_unused_addresses_are_kept_for_the_next_request():
    """63 MiB need four pages of 20 MiB, more than the device has. Only addresses were reserved for them."""
    allocator = make_allocator(settings=AllocatorSettings(expandable_segments=True, capacity_bytes=64 * MIB))
    with pytest.raises(OutOfDeviceMemoryError):
        allocator.allocate(63 * MIB)
    assert allocator.reserved_bytes == 0
    (unmapped,) = allocator.blocks()
    assert allocator.allocate(20 * MIB).address == unmapped.address


def test_block_freed_twice_is_an_error():
    allocator = make_allocator()
    block = allocator.allocate(1)
    allocator.free(block)
    with pytest.raises(ValueError, match="freed twice"):
        allocator.free(block)
