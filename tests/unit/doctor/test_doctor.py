"""What the doctor finds on machines made by hand: every lack has its cure."""

import pytest
from fake_nvml import LIBRARY_NOT_FOUND, NO_PERMISSION, NOT_SUPPORTED, FakeCard, FakeNvml

from slr_bench.doctor.doctor import ask_child, decode_finding, memory_findings, torch_findings
from slr_bench.doctor.gpu import gpu_findings
from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.nvml_words import explain


@pytest.fixture(autouse=True)
def no_visible_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_a_kernel_without_meters_lacks_each_with_its_cure(tmp_path):
    found = by_name(memory_findings(tmp_path))
    assert {name for name, finding in found.items() if finding.state == "lacking"} == {
        "RAM high-water mark", "PSS of a tree", "oom_kill counter",
    }  # fmt: skip
    assert all(finding.cure for finding in found.values() if finding.state != "ok")


def test_a_card_that_tells_everything_is_ok():
    found = by_name(gpu_findings(lambda: FakeNvml(FakeCard(energies_mj=[5]))))
    assert found["NVML"].detail == "driver 560.35.03, 1 devices"
    assert found["GPU 0 Fake GPU"].state == "ok"


def test_each_thing_a_card_hides_is_a_lack_of_its_own():
    card = FakeCard(refused={"nvmlDeviceGetTemperature": NOT_SUPPORTED, "nvmlDeviceGetPowerUsage": NO_PERMISSION})
    found = [finding for finding in gpu_findings(lambda: FakeNvml(card)) if finding.name.startswith("GPU")]
    assert {finding.detail: finding.state for finding in found} == dict.fromkeys(
        ("temperature unknown", "power unknown", "energy unknown"), "lacking"
    )
    assert "as root" in next(finding.cure for finding in found if finding.detail == "power unknown")


def test_without_a_driver_nvml_is_not_here_and_the_cure_is_told():
    def load():
        library = FakeNvml(refused={"nvmlInit": LIBRARY_NOT_FOUND})
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise ProbeUnavailableError(f"NVML: {explain(error)}") from error

    (finding,) = gpu_findings(load)
    assert (finding.state, finding.detail) == ("not here", "NVML Shared Library Not Found")
    assert finding.cure.startswith("libnvidia-ml.so is not here")


def test_an_environment_that_hides_every_device_is_a_lack(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    finding = by_name(gpu_findings(FakeNvml))["CUDA_VISIBLE_DEVICES"]
    assert (finding.state, finding.detail) == ("lacking", "'-1' shows 0 devices")
    assert finding.cure


TORCH = {"torch": "2.14", "torchvision": "0.29", "built_for": "13.0", "devices": ["H100"]}


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (TORCH, "ok", "H100"),
        (TORCH | {"devices": []}, "not here", "mend the driver"),
        (TORCH | {"devices": [], "built_for": None}, "not here", "CUDA build"),
    ],
)
def test_cuda_is_what_torch_sees(found, state, words):
    finding = by_name(torch_findings(found))["CUDA by torch"]
    assert finding.state == state
    assert words in finding.detail + finding.cure


def test_a_torch_or_decoder_that_breaks_is_a_lack_with_its_own_words():
    (finding,) = torch_findings("ImportError: libcudart.so.13")
    assert (finding.state, finding.detail) == ("lacking", "ImportError: libcudart.so.13")
    assert decode_finding("ImportError: no av").state == "lacking"
    assert decode_finding({"av": "18.1"}).state == "ok"


def test_a_child_that_dies_takes_nobody_with_it():
    assert ask_child("import os; os.abort()") == "the child ended with status -6"
    assert ask_child("raise ImportError('gone')") == "ImportError: gone"
    assert ask_child("print('not json')") == "JSONDecodeError in the child"
    assert ask_child("print('noise'); print('{\"a\": 1}')") == {"a": 1}
