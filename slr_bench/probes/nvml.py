"""NVIDIA's management library (NVML): one device as the driver sees it. The only module that imports pynvml.

Each query fails on its own: its value is then None, and ``why`` has the reason. An unknown value is never 0.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes import gpu_pids
from slr_bench.probes.gpu_pids import PidSpace, read_pid_space

TEMPERATURE_GPU: Final = 0  # NVML_TEMPERATURE_GPU
CLOCK_SM: Final = 1  # NVML_CLOCK_SM
CLOCK_MEMORY: Final = 2  # NVML_CLOCK_MEM
MEMORY_V2: Final = 0x02000028  # nvmlMemory_v2: its "used" is without what the driver reserves for itself
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
"""Errors of a function, or of a version of it, that does not exist here; an older form may."""

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
"""Idle, configured clocks, clocks in step with another card, clocks for a display: none of them slows the work."""
_SHARED = "a MIG instance has none of its own, and the card's counts its neighbours too"


class GpuReading(NamedTuple):
    """The quantities of a GPU that change quickly; None if the driver does not report them."""

    process_bytes: int | None
    device_bytes: int | None
    total_bytes: int | None


class GpuState(NamedTuple):
    """The quantities of a GPU that change slowly; None if the driver does not report them."""

    utilization_ratio: float | None
    temperature_c: int | None
    sm_clock_hz: int | None
    memory_clock_hz: int | None
    power_w: float | None
    throttle_reasons: tuple[str, ...] | None


def explain(error: Exception) -> str:
    """Return NVML's own text with the cure, such as ``'Not Supported: ...'``."""
    cure = _CURES.get(getattr(error, "value", None) or 0)
    text = " ".join(str(error).split())
    return f"{text}: {cure}" if cure else text


def is_absent(error: Exception) -> bool:
    """Return whether an older form of the function may exist; nvidia-ml-py itself raises errors without a value."""
    return getattr(error, "value", None) in _ABSENT or not hasattr(error, "value")


def throttle_words(bits: int) -> tuple[str, ...]:
    """Return the names of the clocks event reasons that slow the work down; an unknown one is named by its number."""
    numbers = [1 << bit for bit in range(bits.bit_length()) if bits & (1 << bit)]
    return tuple(_THROTTLES.get(number, f"reason {number:#x}") for number in numbers if not number & _NO_THROTTLES)


