"""NVML by hand: cards of known figures, and every way in which a driver refuses.

A function in ``refused`` raises that error code for every card, ``card.refused`` for one; a function in ``missing`` is
not in the library at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED = 3, 4, 6, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, VERSION_MISMATCH = 12, 13, 15, 18
ARGUMENT_VERSION_MISMATCH = 25
TEXTS = {
    NOT_SUPPORTED: "Not Supported",
    NO_PERMISSION: "Insufficient Permissions",
    NOT_FOUND: "Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    FUNCTION_NOT_FOUND: "Function Not Found",
    GPU_IS_LOST: "GPU is lost",
    VERSION_MISMATCH: "RM has detected an NVML/RM version mismatch.",
    ARGUMENT_VERSION_MISMATCH: "Argument version mismatch",
}
RESERVED = 60


class FakeNvmlError(Exception):
    def __init__(self, value):
        super().__init__(TEXTS.get(value, "Unknown Error"))
        self.value = value


class FakeMismatchError(Exception):
    """The error that nvidia-ml-py raises by itself if the driver lacks the newest form of a function."""


@dataclass
class FakeCard:
    """One card, or an instance of ``parent``."""

    uuid: str = "GPU-1"
    name: str = "Fake GPU"
    used: int = 700
    total: int = 1000
    processes: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)
    """Kind of list (``Compute``, ``MPSCompute``, ``Graphics``) -> (pid, bytes)."""
    utilization: int = 35
    temperature: int = 61
    clocks: dict[int, int] = field(default_factory=lambda: {1: 1410, 2: 5001})
    power_mw: int = 71_500
    event_bits: int = 0
    energies_mj: list[int] = field(default_factory=list)
    parent: FakeCard | None = None
    is_cut: bool = False
    refused: dict[str, int] = field(default_factory=dict)

    def lose(self):
        """It falls off the bus: everything but the library itself refuses from now on."""
        names = [name for name in dir(FakeNvml) if name.startswith("nvmlDeviceGet")]
        self.refused = dict.fromkeys([*names, "nvmlDeviceGetMemoryInfo_v2"], GPU_IS_LOST)


class FakeNvml:
    NVMLError = FakeNvmlError
    NVMLLibraryMismatchError = FakeMismatchError

    def __init__(self, *cards, refused=None, missing=(), old_lists=False):
        self.cards = list(cards) or [FakeCard()]
        self.refused = dict(refused or {})
        self.missing = set(missing)
        self.old_lists = old_lists
        self.asked = []

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "missing"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def _note(self, name, card=None):
        self.asked.append(name)
        code = self.refused.get(name) or (card.refused.get(name) if card else None)
        if code:
            raise FakeNvmlError(code)

    def nvmlInit(self):
        self._note("nvmlInit")

    def nvmlDeviceGetCount(self):
        self._note("nvmlDeviceGetCount")
        return sum(card.parent is None for card in self.cards)

    def nvmlSystemGetDriverVersion(self):
        self._note("nvmlSystemGetDriverVersion")
        return "560.35.03"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        card = next((card for card in self.cards if card.uuid == uuid), None)
        self._note("nvmlDeviceGetHandleByUUID", card)
        if card is None:
            raise FakeNvmlError(NOT_FOUND)
        return card

    def nvmlDeviceGetHandleByIndex(self, index):
        whole = [card for card in self.cards if card.parent is None]
        self._note("nvmlDeviceGetHandleByIndex", whole[index] if index < len(whole) else None)
        if index >= len(whole):
            raise FakeNvmlError(NOT_FOUND)
        return whole[index]

    def _answer(self, name, card, value):
        self._note(name, card)
        return value

    def nvmlDeviceGetUUID(self, card):
        return self._answer("nvmlDeviceGetUUID", card, card.uuid)

    def nvmlDeviceGetName(self, card):
        return self._answer("nvmlDeviceGetName", card, card.name)

    def nvmlDeviceIsMigDeviceHandle(self, card):
        return self._answer("nvmlDeviceIsMigDeviceHandle", card, card.parent is not None)

    def nvmlDeviceGetMigMode(self, card):
        return self._answer("nvmlDeviceGetMigMode", card, [int(card.is_cut), int(card.is_cut)])

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card):
        return self._answer("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", card, card.parent)

    def nvmlDeviceGetMemoryInfo(self, card, version=None):
        self._note("nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo", card)
        return SimpleNamespace(used=card.used + (0 if version else RESERVED), total=card.total)

    def nvmlDeviceGetUtilizationRates(self, card):
        return self._answer("nvmlDeviceGetUtilizationRates", card, SimpleNamespace(gpu=card.utilization, memory=5))

    def nvmlDeviceGetTemperature(self, card, sensor):
        assert sensor == 0
        return self._answer("nvmlDeviceGetTemperature", card, card.temperature)

    def nvmlDeviceGetClockInfo(self, card, kind):
        return self._answer("nvmlDeviceGetClockInfo", card, card.clocks[kind])

    def nvmlDeviceGetPowerUsage(self, card):
        return self._answer("nvmlDeviceGetPowerUsage", card, card.power_mw)

    def nvmlDeviceGetCurrentClocksEventReasons(self, card):
        return self._answer("nvmlDeviceGetCurrentClocksEventReasons", card, card.event_bits)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card):
        return self._answer("nvmlDeviceGetCurrentClocksThrottleReasons", card, card.event_bits)

    def nvmlDeviceGetTotalEnergyConsumption(self, card):
        self._note("nvmlDeviceGetTotalEnergyConsumption", card)
        if not card.energies_mj:
            raise FakeNvmlError(NOT_SUPPORTED)
        return card.energies_mj.pop(0)

    def _list(self, kind, card, name):
        self._note(name, card)
        if self.old_lists and not name.endswith("_v2"):
            raise FakeMismatchError("Unversioned function called and the pyNVML version does not match")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.processes.get(kind, [])]

    def nvmlDeviceGetComputeRunningProcesses(self, card):
        return self._list("Compute", card, "nvmlDeviceGetComputeRunningProcesses")

    def nvmlDeviceGetComputeRunningProcesses_v2(self, card):
        return self._list("Compute", card, "nvmlDeviceGetComputeRunningProcesses_v2")

    def nvmlDeviceGetMPSComputeRunningProcesses(self, card):
        return self._list("MPSCompute", card, "nvmlDeviceGetMPSComputeRunningProcesses")

    def nvmlDeviceGetMPSComputeRunningProcesses_v2(self, card):
        return self._list("MPSCompute", card, "nvmlDeviceGetMPSComputeRunningProcesses_v2")

    def nvmlDeviceGetGraphicsRunningProcesses(self, card):
        return self._list("Graphics", card, "nvmlDeviceGetGraphicsRunningProcesses")

    def nvmlDeviceGetGraphicsRunningProcesses_v2(self, card):
        return self._list("Graphics", card, "nvmlDeviceGetGraphicsRunningProcesses_v2")
