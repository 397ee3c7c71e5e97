"""A second implementation of the caching allocator, slow and simple: it searches plain lists from end to end.

It follows the rules of torch and shares no code with ``slr_bench.predict``. It has no linked blocks and no sorted
pools, and it searches for free room anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20


@dataclass
class Segment:
    start: int
    size: int
    is_small: bool
    stream: int
    taken: dict = field(default_factory=dict)
    """handle -> (start, size)"""
    pages: set = field(default_factory=set)
    """Numbers of the pages that have memory, in an expandable segment only."""
    page: int | None = None

    def gaps(self):
        """Return the maximal unallocated runs, each fully mapped or fully unmapped: (start, size, is_mapped)."""
        found, at = [], self.start
        for start, size in [*sorted(self.taken.values()), (self.start + self.size, 0)]:
            found += self._runs(at, start)
            at = start + size
        return found

    def _runs(self, low, high):
        if low >= high:
            return []
        if self.page is None:
            return [(low, high - low, True)]
        runs, at = [], low
        last = self.start + (max(self.pages, default=-1) + 1) * self.page  # nothing is mapped after it
        while at < high:
            if at >= last:
                if runs and not runs[-1][2]:
                    return [*runs[:-1], (runs[-1][0], high - runs[-1][0], False)]
                return [*runs, (at, high - at, False)]
            number = (at - self.start) // self.page
            end = min(high, self.start + (number + 1) * self.page)
            mapped = number in self.pages
            if runs and runs[-1][2] == mapped:
                runs[-1] = (runs[-1][0], runs[-1][1] + end - at, mapped)
            else:
                runs.append((at, end - at, mapped))
            at = end
        return runs


class Full(Exception):
    """The device has no room."""


class NaiveAllocator:
    def __init__(self, capacity=1 << 62, max_split=1 << 62, expandable=False, space=None):
        self.capacity, self.max_split, self.expandable, self.space = capacity, max_split, expandable, space
        self.segments, self.where, self.requests = [], {}, {}
        self.next_address = 1 << 45

    @property
    def requested(self):
        return sum(self.requests.values())

    @property
    def allocated(self):
        return sum(size for segment in self.segments for _, size in segment.taken.values())

    @property
    def reserved(self):
        return sum(len(s.pages) * s.page if s.page else s.size for s in self.segments)

    def allocate(self, handle, wanted, stream=0):
        size = max(512, (wanted + 511) // 512 * 512)
        small = size <= MIB
        mine = [s for s in self.segments if (s.is_small, s.stream) == (small, stream)]
        gap = self.fit(mine, size)
        if gap is None:
            gap = self.grow(mine, size, small, stream)
        if gap is None:
            self.release_for(mine, size)
            mine = [s for s in self.segments if (s.is_small, s.stream) == (small, stream)]
            gap = self.grow(mine, size, small, stream)
        if gap is None:
            self.empty()
            mine = [s for s in self.segments if (s.is_small, s.stream) == (small, stream)]
            gap = self.grow(mine, size, small, stream)
        if gap is None:
            raise Full
        segment, start, room = gap
        rest = room - size
        split = rest >= 512 if self.expandable or small else size < self.max_split and rest > MIB
        segment.taken[handle] = (start, size if split else room)
        self.where[handle], self.requests[handle] = segment, wanted

    def fit(self, mine, size):
        runs = sorted(
            (run_size, start, self.reach(segment, start, run_size), number)
            for number, segment in enumerate(mine)
            for start, run_size, mapped in segment.gaps()
            if mapped and run_size >= size
        )
        if not runs:
            return None
        at = 0
        if self.expandable:
            while at + 1 < len(runs) and runs[at + 1][2] < runs[at][2]:
                at += 1
        run_size, start, _, number = runs[at]
        if size < self.max_split <= run_size:
            return None
        if size >= self.max_split and run_size >= size + 20 * MIB:
            return None
        return mine[number], start, run_size

    def reach(self, segment, start, size):
        """Return the size of a run together with the unmapped run after it."""
        for other, other_size, mapped in segment.gaps():
            if other == start + size and not mapped:
                return size + other_size
        return size

    def grow(self, mine, size, small, stream):
        if not self.expandable:
            extent = 2 * MIB if small else 20 * MIB if size < 10 * MIB else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
            if self.reserved + extent > self.capacity:
                return None
            segment = Segment(self.next_address, extent, small, stream)
            self.next_address += extent
            self.segments.append(segment)
            return segment, segment.start, extent
        page = (2 if small else 20) * MIB
        for segment in mine:
            found = self.room_in(segment, size)
            if found is not None:
                return self.map(segment, found, size)
        extent = (int(self.space * 1.125) + page - 1) // page * page
        segment = Segment(self.next_address, extent, small, stream, page=page)
        self.next_address += extent
        self.segments.append(segment)
        return self.map(segment, segment.start, size)

    def room_in(self, segment, size):
        gaps = segment.gaps()
        for number, (start, _, mapped) in enumerate(gaps):
            if mapped:
                continue
            first = number
            if number and gaps[number - 1][0] + gaps[number - 1][1] == start:
                first = number - 1
            total, at = 0, gaps[first][0]
            for other, other_size, _ in gaps[first:]:
                if other != at or total >= size:
                    break
                total, at = total + other_size, other + other_size
            if total >= size:
                return gaps[first][0]
        return None

    def map(self, segment, start, size):
        """Map the unmapped runs between, one after the other; a run is mapped as a whole or not at all."""
        for run, run_size, mapped in [g for g in segment.gaps() if g[0] >= start]:
            if run >= start + size:
                break
            if mapped:
                continue
            last = (min(run + run_size, start + size) - 1 - segment.start) // segment.page
            pages = range((run - segment.start) // segment.page, last + 1)
            if self.reserved + len(pages) * segment.page > self.capacity:
                return None
            segment.pages.update(pages)
        for run, run_size, mapped in segment.gaps():
            if run == start and mapped:
                return segment, start, run_size
        raise AssertionError("mapped room must be there")

    def release_for(self, mine, size):
        if self.expandable or self.max_split >= 1 << 62:
            return
        wanted = max(size, self.max_split)
        free = sorted(
            ((gap[1], gap[0], number) for number, s in enumerate(mine) for gap in s.gaps()),
        )
        enough = [entry for entry in free if entry[0] >= wanted]
        if enough:
            self.segments.remove(mine[enough[0][2]])
            return
        total = 0
        for gap, _, number in reversed(free):
            if total >= wanted or gap < self.max_split:
                break
            total += gap
            self.segments.remove(mine[number])

    def empty(self):
        for segment in list(self.segments):
            if segment.page is None:
                if not segment.taken:
                    self.segments.remove(segment)
                continue
            had_memory = bool(segment.pages)  # a segment that never had memory is not a free block, and stays
            for start, size, mapped in segment.gaps():
                if mapped:
                    first = -(-(start - segment.start) // segment.page)
                    last = (start + size - segment.start) // segment.page
                    segment.pages -= set(range(first, last))
            if had_memory and not segment.taken and not segment.pages:
                self.segments.remove(segment)

    def free(self, handle):
        self.where.pop(handle).taken.pop(handle)
        self.requests.pop(handle)
