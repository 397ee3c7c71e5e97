"""``slr-bench calibrate``: its files and messages on a fake GPU, and its error without a GPU."""

import json
from contextlib import nullcontext

import pytest
import torch
from fake_gpu import FakeGpu, ToyStep

from slr_bench.errors import CellCrashedError
from slr_bench.predict import calibrate as calibrate_module
from slr_bench.predict.calibrate import gpu_processes

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; `make calibrate` uses it")
GRID = {"workload": "faulty", "device": "cuda", "arms": {"a": {"fault.mode": "ok"}}}


@no_gpu
@pytest.mark.parametrize("grid", [GRID, {"workload": "train_step", "device": "cuda", "arms": {"a": {}}}])
def test_calibration_without_a_gpu_is_refused_in_one_line(slr_bench, write_grid, tmp_path, grid):
    """The same error appears if the data are missing, because they would not help."""
    places = ("--traces", tmp_path / "traces", "--devices", tmp_path / "devices")
    done = slr_bench("calibrate", write_grid(grid), *places)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith("slr-bench: torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi`")
    assert not (tmp_path / "traces").exists()
    assert not (tmp_path / "devices").exists()


class FakeProcesses:
    """Jobs on fake cards whose contexts differ by a MiB each; the fourth cell crashes."""

    count = 0

    def operators(self, on_progress):
        from slr_bench.worker.calibrate import measured_operators
        from slr_bench.worker.operator_cases import CASES

        return measured_operators(FakeGpu(), CASES, on_progress)

    def steps(self, cell):
        from slr_bench.worker.calibrate import recorded_steps

        self.count += 1
        if self.count == 4:
            raise CellCrashedError("the process ended as crash: hm")
        gpu = FakeGpu(context=(399 + self.count) << 20)
        return recorded_steps(gpu, lambda: ToyStep(gpu), 1)


@pytest.mark.parametrize("as_json", [False, True])
def test_measurements_are_written_and_reported(slr_bench, write_grid, tmp_path, monkeypatch, as_json):
    monkeypatch.setattr(calibrate_module, "gpu_processes", lambda cells: nullcontext(FakeProcesses()))
    grid = {"workload": "faulty", "axes": {"fault.size": [1 << 20, 1 << 21, 1 << 22, 1 << 23]}}
    places = ("--traces", tmp_path / "traces", "--devices", tmp_path / "devices")
    done = slr_bench("calibrate", write_grid(grid), *places, *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("devices/*")) == ["h200.json"]
    assert len(list((tmp_path / "traces").iterdir())) == 3
    entry = json.loads((tmp_path / "devices" / "h200.json").read_text())
    assert entry["context_bytes"]["median"] == 401 << 20
    text = done.stderr if as_json else done.stdout
    lines = [line for line in text.splitlines() if line.startswith("measuring ")]
    assert lines == ["measuring operators: mm, fp32", *(f"measuring steps {n} of 4: default" for n in range(1, 5))]
    if as_json:
        answer = json.loads(done.stdout)
        assert (answer["device"], len(answer["files"]), len(answer["notes"])) == ("h200", 4, 1)
        assert answer["cublas_workspace_bytes"] == 32 << 20
    else:
        assert "NVIDIA H200, torch 2.14.1+cu130, CUDA 13.0, driver 580.1: device h200" in done.stdout
        assert "Context beside the allocator: 401.0 MiB (399.0 MiB to 403.0 MiB)" in done.stdout
        assert "cuBLAS workspace per thread: 32.0 MiB" in done.stdout
        assert "the process ended as crash: hm" in done.stdout


def test_directory_that_cannot_be_written_is_refused(slr_bench, write_grid, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_module, "gpu_processes", lambda cells: nullcontext(FakeProcesses()))
    (tmp_path / "file").write_text("")
    done = slr_bench("calibrate", write_grid({"workload": "faulty"}), "--devices", tmp_path / "file" / "devices")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write" in line


def test_grid_without_steps_is_refused(slr_bench, write_grid):
    done = slr_bench("calibrate", write_grid({"workload": "train_epochs", "arms": {"a": {}}}))
    assert done.returncode == 2
    assert "has no steps to record, only whole trainings; see configs/calibrate.yml" in done.stderr


@no_gpu
def test_every_kind_of_job_refuses_without_a_gpu():
    """Each kind of job reaches its process and comes back as an error of slr_bench."""
    from slr_bench.errors import NothingMeasuredError
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import GridConfig

    (cell,) = expand(GridConfig.model_validate(GRID), {})
    with gpu_processes([cell]) as processes:
        for job in (
            lambda: processes.operators(lambda phase: None),
            lambda: processes.steps(cell),
            lambda: processes.is_out_of_memory(cell, 1 << 30),
        ):
            with pytest.raises(NothingMeasuredError, match="torch sees no CUDA device here; run this on a machine"):
                job()
