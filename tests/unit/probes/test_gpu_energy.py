"""Tests of energy, the difference of a counter that may be refused, disappear or be reset."""

import pytest
from fake_nvml import FakeCard, FakeNvml

from slr_bench.probes.gpu import EnergyProbe
from slr_bench.probes.nvml import Nvml


def energy_of(nvml: Nvml | None, reason: str = ""):
    with EnergyProbe(nvml, reason) as probe:
        pass
    return probe.readings()["energy_j"]


def test_energy_is_the_difference_in_joule():
    metric = energy_of(Nvml(FakeNvml(FakeCard(energies_mj=[5_000, 7_500]))))
    assert (metric.value, metric.unit) == (2.5, "J")


@pytest.mark.parametrize("energies_mj", [[], [5_000]])
def test_energy_is_unavailable_without_two_counter_readings(energies_mj):
    metric = energy_of(Nvml(FakeNvml(FakeCard(energies_mj=energies_mj))))
    assert metric.value is None
    assert metric.reason.startswith("no energy counter: Not Supported")


def test_energy_is_unavailable_after_a_counter_reset():
    metric = energy_of(Nvml(FakeNvml(FakeCard(energies_mj=[7_500, 100]))))
    assert (metric.value, metric.reason) == (
        None,
        "the energy counter went back: the driver was loaded again in between",
    )


def test_energy_without_a_gpu_has_the_reason():
    metric = energy_of(None, "the cell ran on the CPU")
    assert (metric.value, metric.reason) == (None, "the cell ran on the CPU")
