"""NVIDIA's management library: one device as the driver sees it.

The only module that imports pynvml. Every question fails on its own: its answer is then None, and ``why`` has the
reason. Nothing here is 0 because it is unknown.
"""

from __future__ import annotations

from typing import Any, Final

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes import gpu_pids
from slr_bench.probes.gpu_pids import PidSpace, read_pid_space
from slr_bench.probes.gpu_reading import GpuReading, GpuState
from slr_bench.probes.nvml_words import NOT_SUPPORTED, explain, is_absent, throttle_words

TEMPERATURE_GPU: Final = 0  # NVML_TEMPERATURE_GPU
CLOCK_SM: Final = 1  # NVML_CLOCK_SM
CLOCK_MEMORY: Final = 2  # NVML_CLOCK_MEM
MEMORY_V2: Final = 0x02000028  # nvmlMemory_v2: its "used" is without what the driver reserves for itself
_SHARED = "a MIG instance has none of its own, and the card's counts its neighbours too"


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
        raise ProbeUnavailableError(f"NVML: {explain(error)}") from error
    return pynvml


class Nvml:
    """One device, or one MIG instance. ``space`` has the process whose memory is asked for; by default this one."""

    def __init__(
        self, library: Any, device_uuid: str | None = None, index: int = 0, space: PidSpace | None = None
    ) -> None:
        self._library = library
        self.space = space or read_pid_space()
        self._reasons: dict[str, str] = {}
        by, key = ("UUID", device_uuid) if device_uuid else ("Index", index)
        try:
            self._handle = getattr(library, f"nvmlDeviceGetHandleBy{by}")(key)
        except library.NVMLError as error:
            raise ProbeUnavailableError(f"NVML device {key}: {explain(error)}") from error
        self.is_mig_instance = bool(self._ask("mig", "nvmlDeviceIsMigDeviceHandle"))
        self._card = self._handle
        if self.is_mig_instance:  # temperature, clocks and throttling are the card's, however it is cut
            self._card = self._ask("card", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle") or self._handle
        # One version for good: the difference of two readings of different versions would mean nothing.
        self._memory_arguments: tuple[int, ...] = (MEMORY_V2,) if self._has_memory_v2() else ()

    def why(self, quantity: str) -> str:
        """Why a quantity (named as the field or the method) was None when it was last asked for."""
        return self._reasons.get(quantity, "it was not asked for")

    @property
    def memory_source(self) -> str:
        """What the device's bytes are: with or without those that the driver reserves."""
        return "NVML device" if self._memory_arguments else "NVML device, driver-reserved included"

    @property
    def card_source(self) -> str:
        """Whose temperature, clocks and throttling they are."""
        return "NVML, of the card around the MIG instance" if self.is_mig_instance else "NVML"

    def is_mig_parent(self) -> bool:
        """Whether it is a card that is cut into MIG instances: work runs in one of those, not on the card."""
        mode = None if self.is_mig_instance else self._ask("mig_mode", "nvmlDeviceGetMigMode")
        return bool(mode and mode[0])

    def name(self) -> str | None:
        """The product's name."""
        name = self._ask("name", "nvmlDeviceGetName")
        return name.decode() if isinstance(name, bytes) else name

    def read(self) -> GpuReading:
        """Bytes now: of the process, in use on the device, there at all."""
        memory = self._ask("device_bytes", "nvmlDeviceGetMemoryInfo", arguments=self._memory_arguments)
        return GpuReading(
            process_bytes=self.process_bytes(),
            device_bytes=int(memory.used) if memory else None,
            total_bytes=int(memory.total) if memory else None,
        )

    def state(self) -> GpuState:
        """Utilisation, temperature, clocks, power and throttling now."""
        rates = self._ask("utilization_ratio", "nvmlDeviceGetUtilizationRates")
        power_mw = self._ask_own("power_w", "nvmlDeviceGetPowerUsage")
        return GpuState(
            utilization_ratio=rates.gpu / 100 if rates else None,
            temperature_c=self._ask_card("temperature_c", "nvmlDeviceGetTemperature", arguments=(TEMPERATURE_GPU,)),
            sm_clock_hz=self._clock_hz("sm_clock_hz", CLOCK_SM),
            memory_clock_hz=self._clock_hz("memory_clock_hz", CLOCK_MEMORY),
            power_w=None if power_mw is None else power_mw / 1000,
            throttle_reasons=self.throttle_reasons(),
        )

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """What slows the card's clocks down, in words; () when nothing does. Idling and set clocks do not count."""
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        bits = self._ask_card("throttle_reasons", *names)
        return None if bits is None else throttle_words(int(bits))

    def energy_mj(self) -> int | None:
        """Total energy since the driver was loaded, millijoule; None before Volta or without permission."""
        value = self._ask_own("energy_mj", "nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def process_bytes(self) -> int | None:
        """Bytes that the driver books for the process, its context included."""
        found: int | None = self._from_list("process_bytes", gpu_pids.own_bytes, "Compute")
        if found is None:  # under MPS the clients stand in a list of their own
            found = self._from_list("process_bytes", gpu_pids.own_bytes, "Compute", "MPSCompute")
        return found

    def other_pids(self) -> tuple[int, ...] | None:
        """Processes on the device but the own, by the driver's numbers; () when it is alone.

        None where that cannot be told: in a container any of them can be this one.
        """
        found: tuple[int, ...] | None = self._from_list(
            "other_pids", gpu_pids.other_pids, "Compute", "MPSCompute", "Graphics"
        )
        return found

    def is_listed(self) -> bool:
        """Whether the driver lists the process: it has a context on the device."""
        return bool((self._listed("is_listed", "Compute", "MPSCompute") or {}).keys() & self.space.pids)

    def _from_list(self, quantity: str, judge: Any, *kinds: str) -> Any | None:
        listed = self._listed(quantity, *kinds)
        answer = None if listed is None else judge(listed, self.space)
        if isinstance(answer, str):
            self._reasons[quantity] = answer
            return None
        return answer

    def _listed(self, quantity: str, *kinds: str) -> dict[int, int | None] | None:
        """PID -> bytes. None if the first list does not answer; the others many devices do not have."""
        found: dict[int, int | None] = {}
        for kind in kinds:
            name = f"nvmlDeviceGet{kind}RunningProcesses"
            processes = self._ask(quantity if kind == kinds[0] else kind, name, f"{name}_v2")
            if processes is None and kind == kinds[0]:
                return None
            for process in processes or ():
                found.setdefault(int(process.pid), process.usedGpuMemory)
        return found

    def _clock_hz(self, quantity: str, kind: int) -> int | None:
        clock_mhz = self._ask_card(quantity, "nvmlDeviceGetClockInfo", arguments=(kind,))
        return None if clock_mhz is None else int(clock_mhz) * 1_000_000

    def _has_memory_v2(self) -> bool:
        try:
            self._library.nvmlDeviceGetMemoryInfo(self._handle, MEMORY_V2)
        except self._library.NVMLError as error:
            return not is_absent(error) and getattr(error, "value", None) != NOT_SUPPORTED
        return True

    def _ask_card(self, quantity: str, *names: str, arguments: tuple[int, ...] = ()) -> Any | None:
        return self._ask(quantity, *names, arguments=arguments, handle=self._card)

    def _ask_own(self, quantity: str, name: str) -> Any | None:
        if self.is_mig_instance:
            self._reasons[quantity] = _SHARED
            return None
        return self._ask(quantity, name)

    def _ask(self, quantity: str, *names: str, arguments: tuple[int, ...] = (), handle: Any = None) -> Any | None:
        """The first form of a question that exists here; None, with the reason kept, if it is refused."""
        mismatch = getattr(self._library, "NVMLLibraryMismatchError", self._library.NVMLError)
        for name in names:
            function = getattr(self._library, name, None)
            if function is None:
                self._reasons[quantity] = f"this nvidia-ml-py has no {name}; pip install -U nvidia-ml-py"
                continue
            try:
                return function(handle or self._handle, *arguments)
            except (self._library.NVMLError, mismatch) as error:
                self._reasons[quantity] = explain(error)
                if not is_absent(error):
                    return None
        return None
