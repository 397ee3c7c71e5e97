"""Memory of a process tree, or of the machine, and of its GPUs: the current reading and the peaks so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.gpu_pids import PidSpace, is_machines_namespace
from slr_bench.probes.host import HostMemory, read_host_memory
from slr_bench.probes.nvml import GpuReading, GpuState, Nvml, load_library
from slr_bench.probes.tree import ProcessMemory, pss_bytes, read_process, tree_pids
from slr_bench.probes.visible import list_devices

PSS_PERIOD_S: Final = 2.0
PSS_SHARE: Final = 0.01
"""The most of the time that reading PSS may take, as walking page tables delays the page faults of the process."""


class Gpu(NamedTuple):
    """A device that is read."""

    number: int
    name: str
    nvml: Nvml


class GpuNow(NamedTuple):
    """One reading of a device."""

    number: int
    name: str
    reading: GpuReading
    state: GpuState
    reasons: dict[str, str]
    """Why a value is None, by field."""


class LiveReading(NamedTuple):
    """One reading of everything. ``processes`` is empty if the whole machine is read."""

    memory: HostMemory
    """Used and limit of the tightest cgroup around the process, or of the machine."""
    processes: tuple[ProcessMemory, ...]
    pss_by_pid: dict[int, int | None]
    """PSS of each process when it was last read, which is expensive and therefore rare."""
    gpus: tuple[GpuNow, ...]
    pss_age_s: float | None = None
    """Seconds since PSS was read; None if it was not. Every other figure was read now."""

    @property
    def rss_bytes(self) -> int | None:
        """RSS of all processes, in which a shared page counts once per process."""
        return sum(process.rss_bytes for process in self.processes) if self.processes else None

    @property
    def pss_bytes(self) -> int | None:
        """PSS of all processes ``pss_age_s`` ago, in which shared pages count once.

        None if a process could not be read, or has begun since then: a part is not the tree's.
        """
        sizes = [self.pss_by_pid.get(process.pid) for process in self.processes]
        return sum(size or 0 for size in sizes) if sizes and None not in sizes else None

    @property
    def ram_bytes(self) -> int:
        """The RAM at this moment; ``ram_kind`` names the figure."""
        return self.memory.used_bytes if self.rss_bytes is None else self.rss_bytes

    @property
    def ram_kind(self) -> str:
        """``RSS`` (a shared page counts once per process) or ``used`` (the whole machine or cgroup)."""
        return "RSS" if self.processes else "used"

    @property
    def used_fraction(self) -> float:
        """Used memory as a fraction of the limit that applies."""
        return self.memory.used_bytes / self.memory.limit_bytes


@dataclass
class Peaks:
    """The largest values of all readings. They are lower bounds, as peaks between readings are missed.

    Only the kernel's high-water marks miss nothing. Each is that of one process.
    """

    readings: int = 0
    most_processes: int = 0
    """Largest number of processes at one reading."""
    ram_bytes: dict[str, int] = field(default_factory=dict)
    """Kind of figure -> its peak, because PSS and RSS do not compare."""
    used_bytes: int = 0
    high_water_bytes: int | None = None
    """The kernel's high-water mark of the first process."""
    largest_mark_bytes: int = 0
    """The largest of the kernel's high-water marks of all processes; 0 if none could be read."""
    gpu_bytes: dict[int, int] = field(default_factory=dict)
    """Device -> the processes' bytes, if the driver reports them."""
    device_bytes: dict[int, int] = field(default_factory=dict)

    def add(self, reading: LiveReading) -> None:
        """Add a reading."""
        self.readings += 1
        self.most_processes = max(self.most_processes, len(reading.processes))
        _raise_to(self.ram_bytes, reading.ram_kind, reading.ram_bytes)
        _raise_to(self.ram_bytes, "PSS", reading.pss_bytes)
        self.used_bytes = max(self.used_bytes, reading.memory.used_bytes)
        marks = [process.peak_rss_bytes for process in reading.processes]
        if marks and marks[0] is not None:
            self.high_water_bytes = max(self.high_water_bytes or 0, marks[0])
        self.largest_mark_bytes = max([self.largest_mark_bytes, *filter(None, marks)])
        for gpu in reading.gpus:
            _raise_to(self.gpu_bytes, gpu.number, gpu.reading.process_bytes)
            _raise_to(self.device_bytes, gpu.number, gpu.reading.device_bytes)

    @property
    def is_exact(self) -> bool:
        """Return whether ``peak_bytes`` misses nothing up to the last reading: the mark of the only process."""
        return self.most_processes == 1 and bool(self.largest_mark_bytes)

    @property
    def peak_bytes(self) -> int:
        """The largest RAM that is known: a reading, or the kernel's mark of one process if that is larger."""
        return max(self.ram_bytes.get("RSS", self.used_bytes), self.largest_mark_bytes)


def _raise_to(peaks: dict[Any, int], key: Any, value: int | None) -> None:
    if value is not None:
        peaks[key] = max(peaks.get(key, value), value)


