"""The proof against a GPU, with a measured side made by hand: errors, coverage and failures are those put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from step_profiles import step_profile

from benchmarks.proofs import predict_gpu
from benchmarks.proofs.predict_gpu import drawn, is_held_out, prove
from benchmarks.proofs.predict_gpu_text import percentile_95
from slr_bench.errors import CellCrashedError, ConfigError
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid
from slr_bench.predict.device import find_device
from slr_bench.predict.trace_pool import Refusal
from slr_bench.record import Metric, Outcome, Record
from slr_bench.trace.requests import ALLOCATE, TRANSIENT
from slr_bench.units import MIB

ROOT = Path(__file__).resolve().parents[4]
ENVIRONMENT = {"torch": "2.14.1+cu130", "cuda": "13.0", "gpu": "NVIDIA H200", "gpu_memory_bytes": 150_000_000_000}
NAMES = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "nvml_process_peak_bytes")


@pytest.fixture(scope="module")
def cells():
    return expand(load_grid(ROOT / "configs" / "predict_grid.yml"), {})


def need(number):
    return (100 + 2 * number) * MIB  # a whole segment of its own: requested, allocated and reserved are the same


class FakeGpu:
    """Setting ``number`` takes what is predicted for it, less ``error`` of the measured; NVML its context on top."""

    def __init__(self, errors, outcomes=None, nvml=True, fails=()):
        self.errors, self.outcomes, self.nvml, self.fails = errors, outcomes or {}, nvml, fails
        self.numbers, self.limits = {}, {}

    def measured(self, cells):
        self.numbers = {cell.cell_id: number for number, cell in enumerate(cells)}
        return [self.record(cell, number) for number, cell in enumerate(cells)]

    def record(self, cell, number):
        outcome = self.outcomes.get(number, Outcome.OK)
        sizes = [need(number)] * 3 + [need(number) + find_device("h200").context.value]
        metrics = {
            name: Metric(value=size / (1 + self.errors[number]), unit="bytes", source=name, quality="exact")
            for name, size in zip(NAMES, sizes, strict=True)
        }
        if not self.nvml:
            metrics[NAMES[3]] = Metric.unavailable("bytes", "NVML", "no permission")
        return Record(
            cell_id=cell.cell_id, side="a", repeat=0, workload=cell.spec.name, setting=cell.public_setting,
            outcome=outcome, reason=None if outcome is Outcome.OK else "tried to allocate",
            environment=ENVIRONMENT, metrics=metrics if outcome is Outcome.OK else {}, phases={},
            started_at="2026-01-01T00:00:00+00:00", duration_s=1.0,
        )  # fmt: skip

    def is_out_of_memory(self, cell, limit_bytes):
        self.limits[cell.cell_id] = limit_bytes
        how = dict(self.fails).get(self.numbers[cell.cell_id], False)
        if isinstance(how, Exception):
            raise how
        return how


def predict(refused=(), more=0):
    def trace(cells, cuda_rules):
        assert cuda_rules
        return [
            Refusal("no rule") if number in refused else step_profile([ALLOCATE, 0, need(number)], [TRANSIENT, 0, more])
            for number in range(len(cells))
        ]

    return trace


def test_half_is_held_out_and_fewer_are_the_first_of_more(cells):
    few, many = drawn(cells, 60), drawn(cells, 64)
    assert [cell.cell_id for cell in few] == [cell.cell_id for cell in many[:60]]
    assert sum(is_held_out(cell.cell_id) for cell in many) == 32
    assert len({cell.cell_id for cell in many}) == 64
    assert is_held_out("0123456789ab") is True  # sha256("predict_gpu 0123456789ab") begins with an odd byte
    again = drawn(list(reversed(cells)), 60)
    assert [cell.cell_id for cell in again] == [cell.cell_id for cell in few]


@pytest.mark.parametrize("count", [0, 3, 1000, -2])
def test_a_number_that_cannot_be_halved_is_refused(cells, count):
    with pytest.raises(ConfigError, match=f"--settings: {count}; give an even number from 2 to"):
        drawn(cells, count)


def test_the_95th_percentile_is_what_95_of_100_do_not_exceed():
    assert percentile_95(range(1, 101)) == 95
    assert percentile_95([3.0]) == 3.0
    assert percentile_95(range(1, 21)) == 19


def test_errors_are_those_put_in(cells, tmp_path):
    chosen = drawn(cells, 60)
    errors = [0.04 if number >= 50 else 0.004 * (-1) ** number for number in range(60)]
    found = prove(chosen, FakeGpu(errors), predict(), None, tmp_path)
    whole = found["summary"]["errors"]["all"]
    for kind in ("requested", "allocated", "reserved", "nvml"):
        one = whole[kind]
        assert one["n"] == 60
        assert [one["median"], one["p95"], one["worst"]] == pytest.approx([0.004, 0.04, 0.04])
        assert one["median_signed"] == pytest.approx(0.004)  # 35 of 60 too high
    assert [whole[kind]["covered"] for kind in ("requested", "reserved", "nvml")] == [0, 0, 1]
    assert found["summary"]["errors"]["held out"]["requested"]["n"] == 30
    assert found["summary"]["verdicts_of_fit"] == {"fits: ran": 60}
    assert found["device"] == "h200"
    text = (tmp_path / "README.md").read_text()
    assert "| all | requested: median ≤ 0.5 % | 0.4 % of 60 | yes |" in text
    assert "| all | allocated: 95 % of errors ≤ 3 % | 4 % of 60 | **no** |" in text
    assert "| all | reserved: 95 % of errors ≤ 5 % | 4 % of 60 | yes |" in text
    assert "| all | requested: interval covers 85 % to 95 % | 0 % of 60 | **no** |" in text
    assert "| all | runs held to the prediction + 3 % that fail ≤ 1 % | 0 % of 60 | yes |" in text
    assert "| all | settings ≥ 60 | 60 | yes |" in text
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(found))


def test_an_interval_covers_what_lies_in_it(cells, tmp_path):
    """10 MiB that may be wanted: too low by 8 MiB at most is inside, by 12 is not, too high is not either."""
    chosen = drawn(cells, 4)
    errors = [need(n) / (need(n) + off * MIB) - 1 for n, off in enumerate((8, 12, -1, 0))]
    whole = prove(chosen, FakeGpu(errors), predict(more=10 * MIB), None, tmp_path)["summary"]["errors"]["all"]
    assert whole["requested"]["covered"] == 0.5


def test_runs_under_their_prediction_are_limited_to_it_and_3_percent(cells, tmp_path):
    chosen = drawn(cells, 10)
    broken = CellCrashedError("the process ended as crash: hm")
    gpu = FakeGpu([0.0] * 10, fails={3: True, 4: broken})
    found = prove(chosen, gpu, predict(), None, tmp_path)
    assert [gpu.limits[cell.cell_id] for cell in chosen] == [round(1.03 * need(number)) for number in range(10)]
    capped = found["summary"]["errors"]["all"]["capped"]
    assert (capped["n"], capped["failed"], capped["ended_otherwise"]) == (9, 1, [str(broken)])
    assert capped["share"] == pytest.approx(1 / 9)
    text = (tmp_path / "README.md").read_text()
    assert "that fail ≤ 1 % | 11.11 % of 9 | **no** |" in text
    assert f"`{chosen[4].cell_id}` under its prediction: the process ended as crash: hm" in text
    assert "| all | settings ≥ 60 | 10 | **no** |" in text


def test_the_same_command_goes_on_and_another_prediction_is_run_anew(cells, tmp_path):
    chosen = drawn(cells, 4)
    first = FakeGpu([0.0] * 4, fails={1: CellCrashedError("killed"), 2: True})
    prove(chosen, first, predict(), None, tmp_path)
    second = FakeGpu([0.0] * 4)
    found = prove(chosen, second, predict(), None, tmp_path)
    assert [*second.limits] == [chosen[1].cell_id]  # what was not decided
    assert [row["capped"]["out_of_memory"] for row in found["settings"]] == [False, False, True, False]
    (tmp_path / "capped" / f"{chosen[0].cell_id}.json").write_text(
        json.dumps({"limit_bytes": 1, "out_of_memory": True, "reason": None})
    )
    third = FakeGpu([0.0] * 4)
    prove(chosen, third, predict(), None, tmp_path)
    assert [*third.limits] == [chosen[0].cell_id]


def test_what_was_not_measured_is_told_and_counts_for_nothing(cells, tmp_path):
    chosen = drawn(cells, 6)
    gpu = FakeGpu([0.0] * 6, outcomes={1: Outcome.OOM_GPU, 2: Outcome.CRASH}, nvml=False)
    found = prove(chosen, gpu, predict(refused=(0,)), "a100-80g", tmp_path)
    summary = found["summary"]
    assert (summary["settings"], summary["compared"], found["device"]) == (6, 3, "a100-80g")
    assert summary["errors"]["all"]["reserved"]["n"] == 3
    assert summary["errors"]["all"]["nvml"] == {"n": 0, "reason": "no permission"}
    assert summary["verdicts_of_fit"] == {"fits: ran": 3, "fits: out of memory": 1}
    assert {*gpu.limits} == {cell.cell_id for cell in chosen[3:]}
    text = (tmp_path / "README.md").read_text()
    assert "nvml: median ≤ 2 % | not measured (no permission) | – |" in text
    assert f"- `{chosen[0].cell_id}`: ok, not predicted: no rule" in text
    assert f"- `{chosen[1].cell_id}`: oom_gpu, tried to allocate" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_ends_with_2_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["predict_gpu", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path / "none")]
    monkeypatch.setattr("sys.argv", arguments)
    assert predict_gpu.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("predict_gpu: torch sees no CUDA device here; run this on a machine whose GPU")
    assert not (tmp_path / "out").exists()
