"""Records the history of the naive allocator in the format of ``torch.cuda.memory._snapshot``."""

from __future__ import annotations

import pickle

from naive_allocator import Full, NaiveAllocator

GIB = 2**30


class Recorder:
    """A naive allocator whose history has torch's format. ``forget`` begins the recording late."""

    def __init__(self, expandable=False, capacity=1 << 62):
        self.allocator = NaiveAllocator(capacity, expandable=expandable, space=2 * GIB)
        self.trace, self.blocks, self.streams, self.frames = [], {}, {}, {}

    def _note(self, action, addr, size, stream=0, **more):
        entry = {"action": action, "addr": addr, "size": size, "stream": stream, "frames": [], **more}
        self.trace.append(entry)

    def _state(self):
        return {
            (s.start, page): (s.page or s.size, s.start + max(page, 0) * (s.page or 0), s.stream)
            for s in self.allocator.segments
            for page in (s.pages if s.page else [-1])
        }

    def _segments(self, before, after):
        is_expandable = self.allocator.expandable
        kind = ("segment_map", "segment_unmap") if is_expandable else ("segment_alloc", "segment_free")
        for action, keys, sizes in (
            (kind[1], before.keys() - after.keys(), before),
            (kind[0], after.keys() - before.keys(), after),
        ):
            runs = []
            for size, address, stream in sorted((sizes[key] for key in keys), key=lambda one: one[1]):
                if is_expandable and runs and runs[-1][0] + runs[-1][1] == address:
                    runs[-1][1] += size
                else:
                    runs.append([address, size, stream])
            for run in runs:
                self._note(action, *run)

    def alloc(self, handle, size, stream=0, frames=()):
        """Allocate, and return whether there was room."""
        before = self._state()
        try:
            self.allocator.allocate(handle, size, stream)
        except Full:
            self._segments(before, self._state())
            free = self.allocator.capacity - self.allocator.reserved
            self.trace.append({"action": "oom", "size": size, "stream": stream, "frames": [], "device_free": free})
            return False
        self._segments(before, self._state())
        self.blocks[handle] = (self.allocator.where[handle].taken[handle][0], size)
        self.streams[handle], self.frames[handle] = stream, list(frames)
        self._note("alloc", *self.blocks[handle], stream, frames=list(frames))
        return True

    def free(self, handle):
        block, stream = self.blocks.pop(handle), self.streams.pop(handle)
        self._note("free_requested", *block, stream)
        self.allocator.free(handle)
        self._note("free_completed", *block, stream)

    def empty_cache(self):
        before = self._state()
        self.allocator.empty()
        self._segments(before, self._state())

    def forget(self):
        self.trace.clear()

    def live(self):
        """Return the size of each allocated block by address."""
        return {place: size for s in self.allocator.segments for place, size in s.taken.values()}

    def snapshot(self, device=0, **more):
        settings = {"expandable_segments": self.allocator.expandable, "max_split_size": -1, **more}
        segments = [one for s in self.allocator.segments for one in self._ranges(s, device)]
        traces = [*([] for _ in range(device)), self.trace]
        return {"segments": segments, "device_traces": traces, "allocator_settings": settings}

    def _ranges(self, s, device):
        """Return what torch lists for a segment: one entry, or one for each stretch of mapped pages."""
        blocks = [(*place, handle) for handle, place in s.taken.items()]
        blocks += [(start, size, None) for start, size, mapped in s.gaps() if mapped]
        ranges = []
        for start, size, handle in sorted(blocks, key=lambda one: one[0]):
            requested = self.allocator.requests.get(handle)
            if not ranges or ranges[-1]["address"] + ranges[-1]["total_size"] != start:
                kind = "small" if s.is_small else "large"
                ranges.append({"device": device, "address": start, "total_size": 0, "allocated_size": 0, "blocks": []})
                ranges[-1] |= {"stream": s.stream, "segment_type": kind, "is_expandable": s.page is not None}
            block = {"size": size, "requested_size": requested or 0, "frames": self.frames.get(handle, [])}
            ranges[-1]["blocks"].append(block | {"state": "inactive" if requested is None else "active_allocated"})
            ranges[-1]["total_size"] += size
            ranges[-1]["allocated_size"] += 0 if requested is None else size
        return ranges

    def write(self, path, device=1, **more):
        path.write_bytes(pickle.dumps(self.snapshot(device, **more)))
        return path
