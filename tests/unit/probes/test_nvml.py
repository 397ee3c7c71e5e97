"""NVML by a hand-written fake: what the driver does not say is null with a reason, never 0."""

import os
import sys
from types import SimpleNamespace

import pytest

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.nvml import EnergyProbe, GpuReading, Nvml, load_library


class FakeError(Exception):
    pass


class FakeNvml:
    """A library with one device. A function named in ``refused`` raises as the driver would."""

    NVMLError = FakeError

    def __init__(self, refused=(), processes=(), energies_mj=()):
        self.refused = set(refused)
        self.processes = processes
        self.energies_mj = iter(energies_mj)
        self.asked = []

    def _answer(self, name, value):
        self.asked.append(name)
        if name in self.refused:
            raise FakeError("Insufficient Permissions")
        return value

    def nvmlInit(self):
        return self._answer("nvmlInit", None)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return self._answer("nvmlDeviceGetHandleByUUID", ("uuid", uuid))

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._answer("nvmlDeviceGetHandleByIndex", ("index", index))

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._answer("nvmlDeviceGetMemoryInfo", SimpleNamespace(used=700, total=1000, free=300))

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=0, memory=5))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        listed = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]
        return self._answer("nvmlDeviceGetComputeRunningProcesses", listed)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("nvmlDeviceGetTotalEnergyConsumption", next(self.energies_mj, None))


OWN, FOREIGN = os.getpid(), os.getpid() + 1


def test_everything_the_driver_says_is_read():
    assert Nvml(FakeNvml(processes=[(FOREIGN, 50), (OWN, 400)])).read() == GpuReading(400, 700, 1000, 0)


@pytest.mark.parametrize(
    "processes", [[], [(FOREIGN, 400)], [(OWN, None)]], ids=["no process", "host PIDs", "number hidden"]
)
def test_a_process_the_driver_does_not_count_is_unknown_not_zero(processes):
    reading = Nvml(FakeNvml(processes=processes)).read()
    assert reading.process_bytes is None
    assert reading.device_bytes == 700


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ("nvmlDeviceGetMemoryInfo", GpuReading(400, None, None, 0)),
        ("nvmlDeviceGetUtilizationRates", GpuReading(400, 700, 1000, None)),
        ("nvmlDeviceGetComputeRunningProcesses", GpuReading(None, 700, 1000, 0)),
    ],
)
def test_one_refused_question_silences_no_other(refused, expected):
    assert Nvml(FakeNvml([refused], [(OWN, 400)])).read() == expected


def test_a_device_that_disappears_leaves_unknowns():
    library = FakeNvml(processes=[(OWN, 400)])
    nvml = Nvml(library)
    library.refused = {name for name in dir(library) if name.startswith("nvmlDeviceGet")}
    assert nvml.read() == GpuReading(None, None, None, None)
    assert nvml.energy_mj() is None


def test_the_device_is_found_by_uuid_where_torch_gives_one():
    with_uuid, without = FakeNvml(), FakeNvml()
    Nvml(with_uuid, "GPU-1", index=3)
    Nvml(without, index=3)
    assert (with_uuid.asked, without.asked) == (["nvmlDeviceGetHandleByUUID"], ["nvmlDeviceGetHandleByIndex"])


@pytest.mark.parametrize("uuid", ["GPU-1", None])
def test_a_device_that_is_not_there_is_unavailable(uuid):
    library = FakeNvml(["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByIndex"])
    with pytest.raises(ProbeUnavailableError, match="Insufficient Permissions") as caught:
        Nvml(library, uuid)
    assert isinstance(caught.value.__cause__, FakeError)


def test_the_library_is_initialised(monkeypatch):
    library = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert load_library() is library
    assert library.asked == ["nvmlInit"]


def test_a_driver_that_does_not_match_is_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(["nvmlInit"]))
    with pytest.raises(ProbeUnavailableError, match="NVML: Insufficient Permissions"):
        load_library()


def test_a_library_that_is_not_installed_is_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ProbeUnavailableError, match="nvidia-ml-py"):
        load_library()


def energy_of(nvml: Nvml | None, reason: str = ""):
    with EnergyProbe(nvml, reason) as probe:
        pass
    return probe.readings()["energy_j"]


def test_energy_is_the_difference_in_joule():
    metric = energy_of(Nvml(FakeNvml(energies_mj=[5_000, 7_500])))
    assert (metric.value, metric.unit) == (2.5, "J")


@pytest.mark.parametrize("energies_mj", [[], [5_000], [None, 7_500]])
def test_without_two_counter_readings_there_is_no_energy(energies_mj):
    metric = energy_of(Nvml(FakeNvml(energies_mj=energies_mj)))
    assert metric.value is None
    assert "no energy counter" in metric.reason


def test_without_a_gpu_the_reason_is_passed_on():
    metric = energy_of(None, "the cell ran on the CPU")
    assert (metric.value, metric.reason) == (None, "the cell ran on the CPU")
