"""The registered workloads on rendered and decoded clips, measured in this process."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from clip_files import shared_data

from models.training.memory import MemoryTracker
from slr_bench.execute.job import Job, MeasureCell
from slr_bench.grid.cells import expand
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import find_workload
from slr_bench.probes.host import HostMemory
from slr_bench.run.cell_runner import work_of
from slr_bench.units import GIB
from slr_bench.worker.measure import measure


@pytest.fixture(scope="module")
def measured(tiny_setting):
    """``measured("train_step", {"training.batch_size": 1})`` -> (metrics, phases), measured once."""
    found = {}

    def once(workload, changes=None, fake=False):
        key = (workload, tuple(sorted((changes or {}).items())), fake)
        if key not in found:
            found[key] = run(workload, changes, fake)
        return found[key]

    def run(workload, changes=None, fake=False):
        settings = tiny_setting | (changes or {})
        cell = expand(GridConfig(workload=workload, set=settings), {})[0]
        task = MeasureCell(work_of(cell, fake=fake), warmup_steps=1, timed_steps=1, sample_hz=20)
        torch.manual_seed(0)
        result = measure(Job(task, "cpu"), lambda message: None)
        phases = {name: phase.model_dump() for name, phase in result.phases.items()}
        return {name: metric.model_dump() for name, metric in result.metrics.items()}, phases

    return once


ARMS = {
    "careless": {
        "model.temporal_shift": "plain",
        "model.attention": "dense",
        "training.recompute": "none",
        "training.precision": "fp32",
    },
    "careful": {"training.recompute": "block", "training.precision": "bf16"},
    "narrow": {"training.precision": "fp16"},
}


@pytest.mark.parametrize(
    ("workload", "arm"),
    [
        ("train_step", "careless"),
        ("inference", "careless"),
        pytest.param("train_step", "narrow", marks=pytest.mark.filterwarnings("ignore:fp16 on a CPU")),
        pytest.param("train_step", "careful", marks=pytest.mark.slow),
        pytest.param("inference", "careful", marks=pytest.mark.slow),
    ],
)
def test_fake_tensors_need_the_same_bytes_as_real_ones(measured, workload, arm):
    """Measures as ``run`` does; test_profile_command.py measures every arm as ``profile`` does."""
    real, _ = measured(workload, ARMS[arm])
    fake, _ = measured(workload, ARMS[arm], fake=True)
    assert real["peak_tensor_bytes"]["source"] == "cpu-real"
    assert fake["peak_tensor_bytes"]["source"] == "cpu-fake"
    assert fake["peak_tensor_bytes"]["value"] == real["peak_tensor_bytes"]["value"] > 0
    assert "step_time_s" not in fake


@pytest.mark.filterwarnings("ignore:fp16 on a CPU")
def test_traced_fp16_step_has_optimizer_state_after_overflowing_steps(measured):
    """The loss scale begins at 65,536, and updates that overflow are skipped, so warm-up continues until an update."""
    metrics, _ = measured("train_step", ARMS["narrow"])
    assert metrics["peak_tensor_bytes"]["value"] > 4 * 4 * metrics["parameters"]["value"]


@pytest.mark.slow
def test_choice_of_automatic_attention_is_recorded_and_equal_on_fake_tensors(measured):
    real, _ = measured("train_step", {"model.attention": "auto"})
    fake, _ = measured("train_step", {"model.attention": "auto"}, fake=True)
    assert real["attention_bytes"]["source"].startswith("attention: auto chose ")
    for name in ("attention_bytes", "peak_tensor_bytes"):
        assert real[name]["value"] == fake[name]["value"] > 0
    assert real["attention_bytes"]["source"] == fake["attention_bytes"]["source"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["i3d", "r3d_18", "s3d"])
def test_other_networks_train_with_a_change_of_configuration_alone(measured, network):
    changes = {"model.network": network, "model.base_channels": 64, "model.num_frames": 8, "training.precision": "fp32"}
    metrics, _ = measured("train_epochs", changes)
    assert 0 <= metrics["accuracy_top1"]["value"] <= 1
    assert metrics["parameters"]["value"] > 7e6


def test_frames_of_the_loader_are_not_counted_in_the_step(measured):
    """The loader holds four micro-batches instead of two, and the bytes of the step stay the same."""
    peaks = [
        measured("train_step", {"training.gradient_accumulation_steps": count})[0]["peak_tensor_bytes"]["value"]
        for count in (2, 4)
    ]
    assert peaks[0] == pytest.approx(peaks[1], abs=64)  # two more scalar losses and hit counts


def test_state_and_micro_batch_are_within_the_peak(measured):
    metrics, phases = measured("train_step", ARMS["careless"])
    parameters = metrics["parameters"]["value"]
    micro_batch = 2 * 4 * 3 * 32 * 32
    state = 4 * parameters * 3  # fp32: weights and AdamW's two moments
    assert metrics["peak_tensor_bytes"]["value"] > state + 4 * parameters + micro_batch
    assert {"load", "forward", "backward", "optimizer"} <= phases.keys()
    assert max(phase["peak_tensor_bytes"] or 0 for phase in phases.values()) == metrics["peak_tensor_bytes"]["value"]


def test_inference_needs_less_than_training(measured):
    inference, _ = measured("inference", ARMS["careless"])
    training, _ = measured("train_step", ARMS["careless"])
    assert inference["peak_tensor_bytes"]["value"] < training["peak_tensor_bytes"]["value"] / 2


def test_training_reports_accuracy_on_the_val_split(measured):
    metrics, _ = measured("train_epochs")
    for kind in ("accuracy", "accuracy_per_class"):
        top1, top5, top10 = (metrics[f"{kind}_top{places}"]["value"] for places in (1, 5, 10))
        assert 0 <= top1 <= top5 <= top10 <= 1
    assert metrics["accuracy_top1"]["source"] == "val split (2 clips), after epoch 1"
    assert metrics["training_time_s"]["value"] > 0
    assert metrics["peak_tensor_bytes"]["value"] is None


def test_settings_are_checked_against_the_data_before_any_run(tiny_setting):
    spec = find_workload("train_step")
    settings = expand(GridConfig(set=tiny_setting), {})[0].settings
    assert spec.prepare(settings).keys() == {"data_fingerprint"}
    wrong = expand(GridConfig(set=tiny_setting | {"model.num_classes": 3}), {})[0].settings
    with pytest.raises(Exception, match="num_classes"):
        spec.prepare(wrong)


FP32 = {"training.precision": "fp32"}
"""Faster than the default bf16 on this processor."""


def trained(monkeypatch, settings, used_percent, own_gib):
    """Train on a machine with 10 GiB of RAM, of which ``own_gib`` are the training's."""
    memory = HostMemory(used_percent * GIB // 10, 10 * GIB, "machine")
    tracker = partial(MemoryTracker, read_host=lambda: memory, read_own=lambda: own_gib * GIB)
    monkeypatch.setattr("models.training.micro_batches.MemoryTracker", tracker)
    cell = expand(GridConfig(workload="train_epochs", set=settings), {})[0]
    task = MeasureCell(work_of(cell, fake=False), warmup_steps=0, timed_steps=1, sample_hz=20)
    return measure(Job(task, "cpu"), lambda message: None)


@pytest.fixture
def german_signs(tmp_path):
    """Two signs of dgs30 with eight clips of training and four of validation each."""
    source = shared_data("dgs30")
    (tmp_path / "videos").symlink_to(source / "videos")
    split, entries = json.loads((source / "nslt_30.json").read_text()), json.loads((source / "dgs30.json").read_text())
    wanted = {(label, subset): count for label in (0, 1) for subset, count in (("train", 8), ("val", 4))}
    chosen = {}
    for video_id, entry in split.items():
        key = entry["action"][0], entry["subset"]
        if wanted.get(key):
            wanted[key] -= 1
            chosen[video_id] = entry
    for entry in entries:
        entry["instances"] = [one for one in entry["instances"] if one["video_id"] in chosen]
    (tmp_path / "nslt_2.json").write_text(json.dumps(chosen))
    (tmp_path / "dgs30.json").write_text(json.dumps(entries))
    return tmp_path


def learned(result):
    return {name: result.metrics[name].value for name in ("accuracy_top1", "accuracy_top5", "train_loss")}


def test_memory_of_other_programs_changes_no_figure_of_a_training(monkeypatch, tiny_setting, german_signs):
    """Loss and accuracy are equal to the last digit, although the micro-batch may be halved."""
    settings = tiny_setting | FP32 | {"training.dynamic_batch_size": True, "data.dir": str(german_signs)}
    quiet, starved = (trained(monkeypatch, settings, percent, own_gib=1) for percent in (50, 99))
    assert learned(quiet) == learned(starved)
    assert quiet.events == starved.events == ()


def test_changes_of_a_training_are_in_its_measurement(monkeypatch, tiny_setting):
    """Most of the full memory is the training's own, so it halves its micro-batch of two clips."""
    settings = tiny_setting | FP32 | {"training.dynamic_batch_size": True}
    (event,) = trained(monkeypatch, settings, 97, own_gib=8).events
    assert (event.step, event.kind, event.changes_batch) == (1, "halved", True)
    assert event.text.startswith("memory critical, RAM is ")
    assert event.used_bytes >= 97 * GIB // 10
    assert event.own_bytes >= 8 * GIB
