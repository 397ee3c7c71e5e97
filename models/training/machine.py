"""The machine a training is to run on, and what its parts need there. Imports torch only to look for a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slr_bench.probes.host import cpu_flags, read_host_memory
from slr_bench.units import MIB

# Private memory of a loader process, measured at 16 x 224 x 224 without cache and batch: forked 60 MiB; from a fork
# server, which a process with CUDA needs, 409 MiB.
FORKED_PROCESS_BYTES = 100 * MIB
SERVED_PROCESS_BYTES = 400 * MIB


@dataclass(frozen=True)
class Machine:
    """What there is to use."""

    cores: int
    """That this process may run on."""
    ram_free_bytes: int
    """Until the cgroup's limit, or the machine's."""
    ram_limit_bytes: int
    gpu_name: str | None = None
    gpu_free_bytes: int = 0
    cpu_flags: frozenset[str] = frozenset()

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        import torch

        memory = read_host_memory()
        name, free = None, 0
        if torch.cuda.is_available():
            name, free = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
        return cls(len(os.sched_getaffinity(0)), memory.left_bytes, memory.limit_bytes, name, free, cpu_flags())

    @property
    def has_gpu(self) -> bool:
        """Whether the step runs on a GPU."""
        return self.gpu_name is not None

    def slower_than_fp32(self, precision: str) -> str:
        """Why a step in bf16 or fp16 takes longer than in fp32, ``""`` where it does not or for another type.

        Measured, training 16 frames of 112 x 112: bf16 at 64 channels and smaller nets, not on matrix units (AMX,
        ARM's); fp16 at 16 channels (at 64: 54 s), on a CPU that has avx512_fp16."""
        if self.has_gpu or precision not in ("bf16", "fp16"):
            return ""
        if precision == "fp16":
            return "there is no GPU, and on a CPU fp16 measured at 4.0 s a clip for 0.11"
        if self.cpu_flags & {"amx_bf16", "bf16"}:
            return ""
        if "avx512_bf16" in self.cpu_flags:
            return "this CPU has avx512_bf16, but no amx_bf16: bf16 measured at 0.86 s for 0.75"
        return "this CPU has neither amx_bf16 nor avx512_bf16: bf16 measured at 0.87 s for 0.62"

    @property
    def device_free_bytes(self) -> int:
        """Memory that the micro-batch can have."""
        return self.gpu_free_bytes if self.has_gpu else self.ram_free_bytes

    @property
    def process_bytes(self) -> int:
        """RAM of one more loader process."""
        return SERVED_PROCESS_BYTES if self.has_gpu else FORKED_PROCESS_BYTES
