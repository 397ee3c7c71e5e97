"""A GPU by hand (``slr_bench.worker.calibrate.Gpu``): naive allocator, our numbers for the rest."""

from __future__ import annotations

import torch
from recorded_allocator import Recorder

from slr_bench.probes.nvml import GpuReading
from slr_bench.worker.calibrate import KINDS, Counters
from slr_bench.worker.operator_cases import made_bytes, prepared

MIB = 2**20
FACTS = {
    "gpu": "NVIDIA H200",
    "torch": "2.14.1+cu130",
    "cuda": "13.0",
    "cudnn": 91300,
    "driver": "580.1",
    "capacity_bytes": 150_000_000_000,
    "compute_capability": "9.0",
}


class FakeGpu:
    """``scratch``: case -> bytes that its operator takes while it runs; ``cublas``: kept from the first product on."""

    def __init__(self, scratch=lambda case: 0, cublas=32 * MIB, context=400 * MIB, expandable=False, facts=FACTS):
        self.scratch, self.cublas, self.context, self._facts = scratch, cublas, context, facts
        self.recorder = Recorder(expandable)
        self.is_begun = self.is_recording = self.has_cublas = False
        self.tells_process, self.tells_device, self.idle, self.strangers = True, True, 600 * MIB, ()
        self.number = 0
        self.peaks = dict.fromkeys(KINDS, 0)

    def facts(self):
        return dict(self._facts)

    def _device_bytes(self):
        return (self.context if self.is_begun else 0) + self.recorder.allocator.reserved

    def reading(self):
        process = self._device_bytes() if self.tells_process and self.is_begun else None
        return GpuReading(process, self.idle + self._device_bytes() if self.tells_device else None, None)

    def reason(self):
        return "the driver keeps it to itself"

    def others(self):
        return self.strangers

    def begin(self):
        self.is_begun = True
        self.take(4)

    def take(self, size):
        """Allocate, and return the handle to free it by."""
        self.is_begun = True
        self.number += 1
        self.recorder.alloc(self.number, size)
        for kind in KINDS:
            self.peaks[kind] = max(self.peaks[kind], getattr(self.recorder.allocator, kind))
        return self.number

    def give(self, handle):
        self.recorder.free(handle)

    def counters(self):
        now = [getattr(self.recorder.allocator, kind) for kind in KINDS]
        return Counters(*now, *self.peaks.values())

    def reset_peaks(self):
        self.peaks = {kind: getattr(self.recorder.allocator, kind) for kind in KINDS}

    def call(self, case):
        return FakeCall(self, case)

    def record_history(self):
        assert not self.recorder.trace, "the history is to begin before the first byte"
        self.is_recording = True

    def snapshot(self):
        assert self.is_recording
        return self.recorder.snapshot()


class FakeCall:
    def __init__(self, gpu, case):
        self.gpu, self.case, self.made = gpu, case, None
        operator, arguments = prepared(case, torch.device("meta"))
        self.result = made_bytes(operator(**arguments))
        gpu.take(1000)  # its inputs, which stay

    def run(self):
        gpu = self.gpu
        if self.case.is_product and not gpu.has_cublas:
            gpu.has_cublas = True
            if gpu.cublas:
                gpu.take(gpu.cublas)
        self.made = gpu.take(self.result)
        size = gpu.scratch(self.case)
        if size:
            gpu.give(gpu.take(size))
        return self.result

    def drop(self):
        self.gpu.give(self.made)


class ToyStep:
    """Parameters, a state that the first step makes, activations: sizes that a head can add up."""

    def __init__(self, gpu):
        self.gpu, self.state = gpu, None
        gpu.take(3 * MIB)

    def load(self):
        pass

    def step(self):
        activations = [self.gpu.take(size) for size in (11 * MIB, 700, 5 * MIB)]
        if self.state is None:
            self.state = self.gpu.take(6 * MIB)
        for handle in activations:
            self.gpu.give(handle)