class LiveReader:
    """Read the process tree of ``pid``, or with None the whole machine; ``peaks`` has the largest values.

    Tests replace ``read_tree``, ``read_one``, ``read_pss``, ``read_host`` and ``clock``, which is in seconds.
    """

    def __init__(
        self,
        pid: int | None,
        gpus: Sequence[Gpu] = (),
        clock: Callable[[], float] = time.monotonic,
        read_tree: Callable[[int], list[int]] = tree_pids,
        read_one: Callable[[int], ProcessMemory | None] = read_process,
        read_pss: Callable[[int], int | None] = pss_bytes,
        read_host: Callable[[int | str], HostMemory] = lambda pid: read_host_memory(pid=pid),
    ) -> None:
        self._pid, self._gpus, self._clock = pid, list(gpus), clock
        self._read_tree, self._read_one, self._read_pss, self._read_host = read_tree, read_one, read_pss, read_host
        self._pss: dict[int, int | None] = {}
        self._pss_pids: set[int] = set()
        self._last_pss_s = self._next_pss_s = clock()
        self._is_machines = is_machines_namespace()
        self.peaks = Peaks()

    def read(self) -> LiveReading | None:
        """Read once; None if the process has ended."""
        processes = self._processes()
        if self._pid is not None and not processes:
            return None
        memory = self._read_host("self" if self._pid is None else self._pid)
        gpus = tuple(self._read_gpu(gpu, processes) for gpu in self._gpus)
        alive = {process.pid for process in processes}
        shares = {pid: size for pid, size in self._pss.items() if pid in alive}
        age_s = max(0.0, self._clock() - self._last_pss_s) if shares else None
        reading = LiveReading(memory, processes, shares, gpus, age_s)
        self.peaks.add(reading)
        return reading

    def _processes(self) -> tuple[ProcessMemory, ...]:
        """Return the tree, its root first and the others by size; empty if the root has ended."""
        if self._pid is None:
            return ()
        pids = self._read_tree(self._pid)
        processes = [process for pid in pids if (process := self._read_one(pid)) is not None]
        if not any(process.pid == self._pid for process in processes):
            return ()
        now_s = self._clock()
        changed = set(pids) != self._pss_pids and now_s >= self._last_pss_s + PSS_PERIOD_S
        if now_s >= self._next_pss_s or changed:  # a sum without a new member is that of the old tree
            self._read_pss_of(pids)
        return tuple(sorted(processes, key=lambda process: (process.pid != self._pid, -process.rss_bytes)))

    def _read_pss_of(self, pids: list[int]) -> None:
        start_s = self._clock()
        self._pss, self._pss_pids = {}, set(pids)
        for pid in pids:
            try:
                size = self._read_pss(pid)
            except PermissionError:
                self._pss[pid] = None
                continue
            if size is not None:
                self._pss[pid] = size
        self._last_pss_s = self._clock()
        self._next_pss_s = self._last_pss_s + max(PSS_PERIOD_S, (self._last_pss_s - start_s) / PSS_SHARE)

    def _read_gpu(self, gpu: Gpu, processes: Sequence[ProcessMemory]) -> GpuNow:
        gpu.nvml.space = PidSpace(frozenset(process.pid for process in processes), self._is_machines)
        reading, state = gpu.nvml.read(), gpu.nvml.state()
        fields = {**reading._asdict(), **state._asdict()}
        del fields["total_bytes"]  # it is None when device_bytes is
        reasons = {name: gpu.nvml.why(name) for name, value in fields.items() if value is None}
        if self._pid is None:
            reading = reading._replace(process_bytes=None)
            reasons["process_bytes"] = "the whole machine is watched, not a process"
        return GpuNow(gpu.number, gpu.name, reading, state, reasons)


def open_gpus(library: Any) -> list[Gpu]:
    """Open every device of the machine that can be opened.

    Raises:
        ProbeUnavailableError: The driver does not report the number of devices.
    """
    gpus = []
    for device in list_devices(library):
        try:
            gpus.append(Gpu(device.number, device.name, Nvml(library, device.uuid)))
        except ProbeUnavailableError:  # it fell off the bus in between
            continue
    return gpus


class Watcher(NamedTuple):
    """A reader of memory, and the reason if it reads no GPU."""

    reader: LiveReader
    no_gpu: str | None


def open_watcher(pid: int | None) -> Watcher:
    """Open the meters of a process tree without this process, or those of the whole machine."""
    own = os.getpid()  # otherwise a watcher that was started from the shell that it watches would count itself

    def read_tree(root: int) -> list[int]:
        return [number for number in tree_pids(root) if number != own or number == root]

    gpus, no_gpu = [], None
    try:
        gpus = open_gpus(load_library())
    except ProbeUnavailableError as error:
        no_gpu = str(error)
    return Watcher(LiveReader(pid, gpus, read_tree=read_tree), no_gpu)
