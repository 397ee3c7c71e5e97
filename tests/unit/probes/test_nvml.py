"""Tests of NVML with a fake library: a value that the driver does not report is None with its own reason, never 0."""

import sys

import pytest
from fake_nvml import (
    ARGUMENT_VERSION_MISMATCH,
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESERVED,
    VERSION_MISMATCH,
    FakeCard,
    FakeNvml,
    FakeNvmlError,
)
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.gpu_pids import PidSpace
from slr_bench.probes.nvml import GpuReading, GpuState, Nvml, load_library, throttle_words

OWN, FOREIGN = 41, 42
MACHINE = PidSpace(frozenset({OWN}), is_machines=True)
CONTAINER = PidSpace(frozenset({OWN}), is_machines=False)


def device(*compute, space=MACHINE, library=None, **fields):
    """A device whose compute list is ``compute``."""
    card = FakeCard(processes={"Compute": list(compute)}, **fields)
    return Nvml(library or FakeNvml(card), "GPU-1", space=space)


def test_everything_that_the_driver_reports_is_read():
    nvml = device((FOREIGN, 50), (OWN, 400), event_bits=0x1 | 0x4 | 0x40)
    assert nvml.read() == GpuReading(400, 700, 1000)
    throttles = ("power cap", "thermal slowdown (hardware)")
    assert nvml.state() == GpuState(0.35, 61, 1_410_000_000, 5_001_000_000, 71.5, throttles)
    assert nvml.other_pids() == (FOREIGN,)
    assert nvml.name() == "Fake GPU"
    assert nvml.is_listed()


QUESTIONS = {
    "process_bytes": "nvmlDeviceGetComputeRunningProcesses",
    "device_bytes": "nvmlDeviceGetMemoryInfo_v2",
    "utilization_ratio": "nvmlDeviceGetUtilizationRates",
    "temperature_c": "nvmlDeviceGetTemperature",
    "power_w": "nvmlDeviceGetPowerUsage",
    "throttle_reasons": "nvmlDeviceGetCurrentClocksEventReasons",
    "sm_clock_hz": "nvmlDeviceGetClockInfo",
}


@pytest.mark.parametrize("code", [NO_PERMISSION, GPU_IS_LOST])
@pytest.mark.parametrize("quantity", QUESTIONS)
def test_refused_query_affects_no_other_and_has_its_own_reason(quantity, code):
    nvml = device((OWN, 400), library=None)
    whole = {**nvml.read()._asdict(), **nvml.state()._asdict()}
    nvml._handle.refused = {QUESTIONS[quantity]: code}
    seen = {**nvml.read()._asdict(), **nvml.state()._asdict()}
    silent = {
        "device_bytes": {"device_bytes", "total_bytes"},
        "sm_clock_hz": {"sm_clock_hz", "memory_clock_hz"},
    }.get(quantity, {quantity})
    assert {name for name, value in seen.items() if value is None} == silent
    assert {name: value for name, value in seen.items() if name not in silent} == {
        name: value for name, value in whole.items() if name not in silent
    }
    assert {NO_PERMISSION: "Insufficient Permissions: ask as root", GPU_IS_LOST: "GPU is lost: it fell off"}[
        code
    ] in nvml.why(quantity)


@pytest.mark.parametrize(
    ("listed", "space", "reason"),
    [
        ([], MACHINE, "it has not used this GPU"),
        ([(FOREIGN, 400)], MACHINE, "it has not used this GPU"),
        ([(OWN, None)], MACHINE, "without its bytes, as it does under WSL"),
        ([(FOREIGN, 400), (43, 1)], CONTAINER, "lists 2 PIDs, none this process's: it counts outside"),
        ([], CONTAINER, "hides them from this container"),
        ([(7, 400), (OWN, 90)], PidSpace(frozenset({7, OWN}), False), "one of them can be another process"),
    ],
    ids=["no process", "others only", "number hidden (WSL)", "host PIDs", "hidden list", "two numbers"],
)
def test_bytes_are_unknown_for_a_process_that_the_driver_does_not_count(listed, space, reason):
    nvml = device(*listed, space=space)
    assert nvml.read() == GpuReading(None, 700, 1000)
    assert reason in nvml.why("process_bytes")


