"""Decides whether an error means that memory ran out, and whether it was the GPU's or the host's.

The worker records the outcome of a cell with it, and the trainer halves its micro-batch with it, so both agree.
This module does not import torch: it recognises torch's own error by the name of its class.
"""

from __future__ import annotations

import errno
import re
from enum import StrEnum
from typing import Final


class OutOfMemoryKind(StrEnum):
    """The memory that ran out."""

    GPU = "GPU memory"
    HOST = "RAM"


ALLOCATION_ERRORS: Final = (MemoryError, RuntimeError, OSError)
"""Classes under which a failed allocation arrives. Not every error of these classes is one."""

_GPU: Final = re.compile(
    r"CUDA out of memory"  # torch's caching allocator
    r"|CUDA error: out of memory|cuda failure.*out of memory"  # the driver, NCCL
    r"|CU[A-Z]+_(STATUS_)?ALLOC_FAILED",  # cuBLAS, cuDNN, cuFFT, cuSOLVER, cuSPARSE
    re.IGNORECASE,
)
_HOST: Final = re.compile(
    r"allocate memory(?! in static TLS)|not enough memory"  # torch's CPU allocator, the kernel's ENOMEM
    r"|\bbad_alloc\b|\bMemoryError\b|unable to allocate [\d.]+ [KMGTPE]?i?B\b"  # C++, Python, NumPy
    r"|^(RuntimeError: )?could not create a primitive$",  # oneDNN; "... descriptor" means an unsupported operator
    re.IGNORECASE,
)
_HOST_AT_A_LIMIT: Final = re.compile(r"can't start new thread|could not create a (primitive|memory)")
"""Other messages of the first failure in a limited address space (``ram_limit``)."""


def out_of_memory_kind(error: BaseException | str, *, is_ram_limited: bool = False) -> OutOfMemoryKind | None:
    """Return which memory ran out, or None if the error means something else.

    ``error`` may be a message without its exception, such as a line of a log. ``is_ram_limited`` states that the
    process runs under a RAM limit, where starting a thread or preparing an operator is what fails first.
    """
    text = str(error)
    if isinstance(error, BaseException):
        names = {(base.__name__, base.__module__.partition(".")[0]) for base in type(error).__mro__}
        if ("OutOfMemoryError", "torch") in names:
            return OutOfMemoryKind.GPU
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return OutOfMemoryKind.HOST
        if not isinstance(error, RuntimeError):
            return None
    if _GPU.search(text):
        return OutOfMemoryKind.GPU
    if _HOST.search(text) or (is_ram_limited and _HOST_AT_A_LIMIT.search(text)):
        return OutOfMemoryKind.HOST
    return None
