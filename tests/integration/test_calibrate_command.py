"""``slr-bench calibrate`` where there is no GPU: one line with the cure, and nothing is written."""

import pytest
import torch

from slr_bench.predict.gpu_children import GpuChildren

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here; `make calibrate` uses it")
GRID = {"workload": "faulty", "device": "cuda", "arms": {"a": {"fault.mode": "ok"}}}


@pytest.mark.parametrize("grid", [GRID, {"workload": "train_step", "device": "cuda", "arms": {"a": {}}}])
def test_without_a_gpu_it_is_refused_in_one_line(slr_bench, write_grid, tmp_path, grid):
    """Also where the data are missing: they would not help."""
    places = ("--traces", tmp_path / "traces", "--devices", tmp_path / "devices")
    done = slr_bench("calibrate", write_grid(grid), *places)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("slr-bench: torch sees no CUDA device here; run this on a machine whose GPU `nvidia-smi`")
    assert not (tmp_path / "traces").exists()
    assert not (tmp_path / "devices").exists()


def test_a_grid_without_steps_is_refused(slr_bench, write_grid):
    done = slr_bench("calibrate", write_grid({"workload": "train_epochs", "arms": {"a": {}}}))
    assert done.returncode == 2
    assert "has no steps to record, only whole trainings; see configs/calibrate.yml" in done.stderr


def test_the_children_refuse_alike_one_by_one():
    """Each kind of job reaches its child and comes back as an error of ours."""
    from slr_bench.errors import UnsupportedSettingError
    from slr_bench.grid.cells import expand
    from slr_bench.grid.config import GridConfig

    (cell,) = expand(GridConfig.model_validate(GRID), {})
    with GpuChildren([cell]) as children:
        for ask in (
            lambda: children.operators(lambda phase: None),
            lambda: children.steps(cell),
            lambda: children.is_out_of_memory(cell, 1 << 30),
        ):
            with pytest.raises(UnsupportedSettingError, match="torch sees no CUDA device here; run this on a machine"):
                ask()