def test_a_container_in_which_proc_shows_the_hosts_number_is_matched_by_it():
    both = PidSpace(frozenset({4711, 7}), is_machines=False)
    assert device((4711, 400), space=both).process_bytes() == 400
    assert device((7, 300), space=both).process_bytes() == 300


def test_bytes_are_zero_for_a_process_that_uses_nothing():
    assert device((OWN, 0)).process_bytes() == 0


def test_the_bytes_of_a_tree_add_up():
    tree = PidSpace(frozenset({OWN, 43, 44}), is_machines=True)
    assert device((OWN, 400), (FOREIGN, 9), (44, 50), space=tree).process_bytes() == 450
    assert device((OWN, 400), (44, None), space=tree).process_bytes() is None


def test_mps_clients_are_read_from_their_own_list():
    card = FakeCard(processes={"Compute": [(FOREIGN, 30)], "MPSCompute": [(OWN, 400)]})
    nvml = Nvml(FakeNvml(card), "GPU-1", space=MACHINE)
    assert (nvml.process_bytes(), nvml.other_pids(), nvml.is_listed()) == (400, (FOREIGN,), True)


@pytest.mark.parametrize(
    ("listed", "space", "others"),
    [
        ([], MACHINE, ()),
        ([(OWN, 1)], MACHINE, ()),
        ([(50, None), (FOREIGN, 1)], MACHINE, (FOREIGN, 50)),
        ([(OWN, 1), (FOREIGN, 1)], CONTAINER, (FOREIGN,)),
        ([(FOREIGN, 1)], CONTAINER, None),
        ([], CONTAINER, None),
    ],
)
def test_other_pids_are_returned_only_if_they_cannot_be_this_process(listed, space, others):
    nvml = device(*listed, space=space)
    assert nvml.other_pids() == others
    assert others is not None or "container" in nvml.why("other_pids")


def test_graphics_processes_count_as_others_and_a_refused_list_hides_no_other():
    card = FakeCard(processes={"Compute": [(OWN, 1)], "Graphics": [(9, 5)]})
    nvml = Nvml(FakeNvml(card), "GPU-1", space=MACHINE)
    assert nvml.other_pids() == (9,)
    card.refused = {"nvmlDeviceGetGraphicsRunningProcesses": NOT_SUPPORTED}
    assert nvml.other_pids() == ()
    card.refused = {"nvmlDeviceGetComputeRunningProcesses": NO_PERMISSION}
    assert nvml.other_pids() is None
    assert "Insufficient Permissions" in nvml.why("other_pids")


def test_a_device_that_disappears_leaves_unknowns_with_the_reason():
    nvml = device((OWN, 400), energies_mj=[5])
    nvml._handle.lose()
    assert nvml.read() == GpuReading(None, None, None)
    assert nvml.state() == GpuState(None, None, None, None, None, None)
    assert (nvml.energy_mj(), nvml.other_pids(), nvml.is_listed()) == (None, None, False)
    for quantity in (*QUESTIONS, "energy_mj", "other_pids"):
        assert "GPU is lost" in nvml.why(quantity)


@pytest.mark.parametrize("code", [FUNCTION_NOT_FOUND, NOT_SUPPORTED, ARGUMENT_VERSION_MISMATCH])
def test_old_driver_counts_its_own_reserve_as_used_and_the_source_says_so(code):
    library = FakeNvml(FakeCard(), refused={"nvmlDeviceGetMemoryInfo_v2": code})
    nvml = Nvml(library, "GPU-1", space=MACHINE)
    assert nvml.read().device_bytes == 700 + RESERVED
    assert "driver-reserved included" in nvml.memory_source
    assert "reserved" not in device().memory_source


def test_kind_of_used_bytes_never_changes_during_a_run():
    nvml = device()
    nvml._handle.refused = {"nvmlDeviceGetMemoryInfo_v2": FUNCTION_NOT_FOUND}
    assert nvml.read().device_bytes is None


def test_older_functions_are_called_with_an_older_driver():
    card = FakeCard(processes={"Compute": [(OWN, 400)]}, event_bits=0x8)
    library = FakeNvml(card, old_lists=True, refused={"nvmlDeviceGetCurrentClocksEventReasons": FUNCTION_NOT_FOUND})
    nvml = Nvml(library, "GPU-1", space=MACHINE)
    assert nvml.process_bytes() == 400
    assert nvml.throttle_reasons() == ("hardware slowdown",)


