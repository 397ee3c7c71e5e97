"""The machine that a training will run on, and the memory of its parts there. Imports torch only to find a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slr_bench.probes.host import cpu_flags, read_host_memory
from slr_bench.units import MIB

# Private memory of a loader process, measured at 16 x 224 x 224 without cache and batch: 60 MiB if forked; 409 MiB from
# a fork server, which a process with CUDA needs.
FORKED_PROCESS_BYTES = 100 * MIB
SERVED_PROCESS_BYTES = 400 * MIB


@dataclass(frozen=True)
class Machine:
    """Cores, memory and instruction sets that a training can use."""

    cores: int
    """Cores that this process may run on."""
    ram_free_bytes: int
    """Free RAM below the limit of the cgroup or the machine."""
    ram_limit_bytes: int
    gpu_name: str | None = None
    gpu_free_bytes: int = 0
    cpu_flags: frozenset[str] = frozenset()

    @classmethod
    def current(cls) -> Machine:
        """Return the machine that this process runs on, with its current free memory."""
        import torch

        memory = read_host_memory()
        name, free = None, 0
        if torch.cuda.is_available():
            name, free = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
        return cls(len(os.sched_getaffinity(0)), memory.left_bytes, memory.limit_bytes, name, free, cpu_flags())

    @property
    def has_gpu(self) -> bool:
        """True if the step runs on a GPU."""
        return self.gpu_name is not None

    def slower_than_fp32(self, precision: str) -> str:
        """Explain why a step in bf16 or fp16 takes longer than in fp32; return ``""`` if it does not.

        The times were measured in training with 16 frames of 112 x 112. bf16 ran at 64 channels without matrix units
        (AMX or ARM's). fp16 ran at 16 channels on a CPU with avx512_fp16; at 64 channels it took 54 s.
        """
        if self.has_gpu or precision not in ("bf16", "fp16"):
            return ""
        if precision == "fp16":
            return "there is no GPU, and on a CPU a clip took 4.0 s in fp16 and 0.11 s in fp32"
        if self.cpu_flags & {"amx_bf16", "bf16"}:
            return ""
        if "avx512_bf16" in self.cpu_flags:
            return "this CPU has avx512_bf16 but no amx_bf16: a step took 0.86 s in bf16 and 0.75 s in fp32"
        return "this CPU has neither amx_bf16 nor avx512_bf16: a step took 0.87 s in bf16 and 0.62 s in fp32"

    @property
    def device_free_bytes(self) -> int:
        """Memory that is free for the micro-batch."""
        return self.gpu_free_bytes if self.has_gpu else self.ram_free_bytes

    @property
    def process_bytes(self) -> int:
        """RAM of one more loader process."""
        return SERVED_PROCESS_BYTES if self.has_gpu else FORKED_PROCESS_BYTES
