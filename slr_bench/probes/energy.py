"""Energy of a GPU while work runs on it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from slr_bench.probes.nvml import Nvml
from slr_bench.record import Metric


class EnergyProbe:
    """Energy of the device while open, joule."""

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
        """``energy_j`` of the whole device: foreign work on it counts too."""
        if self._start_mj is None or self._end_mj is None:
            return {"energy_j": Metric.unavailable("J", "NVML", self._reason)}
        if self._end_mj < self._start_mj:
            reason = "the energy counter went back: the driver was loaded again meanwhile"
            return {"energy_j": Metric.unavailable("J", "NVML", reason)}
        value = (self._end_mj - self._start_mj) / 1000
        return {"energy_j": Metric(value=value, unit="J", source="NVML total energy", quality="measured")}