def load_library() -> Any:
    """Return ``pynvml``, initialised.

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
    """One device or MIG instance. ``space`` has the process whose memory is read, by default this one."""

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
        self.is_mig_instance = bool(self._query("mig", "nvmlDeviceIsMigDeviceHandle"))
        self._card = self._handle
        if self.is_mig_instance:  # temperature, clocks and throttling are those of the whole card
            self._card = self._query("card", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle") or self._handle
        # One version for all readings: differences between versions would mean nothing.
        self._memory_arguments: tuple[int, ...] = (MEMORY_V2,) if self._has_memory_v2() else ()

    def why(self, quantity: str) -> str:
        """Return why a quantity (named as the field or the method) was None when it was last read."""
        return self._reasons.get(quantity, "it was not read")

    @property
    def memory_source(self) -> str:
        """The source of the device's bytes, which may include those that the driver reserves."""
        return "NVML device" if self._memory_arguments else "NVML device, driver-reserved included"

    @property
    def card_source(self) -> str:
        """The source of temperature, clocks and throttling."""
        return "NVML, of the card around the MIG instance" if self.is_mig_instance else "NVML"

    def is_mig_parent(self) -> bool:
        """Return whether it is a card split into MIG instances, in which work runs instead of on the card."""
        mode = None if self.is_mig_instance else self._query("mig_mode", "nvmlDeviceGetMigMode")
        return bool(mode and mode[0])

    def name(self) -> str | None:
        """Return the product's name."""
        name = self._query("name", "nvmlDeviceGetName")
        return name.decode() if isinstance(name, bytes) else name

    def read(self) -> GpuReading:
        """Read the bytes of the process, in use on the device, and of the whole device."""
        memory = self._query("device_bytes", "nvmlDeviceGetMemoryInfo", arguments=self._memory_arguments)
        return GpuReading(
            process_bytes=self.process_bytes(),
            device_bytes=int(memory.used) if memory else None,
            total_bytes=int(memory.total) if memory else None,
        )

    def state(self) -> GpuState:
        """Read utilisation, temperature, clocks, power and throttling."""
        rates = self._query("utilization_ratio", "nvmlDeviceGetUtilizationRates")
        power_mw = self._query_instance("power_w", "nvmlDeviceGetPowerUsage")
        return GpuState(
            utilization_ratio=rates.gpu / 100 if rates else None,
            temperature_c=self._query_card("temperature_c", "nvmlDeviceGetTemperature", arguments=(TEMPERATURE_GPU,)),
            sm_clock_hz=self._clock_hz("sm_clock_hz", CLOCK_SM),
            memory_clock_hz=self._clock_hz("memory_clock_hz", CLOCK_MEMORY),
            power_w=None if power_mw is None else power_mw / 1000,
            throttle_reasons=self.throttle_reasons(),
        )

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Return the reasons that slow the card's clocks down; idling and configured clocks do not count."""
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        bits = self._query_card("throttle_reasons", *names)
        return None if bits is None else throttle_words(int(bits))

    def energy_mj(self) -> int | None:
        """Return the energy since the driver was loaded, in millijoules; None before Volta or without permission."""
        value = self._query_instance("energy_mj", "nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def process_bytes(self) -> int | None:
        """Return the bytes that the driver counts for the process, its context included."""
        size: int | None = self._from_list("process_bytes", gpu_pids.own_bytes, "Compute")
        if size is None:  # MPS clients are in a list of their own
            size = self._from_list("process_bytes", gpu_pids.own_bytes, "Compute", "MPSCompute")
        return size

    def other_pids(self) -> tuple[int, ...] | None:
        """Return the other processes on the device, by the driver's numbers.

        None if that is unknown: in a container any of them can be this one.
        """
        pids: tuple[int, ...] | None = self._from_list(
            "other_pids", gpu_pids.other_pids, "Compute", "MPSCompute", "Graphics"
        )
        return pids

    def is_listed(self) -> bool:
        """Return whether the driver lists the process, which then has a context on the device."""
        return bool((self._listed("is_listed", "Compute", "MPSCompute") or {}).keys() & self.space.pids)

    def _from_list(self, quantity: str, judge: Any, *kinds: str) -> Any | None:
        listed = self._listed(quantity, *kinds)
        answer = None if listed is None else judge(listed, self.space)
        if isinstance(answer, str):
            self._reasons[quantity] = answer
            return None
        return answer

    def _listed(self, quantity: str, *kinds: str) -> dict[int, int | None] | None:
        """Return bytes by PID, or None if the first list cannot be read; many devices lack the others."""
        listed: dict[int, int | None] = {}
        for kind in kinds:
            name = f"nvmlDeviceGet{kind}RunningProcesses"
            processes = self._query(quantity if kind == kinds[0] else kind, name, f"{name}_v2")
            if processes is None and kind == kinds[0]:
                return None
            for process in processes or ():
                listed.setdefault(int(process.pid), process.usedGpuMemory)
        return listed

    def _clock_hz(self, quantity: str, kind: int) -> int | None:
        clock_mhz = self._query_card(quantity, "nvmlDeviceGetClockInfo", arguments=(kind,))
        return None if clock_mhz is None else int(clock_mhz) * 1_000_000

    def _has_memory_v2(self) -> bool:
        try:
            self._library.nvmlDeviceGetMemoryInfo(self._handle, MEMORY_V2)
        except self._library.NVMLError as error:
            return not is_absent(error) and getattr(error, "value", None) != NOT_SUPPORTED
        return True

    def _query_card(self, quantity: str, *names: str, arguments: tuple[int, ...] = ()) -> Any | None:
        return self._query(quantity, *names, arguments=arguments, handle=self._card)

    def _query_instance(self, quantity: str, name: str) -> Any | None:
        if self.is_mig_instance:
            self._reasons[quantity] = _SHARED
            return None
        return self._query(quantity, name)

    def _query(self, quantity: str, *names: str, arguments: tuple[int, ...] = (), handle: Any = None) -> Any | None:
        """Call the first of the functions that exists here; return None and keep the reason if it fails."""
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
