"""Records the history of the naive allocator in the format of ``torch.cuda.memory._snapshot``."""

from __future__ import annotations

import pickle

from naive_allocator import NaiveAllocator

GIB = 2**30


class Recorder:
    """A naive allocator whose history has torch's format."""

    def __init__(self, expandable=False):
        self.allocator = NaiveAllocator(expandable=expandable, space=2 * GIB)
        self.trace, self.blocks = [], {}

    def _note(self, action, addr, size):
        self.trace.append({"action": action, "addr": addr, "size": size, "stream": 0, "frames": []})

    def _state(self):
        return {
            (s.start, page): s.page or s.size for s in self.allocator.segments for page in (s.pages if s.page else [-1])
        }

    def _segments(self, before, after):
        kind = ("segment_map", "segment_unmap") if self.allocator.expandable else ("segment_alloc", "segment_free")
        for key in before.keys() - after.keys():
            self._note(kind[1], key[0], before[key])
        for key in sorted(after.keys() - before.keys()):
            self._note(kind[0], key[0], after[key])

    def alloc(self, handle, size):
        before = self._state()
        self.allocator.allocate(handle, size)
        self._segments(before, self._state())
        self.blocks[handle] = (self.allocator.where[handle].taken[handle][0], size)
        self._note("alloc", *self.blocks[handle])

    def free(self, handle):
        block = self.blocks.pop(handle)
        self._note("free_requested", *block)
        self.allocator.free(handle)
        self._note("free_completed", *block)

    def snapshot(self, device=0, **more):
        sizes = [
            {"device": device, "total_size": s.size, "allocated_size": sum(size for _, size in s.taken.values())}
            for s in self.allocator.segments
        ]
        settings = {"expandable_segments": self.allocator.expandable, "max_split_size": -1, **more}
        traces = [*([] for _ in range(device)), self.trace]
        return {"segments": sizes, "device_traces": traces, "allocator_settings": settings}

    def write(self, path, **more):
        path.write_bytes(pickle.dumps(self.snapshot(1, **more)))
        return path
