"""The proof against real GPUs, on small histories and figures made here."""

import json

import pytest
from recorded_allocator import Recorder

from benchmarks.proofs import gpu_truth
from slr_bench.grid.project_file import VARIABLE
from slr_bench.predict.trace_pool import Refusal
from slr_bench.units import MIB


def late(recorder):
    recorder.alloc(0, 11 * MIB)
    recorder.forget()
    recorder.alloc(1, 3 * MIB)
    recorder.free(0)
    recorder.empty_cache()
    recorder.alloc(2, 5 * MIB, stream=1)
    recorder.alloc(3, 500 * MIB)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Recordings that begin late and go through an emptied cache, two streams and a failure; one has no history."""
    monkeypatch.setenv(VARIABLE, "")  # reading the proof's grid changes it
    (tmp_path / "snapshots").mkdir()
    for name, expandable in (("plain", False), ("pages", True)):
        recorder = Recorder(expandable, capacity=100 * MIB)
        late(recorder)
        recorder.write(tmp_path / "snapshots" / name)
    recorder.forget()
    recorder.write(tmp_path / "snapshots" / "nothing")
    (tmp_path / "snapshots" / "text").write_text("hello")
    return tmp_path


def test_recordings_are_counted_by_verdict_and_nothing_is_no_agreement(data):
    found = gpu_truth.recordings(data)
    assert (found["files"], found["histories_with_allocations"], found["agree"]) == (4, 2, 2)
    assert found["equal_addresses"] == found["addresses"] == 4
    assert found["agreements_without_an_allocation"] == 0
    verdicts = {row["file"]: row["verdict"] for row in found["rows"]}
    assert verdicts == {"nothing": "nothing to check", "pages": "agrees", "plain": "agrees", "text": "refused"}


def test_published_settings_are_read_and_those_that_cannot_be_predicted_are_counted(data, monkeypatch, capsys):
    content = {"torchvision_adam": {"vgg16_32": 100, "resnet50_8": 50}, "timm_sgd_momentum_batch_8": {"vit_x": 7}}
    (data / "published.json").write_text(json.dumps(content))
    monkeypatch.setattr(gpu_truth, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_truth, "trace_steps", lambda cells, cuda_rules: [Refusal("cannot be traced")] * len(cells))
    gpu_truth.main(["--data", str(data), "--out", str(data / "out")])
    printed = capsys.readouterr().out
    assert "2 of 2 histories with an allocation agree after each of" in printed
    assert "| vgg16_32 | 100 | cannot be traced | | |" in printed
    assert "0 of 1 (timm is not installed)" in printed
    rows = json.loads((data / "out" / "gpu_truth.json").read_text())["published"]["rows"]
    assert {row["name"]: row["published_bytes"] for row in rows} == {"vgg16_32": 100 * MIB, "resnet50_8": 50 * MIB}


def test_summary_takes_absolute_errors_and_keeps_the_sign_of_the_worst():
    settings = [gpu_truth.Setting("s", name, {}, 1) for name in "abc"]
    rows = [
        {"source": "s", "name": name, "error": error, "width": 1 - error, "is_covered": error > 0}
        for name, error in (("a", -0.3), ("b", 0.1), ("c", 0.2))
    ]
    found = gpu_truth._summary(settings, rows)
    assert found["median_error"] == pytest.approx(0.2)
    assert found["worst_error"] == pytest.approx(-0.3)
    assert found["widest"] == pytest.approx(1.3)
    assert (found["predicted"], found["covered"]) == (3, 2)


def test_without_recordings_the_proof_says_so_and_ends(tmp_path, capsys):
    gpu_truth.main(["--data", str(tmp_path)])
    assert capsys.readouterr().out.startswith("skipped: there are no recordings in ")
