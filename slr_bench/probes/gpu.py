"""A GPU over the time of a run: peaks of memory, extremes of temperature, clocks and power, what throttled it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from slr_bench.probes.gpu_reading import GpuState
from slr_bench.probes.nvml import Nvml
from slr_bench.record import Metric

SLOW_PERIOD_S: Final = 1.0
"""Temperature, clocks and who else is there change slowly, and each question costs the driver's lock."""

_STATE_METRICS: Final[dict[str, tuple[str, str, Callable[[list[Any]], Any], str]]] = {
    "gpu_temperature_c": ("temperature_c", "C", max, "highest of"),
    "gpu_utilization_ratio": ("utilization_ratio", "ratio", lambda seen: sum(seen) / len(seen), "mean of"),
    "gpu_sm_clock_hz": ("sm_clock_hz", "Hz", min, "lowest of"),
    "gpu_memory_clock_hz": ("memory_clock_hz", "Hz", min, "lowest of"),
    "gpu_power_w": ("power_w", "W", max, "highest of"),
}
"""Metric -> field of the state, unit, what is made of its values, the word for that."""


class _Idle(NamedTuple):
    """The device before the work: what was in use, by whom."""

    device_bytes: int | None
    other_pids: tuple[int, ...] | None
    is_listed: bool


class GpuProbe:
    """Sampled by the sampler's thread; made before the work, so that the device is still idle.

    ``nvml`` None is a machine without: every reading is then null with ``reason``, and sampling asks nobody anything.
    """

    def __init__(self, nvml: Nvml | None, reason: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml, self._reason, self._clock = nvml, reason, clock
        self._next_state_s = clock()
        self._process_peak_bytes: int | None = None
        self._device_peak_bytes: int | None = None
        self._fell_silent: set[str] = set()
        self._states: list[GpuState] = []
        self._others: set[int] = set()
        self._others_known = True
        if nvml:
            self._idle = _Idle(nvml.read().device_bytes, nvml.other_pids(), nvml.is_listed())
            self._note_others(self._idle.other_pids)

    def sample(self) -> tuple[int | None, int | None]:
        """Bytes of the process and of the device now; every ``SLOW_PERIOD_S`` also what changes slowly."""
        if self._nvml is None:
            return None, None
        reading = self._nvml.read()
        self._process_peak_bytes = _larger(self._process_peak_bytes, reading.process_bytes)
        self._device_peak_bytes = _larger(self._device_peak_bytes, reading.device_bytes)
        self._fell_silent = {name for name in ("process_bytes", "device_bytes") if getattr(reading, name) is None}
        now_s = self._clock()
        if now_s >= self._next_state_s:
            self._next_state_s = now_s + SLOW_PERIOD_S
            self._states.append(self._nvml.state())
            self._note_others(self._nvml.other_pids())
        return reading.process_bytes, reading.device_bytes

    def readings(self) -> dict[str, Metric]:
        """``nvml_*`` memory, and temperature, utilisation, clocks, power and throttling as ``gpu_*``."""
        process = self._memory("process_bytes", self._process_peak_bytes, "NVML process")
        device = self._memory(
            "device_bytes", self._device_peak_bytes, self._nvml.memory_source if self._nvml else "NVML device"
        )
        return {
            "nvml_process_peak_bytes": process,
            "nvml_device_peak_bytes": device,
            "nvml_device_over_idle_bytes": self._over_idle(),
            **{name: self._extreme(*how) for name, how in _STATE_METRICS.items()},
            "gpu_throttled_ratio": self._throttled(),
        }

    def _note_others(self, pids: tuple[int, ...] | None) -> None:
        self._others |= set(pids or ())
        self._others_known &= pids is not None

    def _memory(self, quantity: str, peak_bytes: int | None, source: str) -> Metric:
        if peak_bytes is None:
            return Metric.unavailable("bytes", source, self._nvml.why(quantity) if self._nvml else self._reason)
        if self._nvml and quantity in self._fell_silent:
            source = f"{source}, until it fell silent ({self._nvml.why(quantity)})"
        return Metric(value=peak_bytes, unit="bytes", source=source, quality="sampled")

    def _over_idle(self) -> Metric:
        """The device's peak over what it held before: the process's own only if nobody else was there."""
        source = "NVML device over idle"
        if self._nvml is None:
            return Metric.unavailable("bytes", source, self._reason)
        if self._device_peak_bytes is None or self._idle.device_bytes is None:
            return Metric.unavailable("bytes", source, self._nvml.why("device_bytes"))
        if self._others:
            reason = f"the GPU was not exclusive: {len(self._others)} other processes were on it"
            return Metric.unavailable("bytes", source, reason)
        if self._idle.is_listed:
            reason = "the process had a context on the GPU already: there is no idle baseline"
            return Metric.unavailable("bytes", source, reason)
        alone = "GPU exclusive" if self._others_known else "GPU taken as exclusive: who is on it is not told"
        value = max(0, self._device_peak_bytes - self._idle.device_bytes)
        return Metric(value=value, unit="bytes", source=f"{source} ({alone})", quality="sampled")

    def _extreme(self, field: str, unit: str, of: Callable[[list[Any]], Any], word: str) -> Metric:
        seen = [value for state in self._states if (value := getattr(state, field)) is not None]
        if not seen:
            return Metric.unavailable(unit, "NVML", self._why_no_state(field))
        source = f"{self._nvml.card_source if self._nvml else 'NVML'}, {word} {len(seen)}"
        return Metric(value=of(seen), unit=unit, source=source, quality="sampled")

    def _throttled(self) -> Metric:
        """Share of the looks at the card at which something slowed it down; what, is in ``source``."""
        seen = [state.throttle_reasons for state in self._states if state.throttle_reasons is not None]
        if not seen:
            return Metric.unavailable("ratio", "NVML", self._why_no_state("throttle_reasons"))
        words = sorted({word for reasons in seen for word in reasons})
        source = f"NVML clocks event reasons of {len(seen)} looks: {', '.join(words) or 'none'}"
        value = sum(bool(reasons) for reasons in seen) / len(seen)
        return Metric(value=value, unit="ratio", source=source, quality="sampled")

    def _why_no_state(self, field: str) -> str:
        if self._nvml is None:
            return self._reason
        return self._nvml.why(field) if self._states else "the work ended before the first look"


def process_memory(readings: Mapping[str, Metric], torch_reserved: Metric) -> Metric:
    """The best that is known of the process's GPU memory; ``source`` says which it is.

    In this order: what the driver books for the process; what the device held over idle; what torch's allocator
    reserved, which lacks the CUDA context (some hundred MiB). A process value below torch's own cannot be this
    process's (in a container a stranger can have its number), and is passed over.
    """
    process, over_idle = readings["nvml_process_peak_bytes"], readings["nvml_device_over_idle_bytes"]
    least = torch_reserved.value or 0
    doubts = []
    for metric in (process, over_idle):
        if metric.value is not None and metric.value >= least:
            return metric
        doubts.append(metric.reason or f"{metric.source} says less than torch's allocator holds: not this process's")
    if torch_reserved.value is not None:
        source = f"{torch_reserved.source} reserved, without the CUDA context"
        return torch_reserved.model_copy(update={"source": source})
    doubts.append(torch_reserved.reason or "")
    return Metric.unavailable("bytes", "NVML or torch.cuda", "; ".join(dict.fromkeys(doubts)))


def _larger(peak: int | None, value: int | None) -> int | None:
    return value if peak is None else peak if value is None else max(peak, value)
