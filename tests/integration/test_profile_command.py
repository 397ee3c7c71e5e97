"""``slr-bench profile`` names every byte of every workload and arm, on real and on fake tensors."""

import itertools
import json

import pytest

from slr_bench.execute.job import Job, ProfileStep
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.run.cell_runner import work_of
from slr_bench.worker.traced_step import profile_step

ARMS = {
    "baseline": {
        "model.temporal_shift": "plain",
        "model.attention": "dense",
        "training.recompute": "none",
        "training.precision": "fp32",
    },
    "optimized": {"training.recompute": "block", "training.precision": "bf16"},
}

ATTENTIONS = {kind: {"model.attention": kind, "training.precision": "fp32"} for kind in ("sparse", "auto")}


OTHER_NETWORKS = {
    name: {
        "model.network": name,
        "model.base_channels": 64,
        "model.num_frames": 8,
        "model.region_focus": "motion",
        "data.frame_size": 40,
        "model.focus_size": 32,
        "training.recompute": "block",
        "training.precision": "fp32",  # on CPUs without matrix units, bf16 convolutions in 3-D take minutes
    }
    for name in ("i3d", "r3d_18", "s3d")
}


@pytest.fixture
def profiled(tiny_setting):
    """``profiled("train_step", "baseline", fake=True)`` -> the child's report, made in this process."""

    def run(workload, arm, fake=False):
        cell = own_cell(
            GridConfig(workload=workload, set=tiny_setting, arms=ARMS | ATTENTIONS | OTHER_NETWORKS), {}, arm
        )
        return profile_step(Job(ProfileStep(work_of(cell, fake=fake), 1), "cpu"), lambda message: None)

    return run


CASES = [*itertools.product(["train_step", "inference"], ARMS), ("inference", "s3d")]
ALL_CASES = [*itertools.product(["train_step", "inference"], OTHER_NETWORKS), *(("train_step", a) for a in ATTENTIONS)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in ALL_CASES if case not in CASES]


@pytest.mark.parametrize(("workload", "arm"), CASES)
def test_every_byte_is_named_and_fake_is_real(profiled, workload, arm):
    real, fake = profiled(workload, arm), profiled(workload, arm, fake=True)
    assert real["residual_bytes"] == 0
    assert fake["residual_bytes"] is None
    assert "fake" in fake["residual_reason"]
    assert real["source"] == "cpu-real"
    assert fake["source"] == "cpu-fake"
    for key in ("peak_tensor_bytes", "floor_bytes", "by_category", "by_phase", "flops_per_step"):
        assert real[key] == fake[key], key
    assert [entry["bytes"] for entry in real["by_module"]] == [entry["bytes"] for entry in fake["by_module"]]
    assert sum(real["by_category"].values()) == real["peak_tensor_bytes"] > real["floor_bytes"] > 0
    assert sum(entry["bytes"] for entry in real["by_module"]) == real["peak_tensor_bytes"]
    allocator = real["allocator"]
    assert sum(allocator["by_category"].values()) == allocator["peak_bytes"] >= real["peak_tensor_bytes"]


def test_page_and_terminal_show_the_same(slr_bench, write_grid, tiny_setting, tmp_path):
    grid = write_grid({"workload": "train_step", "set": tiny_setting, "arms": ARMS, "device": "cpu"})
    out = tmp_path / "profile"
    done = slr_bench("profile", grid, "--arm", "optimized", "--fake", "--out", out)
    assert done.returncode == 0, done.stderr
    for text in ("at the peak", "at least", "backbone.", "Highest point of each phase"):
        assert text in done.stdout
    html = (out / "profile.html").read_text()
    assert json.loads((out / "profile.json").read_text())["source"] == "cpu-fake"
    assert (out / "figures" / "live-bytes.png").stat().st_size > 1000
    assert "Live bytes by category over the step" in html
    assert "slr-bench profile" in html


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, ["baseline, optimized", "--arm"]),
        (["--arm", "optimised"], 2, ["'optimized'?"]),
        (["--arm", "baseline", "--workload", "inferenze"], 2, ["--workload"]),
        (["--arm", "baseline", "--set", "data.dir=null"], 2, ["data.dir is not set", "--fake"]),
        (["--arm", "baseline", "--fake", "--set", "training.batch_size=0"], 2, ["training.batch_size"]),
    ],
)
def test_mistakes_are_reported_in_one_line(slr_bench, write_grid, tiny_setting, options, code, words):
    grid = write_grid({"workload": "train_step", "set": tiny_setting, "arms": ARMS, "device": "cpu"})
    done = slr_bench("profile", grid, *options)
    assert done.returncode == code
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_cell_that_cannot_run_ends_with_its_reason_and_exit_code(slr_bench, write_grid, quick_server):
    for mode, code, word in (("unsupported", 5, "unsupported"), ("sigkill", 7, "SIGKILL")):
        done = slr_bench("profile", write_grid({"workload": "faulty", "set": {"fault.mode": mode}, "device": "cpu"}))
        assert done.returncode == code, done.stderr
        assert word in done.stderr


def test_run_and_profile_count_the_same_bytes(slr_bench, profiled, write_grid, tiny_setting, tmp_path):
    """``run`` measures in a child of the fork server, ``profile`` in this process."""
    common = {"workload": "train_step", "set": tiny_setting, "arms": ARMS, "device": "cpu"}
    grid = write_grid(common | {"repeats": 1, "timed_steps": 1, "invalid_reruns": 0})
    run = slr_bench("run", grid, "--arm", "optimized", "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    (record,) = (tmp_path / "run" / "records").iterdir()
    metrics, found = json.loads(record.read_text())["metrics"], profiled("train_step", "optimized")
    for name in ("peak_tensor_bytes", "floor_bytes", "flops_per_step"):
        assert metrics[name]["value"] == found[name], name
    assert metrics["peak_cpu_allocator_bytes"]["value"] == found["allocator"]["peak_bytes"]
    assert metrics["peak_over_floor"]["value"] == found["peak_tensor_bytes"] / found["floor_bytes"]
    assert "split: backbone.pool, attention" in metrics["peak_over_floor"]["source"]
    log = (tmp_path / "run" / "logs" / f"{record.stem}.log").read_text()
    assert "profiler_start" not in log
    assert "gpuGetDeviceCount" not in log
    assert not [tensor for tensor in found["top"] if tensor["origin"].startswith("/")]
