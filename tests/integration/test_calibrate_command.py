"""``slr-bench calibrate``: with a GPU made by hand what it writes and says; with none one line with the cure."""

import json

import pytest
import torch
from fake_gpu import FakeGpu, ToyStep

from slr_bench.errors import CellCrashedError
from slr_bench.predict import calibration_processes as gpu_children
from slr_bench.predict.calibration_processes import GpuChildren

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; `make calibrate` uses it")
GRID = {"workload": "faulty", "device": "cuda", "arms": {"a": {"fault.mode": "ok"}}}


@no_gpu
@pytest.mark.parametrize("grid", [GRID, {"workload": "train_step", "device": "cuda", "arms": {"a": {}}}])
def test_without_a_gpu_it_is_refused_in_one_line(slr_bench, write_grid, tmp_path, grid):
    """Also where the data are missing: they would not help."""
    places = ("--traces", tmp_path / "traces", "--devices", tmp_path / "devices")
    done = slr_bench("calibrate", write_grid(grid), *places)
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith("slr-bench: torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi`")
    assert not (tmp_path / "traces").exists()
    assert not (tmp_path / "devices").exists()


class HandMade(GpuChildren):
    """Children of this process, on cards whose contexts differ by a MiB each; the last cell crashes."""

    def __enter__(self):
        self.count = 0
        return self

    def __exit__(self, *_):
        return None

    def operators(self, told):
        from slr_bench.worker.calibrate import measured_operators
        from slr_bench.worker.operator_cases import CASES

        return measured_operators(FakeGpu(), CASES, told)

    def steps(self, cell):
        from slr_bench.worker.calibrate import recorded_steps

        self.count += 1
        if self.count == 4:
            raise CellCrashedError("the process ended as crash: hm")
        gpu = FakeGpu(context=(399 + self.count) << 20)
        return recorded_steps(gpu, lambda: ToyStep(gpu), 1)


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_measured_is_written_and_told(slr_bench, write_grid, tmp_path, monkeypatch, as_json):
    monkeypatch.setattr(gpu_children, "GpuChildren", HandMade)
    grid = {"workload": "faulty", "axes": {"fault.size": [1 << 20, 1 << 21, 1 << 22, 1 << 23]}}
    places = ("--traces", tmp_path / "traces", "--devices", tmp_path / "devices")
    done = slr_bench("calibrate", write_grid(grid), *places, *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("devices/*")) == ["h200.json"]
    assert len(list((tmp_path / "traces").iterdir())) == 3
    entry = json.loads((tmp_path / "devices" / "h200.json").read_text())
    assert entry["context_bytes"]["median"] == 401 << 20
    told = done.stderr if as_json else done.stdout
    lines = [line for line in told.splitlines() if line.startswith("measuring ")]
    assert lines == ["measuring operators: mm, fp32", *(f"measuring steps {n} of 4: default" for n in range(1, 5))]
    if as_json:
        answer = json.loads(done.stdout)
        assert (answer["device"], len(answer["files"]), len(answer["notes"])) == ("h200", 4, 1)
        assert answer["cublas_workspace_bytes"] == 32 << 20
    else:
        assert "NVIDIA H200, torch 2.14.1+cu130, CUDA 13.0, driver 580.1: device h200" in done.stdout
        assert "Context beside the allocator: 401.0 MiB (399.0 MiB to 403.0 MiB)" in done.stdout
        assert "cuBLAS workspace a thread: 32.0 MiB" in done.stdout
        assert "the process ended as crash: hm" in done.stdout


def test_a_place_that_cannot_be_written_is_refused(slr_bench, write_grid, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_children, "GpuChildren", HandMade)
    (tmp_path / "file").write_text("")
    done = slr_bench("calibrate", write_grid({"workload": "faulty"}), "--devices", tmp_path / "file" / "devices")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write" in line


def test_a_grid_without_steps_is_refused(slr_bench, write_grid):
    done = slr_bench("calibrate", write_grid({"workload": "train_epochs", "arms": {"a": {}}}))
    assert done.returncode == 2
    assert "has no steps to record, only whole trainings; see configs/calibrate.yml" in done.stderr


@no_gpu
def test_the_children_refuse_alike_one_by_one():
    """Each kind of job reaches its child and comes back as an error of ours."""
    from slr_bench.errors import NothingMeasuredError
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import GridConfig

    (cell,) = expand(GridConfig.model_validate(GRID), {})
    with GpuChildren([cell]) as children:
        for ask in (
            lambda: children.operators(lambda phase: None),
            lambda: children.steps(cell),
            lambda: children.is_out_of_memory(cell, 1 << 30),
        ):
            with pytest.raises(NothingMeasuredError, match="torch sees no CUDA device here; run this on a machine"):
                ask()
