"""Findings of the doctor on hand-made machines. Every lack has a cure."""

import io

import pytest
from fake_nvml import LIBRARY_NOT_FOUND, NO_PERMISSION, NOT_SUPPORTED, FakeCard, FakeNvml
from rich.console import Console

from slr_bench.doctor import (
    Finding,
    decode_finding,
    findings_json,
    findings_table,
    gpu_findings,
    memory_findings,
    run_in_child,
    torch_findings,
)
from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.nvml import explain


@pytest.fixture(autouse=True)
def no_visible_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_kernel_without_meters_lacks_each_meter_with_its_cure(tmp_path):
    found = by_name(memory_findings(tmp_path))
    assert {name for name, finding in found.items() if finding.state == "lacking"} == {
        "RAM high-water mark", "PSS of a tree", "oom_kill counter",
    }  # fmt: skip
    assert all(finding.cure for finding in found.values() if finding.state != "ok")


def test_gpu_whose_driver_reports_everything_is_ok():
    found = by_name(gpu_findings(lambda: FakeNvml(FakeCard(energies_mj=[5]))))
    assert found["NVML"].detail == "driver 560.35.03, 1 devices"
    assert found["GPU 0 Fake GPU"].state == "ok"


def test_each_quantity_that_a_gpu_hides_is_a_finding():
    card = FakeCard(refused={"nvmlDeviceGetTemperature": NOT_SUPPORTED, "nvmlDeviceGetPowerUsage": NO_PERMISSION})
    found = [finding for finding in gpu_findings(lambda: FakeNvml(card)) if finding.name.startswith("GPU")]
    assert {finding.detail: finding.state for finding in found} == dict.fromkeys(
        ("temperature unknown", "power unknown", "energy unknown"), "lacking"
    )
    assert "as root" in next(finding.cure for finding in found if finding.detail == "power unknown")


def test_missing_driver_is_reported_with_the_cure():
    def load():
        library = FakeNvml(refused={"nvmlInit": LIBRARY_NOT_FOUND})
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise ProbeUnavailableError(f"NVML: {explain(error)}") from error

    (finding,) = gpu_findings(load)
    assert (finding.state, finding.detail) == ("not here", "NVML Shared Library Not Found")
    assert finding.cure.startswith("libnvidia-ml.so is not here")


def test_environment_that_hides_every_device_is_a_lack(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    finding = by_name(gpu_findings(FakeNvml))["CUDA_VISIBLE_DEVICES"]
    assert (finding.state, finding.detail) == ("lacking", "'-1' shows 0 devices")
    assert finding.cure


TORCH = {"torch": "2.14", "torchvision": "0.29", "built_for": "13.0", "devices": ["H100"]}


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (TORCH, "ok", "H100"),
        (TORCH | {"devices": []}, "not here", "repair its driver"),
        (TORCH | {"devices": [], "built_for": None}, "not here", "CUDA build"),
    ],
)
def test_cuda_finding_follows_the_devices_of_torch(found, state, words):
    finding = by_name(torch_findings(found))["CUDA by torch"]
    assert finding.state == state
    assert words in finding.detail + finding.cure


def test_broken_torch_or_decoder_is_a_lack_with_its_message():
    (finding,) = torch_findings("ImportError: libcudart.so.13")
    assert (finding.state, finding.detail) == ("lacking", "ImportError: libcudart.so.13")
    assert decode_finding("ImportError: no av").state == "lacking"
    assert decode_finding({"av": "18.1"}).state == "ok"


def test_missing_package_of_the_recogniser_is_not_a_lack():
    bare = {name: value for name, value in TORCH.items() if name != "torchvision"}
    assert by_name(torch_findings(bare))["torch"] == Finding("torch", "ok", "2.14")
    assert decode_finding({"av": None}).state == "not here"


def test_crash_of_the_child_does_not_end_the_parent():
    assert run_in_child("import os; os.abort()") == "the child ended with status -6"
    assert run_in_child("raise ImportError('gone')") == "ImportError: gone"
    assert run_in_child("print('not json')") == "JSONDecodeError in the child"
    assert run_in_child("print('noise'); print('{\"a\": 1}')") == {"a": 1}


FOUND = [
    Finding("Python", "ok", "3.12"),
    Finding("GPU 0 NVIDIA GeForce RTX 4090 Laptop GPU", "lacking", "temperature unknown", "ask as root " * 9),
    Finding("NVML", "not here", "\x1b[31mno driver", "install it"),
]


def test_table_fits_80_columns_and_prints_no_foreign_escapes():
    console = Console(file=io.StringIO(), width=80)
    console.print(findings_table(FOUND))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("→") == 2
    assert "\x1b" not in text
    assert text.count("root") == 9


def test_json_has_null_for_no_cure_and_counts_the_lacks():
    found = findings_json(FOUND)
    assert found["lacking"] == 1
    assert found["findings"][0] == {"name": "Python", "state": "ok", "detail": "3.12", "cure": None}
