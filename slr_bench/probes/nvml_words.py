"""What NVML's numbers mean, in words. The numbers are its ABI (nvml.h) and never change."""

from __future__ import annotations

from typing import Final

NOT_SUPPORTED: Final = 3
_CURES: Final = {
    3: "this device or mode (MIG, WSL, vGPU) does not have it",
    4: "ask as root, or on a MIG card name an instance in CUDA_VISIBLE_DEVICES",
    9: "load the NVIDIA driver: nvidia-smi must work first",
    12: "libnvidia-ml.so is not here: install the NVIDIA driver, or start the container with its utilities "
    "(NVIDIA_DRIVER_CAPABILITIES=utility)",
    13: "the driver is too old for it",
    15: "it fell off the bus: look at dmesg for Xid 79, then reset or reboot",
    18: "driver and library do not match, as after an upgrade: reboot or reload the nvidia modules",
}
_ABSENT: Final = frozenset({13, 25, 26})
"""The function, or this version of it, does not exist here: an older form may."""

_THROTTLES: Final = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake (hardware)",
    0x200: "board limit",
    0x400: "reliability voltage",
}
_NO_THROTTLES: Final = 0x1 | 0x2 | 0x10 | 0x100
"""Idle, clocks that somebody set, clocks in step with another card, clocks for a display: nothing slows the work."""


def explain(error: Exception) -> str:
    """NVML's own text with what to do about it: ``'Not Supported: ...'``."""
    cure = _CURES.get(getattr(error, "value", None) or 0)
    text = " ".join(str(error).split())
    return f"{text}: {cure}" if cure else text


def is_absent(error: Exception) -> bool:
    """Whether an older form of the function may answer. Not an NVML error at all: nvidia-ml-py refused by itself."""
    return getattr(error, "value", None) in _ABSENT or not hasattr(error, "value")


def throttle_words(bits: int) -> tuple[str, ...]:
    """The set bits of the clocks event reasons that slow the work down; an unknown one is named by its number."""
    numbers = [1 << place for place in range(bits.bit_length()) if bits & (1 << place)]
    return tuple(_THROTTLES.get(number, f"reason {number:#x}") for number in numbers if not number & _NO_THROTTLES)
