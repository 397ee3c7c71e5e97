"""NVIDIA's management library: device memory as the driver counts it, and energy.

The only module that imports pynvml.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, NamedTuple, Self

from slr_bench.errors import ProbeUnavailableError
from slr_bench.record import Metric


class GpuReading(NamedTuple):
    """One look at a device; None where the driver does not say."""

    process_bytes: int | None
    device_bytes: int | None
    total_bytes: int | None
    utilization_percent: int | None


def load_library() -> Any:
    """``pynvml``, initialised.

    Raises:
        ProbeUnavailableError: no library, no driver, or driver and library do not match.
    """
    try:
        import pynvml
    except ImportError as error:
        raise ProbeUnavailableError(f"NVML: {error}; pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ProbeUnavailableError(f"NVML: {error}") from error
    return pynvml


class Nvml:
    """One device, found by the UUID that torch reports, so that ``CUDA_VISIBLE_DEVICES`` cannot mix them up."""

    def __init__(self, library: Any, device_uuid: str | None = None, index: int = 0) -> None:
        self._library = library
        try:
            self._handle = (
                library.nvmlDeviceGetHandleByUUID(device_uuid)
                if device_uuid
                else library.nvmlDeviceGetHandleByIndex(index)
            )
        except library.NVMLError as error:
            raise ProbeUnavailableError(f"NVML device {device_uuid or index}: {error}") from error

    def read(self) -> GpuReading:
        """Memory and utilisation now; each field fails on its own."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return GpuReading(
            process_bytes=self._process_bytes(),
            device_bytes=memory.used if memory else None,
            total_bytes=memory.total if memory else None,
            utilization_percent=rates.gpu if rates else None,
        )

    def energy_mj(self) -> int | None:
        """Total energy since the driver was loaded, millijoule; None before Volta or without permission."""
        value = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def _process_bytes(self) -> int | None:
        """This process's bytes; None when the driver lists only other (host) PIDs or hides the number."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        used = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
        return int(used[0]) if used and used[0] is not None else None

    def _ask(self, name: str) -> Any | None:
        try:
            return getattr(self._library, name)(self._handle)
        except self._library.NVMLError:
            return None


class EnergyProbe:
    """Energy of the device while open, joule."""

    def __init__(self, nvml: Nvml | None, reason: str) -> None:
        self._nvml, self._reason = nvml, reason
        self._start_mj: int | None = None
        self._end_mj: int | None = None

    def __enter__(self) -> Self:
        self._start_mj = self._nvml.energy_mj() if self._nvml else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_mj = self._nvml.energy_mj() if self._nvml else None

    def readings(self) -> dict[str, Metric]:
        """``energy_j`` of the whole device: foreign work on it counts too."""
        if self._start_mj is None or self._end_mj is None:
            reason = self._reason if self._nvml is None else "the driver gives no energy counter for this device"
            return {"energy_j": Metric.unavailable("J", "NVML", reason)}
        value = (self._end_mj - self._start_mj) / 1000
        return {"energy_j": Metric(value=value, unit="J", source="NVML total energy", quality="measured")}
