"""One look at a GPU."""

from __future__ import annotations

from typing import NamedTuple


class GpuReading(NamedTuple):
    """What changes quickly. None where the driver does not say."""

    process_bytes: int | None
    device_bytes: int | None
    total_bytes: int | None


class GpuState(NamedTuple):
    """What changes slowly. None where the driver does not say."""

    utilization_ratio: float | None
    temperature_c: int | None
    sm_clock_hz: int | None
    memory_clock_hz: int | None
    power_w: float | None
    throttle_reasons: tuple[str, ...] | None
