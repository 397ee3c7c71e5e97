"""A GPU during a run: peaks of memory, extremes of temperature, clocks and power, throttling, energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from slr_bench.probes.nvml import GpuState, Nvml
from slr_bench.record import Metric

SLOW_PERIOD_S: Final = 1.0
"""Period of temperature, clocks and other processes: they change slowly, and each query takes the driver's lock."""

_STATE_METRICS: Final[dict[str, tuple[str, str, Callable[[list[Any]], Any], str]]] = {
    "gpu_temperature_c": ("temperature_c", "C", max, "highest of"),
    "gpu_utilization_ratio": ("utilization_ratio", "ratio", lambda values: sum(values) / len(values), "mean of"),
    "gpu_sm_clock_hz": ("sm_clock_hz", "Hz", min, "lowest of"),
    "gpu_memory_clock_hz": ("memory_clock_hz", "Hz", min, "lowest of"),
    "gpu_power_w": ("power_w", "W", max, "highest of"),
}
"""Metric -> field of the state, unit, function over its values, words for the function."""


class _Idle(NamedTuple):
    """The device before the work: bytes in use and the processes on it."""

    device_bytes: int | None
    other_pids: tuple[int, ...] | None
    is_listed: bool


class GpuProbe:
    """Peaks and extremes of the samples that the sampler's thread takes. Create it while the device is still idle.

    Without ``nvml`` every reading is null with ``reason``, and sampling does nothing.
    """

    def __init__(self, nvml: Nvml | None, reason: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml, self._reason, self._clock = nvml, reason, clock
        self._next_state_s = clock()
        self._process_peak_bytes: int | None = None
        self._device_peak_bytes: int | None = None
        self._stopped_reporting: set[str] = set()
        self._states: list[GpuState] = []
        self._others: set[int] = set()
        self._others_known = True
        if nvml:
            self._idle = _Idle(nvml.read().device_bytes, nvml.other_pids(), nvml.is_listed())
            self._note_others(self._idle.other_pids)

    def sample(self) -> tuple[int | None, int | None]:
        """Read the bytes of the process and of the device, and every ``SLOW_PERIOD_S`` the slow quantities."""
        if self._nvml is None:
            return None, None
        reading = self._nvml.read()
        self._process_peak_bytes = _larger(self._process_peak_bytes, reading.process_bytes)
        self._device_peak_bytes = _larger(self._device_peak_bytes, reading.device_bytes)
        self._stopped_reporting = {name for name in ("process_bytes", "device_bytes") if getattr(reading, name) is None}
        now_s = self._clock()
        if now_s >= self._next_state_s:
            self._next_state_s = now_s + SLOW_PERIOD_S
            self._states.append(self._nvml.state())
            self._note_others(self._nvml.other_pids())
        return reading.process_bytes, reading.device_bytes

    def readings(self) -> dict[str, Metric]:
        """Return ``nvml_*`` memory, and temperature, utilisation, clocks, power and throttling as ``gpu_*``."""
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
        if self._nvml and quantity in self._stopped_reporting:
            source = f"{source}, until the driver stopped reporting it ({self._nvml.why(quantity)})"
        return Metric(value=peak_bytes, unit="bytes", source=source, quality="sampled")

    def _over_idle(self) -> Metric:
        """Return the device's peak over its idle bytes, which are the process's only if it was alone."""
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
        alone = "GPU exclusive" if self._others_known else "GPU taken as exclusive: its other processes are unknown"
        value = max(0, self._device_peak_bytes - self._idle.device_bytes)
        return Metric(value=value, unit="bytes", source=f"{source} ({alone})", quality="sampled")

    def _extreme(self, field: str, unit: str, reduce: Callable[[list[Any]], Any], words: str) -> Metric:
        values = [value for state in self._states if (value := getattr(state, field)) is not None]
        if not values:
            return Metric.unavailable(unit, "NVML", self._why_no_state(field))
        source = f"{self._nvml.card_source if self._nvml else 'NVML'}, {words} {len(values)}"
        return Metric(value=reduce(values), unit=unit, source=source, quality="sampled")

    def _throttled(self) -> Metric:
        """Return the share of readings in which the card was slowed down; ``source`` has the reasons."""
        readings = [state.throttle_reasons for state in self._states if state.throttle_reasons is not None]
        if not readings:
            return Metric.unavailable("ratio", "NVML", self._why_no_state("throttle_reasons"))
        words = sorted({word for reasons in readings for word in reasons})
        source = f"NVML clocks event reasons of {len(readings)} readings: {', '.join(words) or 'none'}"
        value = sum(bool(reasons) for reasons in readings) / len(readings)
        return Metric(value=value, unit="ratio", source=source, quality="sampled")

    def _why_no_state(self, field: str) -> str:
        if self._nvml is None:
            return self._reason
        return self._nvml.why(field) if self._states else "the work ended before the first reading"


class EnergyProbe:
    """Energy of the whole device while open, in joules."""

    def __init__(self, nvml: Nvml | None, reason: str) -> None:
        self._nvml, self._reason = nvml, reason
        self._start_mj: int | None = None
        self._end_mj: int | None = None

    def __enter__(self) -> Self:
        self._start_mj = self._energy_mj()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_mj = self._energy_mj()

    def _energy_mj(self) -> int | None:
        value = self._nvml.energy_mj() if self._nvml else None
        if self._nvml and value is None:
            self._reason = f"no energy counter: {self._nvml.why('energy_mj')}"
        return value

    def readings(self) -> dict[str, Metric]:
        """Return ``energy_j`` of the whole device, which includes the work of other processes."""
        if self._start_mj is None or self._end_mj is None:
            return {"energy_j": Metric.unavailable("J", "NVML", self._reason)}
        if self._end_mj < self._start_mj:
            reason = "the energy counter went back: the driver was loaded again in between"
            return {"energy_j": Metric.unavailable("J", "NVML", reason)}
        value = (self._end_mj - self._start_mj) / 1000
        return {"energy_j": Metric(value=value, unit="J", source="NVML total energy", quality="measured")}


def process_memory(readings: Mapping[str, Metric], torch_reserved: Metric) -> Metric:
    """Return the best available figure of the process's GPU memory; ``source`` names it.

    In this order: the bytes that the driver counts for the process; the device's peak over idle; the bytes that torch's
    allocator reserved, which lack the CUDA context (some hundred MiB). A process value below torch's own belongs to
    another process, which can have the same number in a container, and is skipped.
    """
    process, over_idle = readings["nvml_process_peak_bytes"], readings["nvml_device_over_idle_bytes"]
    least = torch_reserved.value or 0
    doubts = []
    for metric in (process, over_idle):
        if metric.value is not None and metric.value >= least:
            return metric
        doubts.append(
            metric.reason or f"{metric.source} is less than torch's allocator holds: it belongs to another process"
        )
    if torch_reserved.value is not None:
        source = f"{torch_reserved.source} reserved, without the CUDA context"
        return torch_reserved.model_copy(update={"source": source})
    doubts.append(torch_reserved.reason or "")
    return Metric.unavailable("bytes", "NVML or torch.cuda", "; ".join(dict.fromkeys(doubts)))


def _larger(peak: int | None, value: int | None) -> int | None:
    return value if peak is None else peak if value is None else max(peak, value)