def test_a_python_library_without_the_function_is_unknown_with_the_cure():
    nvml = device(library=FakeNvml(FakeCard(), missing=["nvmlDeviceGetTemperature"]))
    assert nvml.state().temperature_c is None
    assert nvml.why("temperature_c").endswith("pip install -U nvidia-ml-py")
    assert nvml.why("never asked") == "it was not read"


def test_a_mig_instance_has_the_cards_temperature_but_neither_its_energy_nor_its_power():
    card = FakeCard(uuid="GPU-1", is_cut=True, temperature=70, event_bits=0x80, energies_mj=[5])
    refused = dict.fromkeys(("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature"), NOT_SUPPORTED)
    part = FakeCard(uuid="MIG-7", parent=card, used=90, processes={"Compute": [(OWN, 80)]}, refused=refused)
    nvml = Nvml(FakeNvml(card, part), "MIG-7", space=MACHINE)
    state = nvml.state()
    assert (state.temperature_c, state.throttle_reasons) == (70, ("power brake (hardware)",))
    assert (state.utilization_ratio, state.power_w, nvml.energy_mj()) == (None, None, None)
    assert "Not Supported" in nvml.why("utilization_ratio")
    assert "neighbours" in nvml.why("power_w")
    assert nvml.read() == GpuReading(80, 90, 1000)
    assert "card around" in nvml.card_source
    assert not nvml.is_mig_parent()


def test_mig_parent_is_recognised():
    card = FakeCard(is_cut=True)
    card.refused = {"nvmlDeviceGetMemoryInfo_v2": NO_PERMISSION, "nvmlDeviceGetUtilizationRates": NOT_SUPPORTED}
    nvml = Nvml(FakeNvml(card), "GPU-1", space=MACHINE)
    assert nvml.is_mig_parent()
    assert nvml.read().device_bytes is None
    assert "CUDA_VISIBLE_DEVICES" in nvml.why("device_bytes")


@pytest.mark.parametrize("uuid", ["GPU-9", None])
def test_a_device_that_is_not_there_is_unavailable(uuid):
    with pytest.raises(ProbeUnavailableError, match="Not Found") as caught:
        Nvml(FakeNvml(), uuid, index=9)
    assert isinstance(caught.value.__cause__, FakeNvmlError)


def test_the_library_is_initialised(monkeypatch):
    library = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert load_library() is library
    assert library.asked == ["nvmlInit"]


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (VERSION_MISMATCH, "reboot or reload"),
        (LIBRARY_NOT_FOUND, "NVIDIA_DRIVER_CAPABILITIES=utility"),
        (DRIVER_NOT_LOADED, "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_work_is_unavailable_with_the_cure(monkeypatch, code, cure):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(refused={"nvmlInit": code}))
    with pytest.raises(ProbeUnavailableError, match=cure):
        load_library()


def test_a_library_that_is_not_installed_is_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ProbeUnavailableError, match="nvidia-ml-py"):
        load_library()


def test_the_real_library_has_every_function_and_number_that_is_used():
    import pynvml

    for name in (name for name in dir(FakeNvml) if name.startswith("nvml")):
        assert callable(getattr(pynvml, name))
    assert pynvml.nvmlMemory_v2 == 0x02000028
    assert (pynvml.NVML_TEMPERATURE_GPU, pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM) == (0, 1, 2)
    assert pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH == VERSION_MISMATCH
    assert pynvml.NVML_ERROR_GPU_IS_LOST == GPU_IS_LOST
    assert pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH == ARGUMENT_VERSION_MISMATCH
    assert pynvml.nvmlClocksEventReasonHwThermalSlowdown == 0x40


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_throttle_words_of_two_masks_together_are_those_of_each(one, other):
    assert set(throttle_words(one | other)) == set(throttle_words(one)) | set(throttle_words(other))
    assert len(throttle_words(one)) == (one & ~0x113).bit_count()


def test_an_unknown_throttle_bit_is_named_by_its_number():
    assert throttle_words(0x1000) == ("reason 0x1000",)
    assert throttle_words(0x1 | 0x2 | 0x10 | 0x100) == ()
