"""Calibration of a fake card: the results are the figures that the card was given, in closed form."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from fake_gpu import FACTS, FakeGpu, ToyStep
from step_profiles import step_profile

from slr_bench.errors import CellCrashedError, UnsupportedSettingError
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid
from slr_bench.predict import device
from slr_bench.predict.allocator.golden import read_golden
from slr_bench.predict.allocator.verdict import golden_differences
from slr_bench.predict.calibrate import calibrate, card_name, device_entry
from slr_bench.predict.device import Estimate, find_device, known_devices
from slr_bench.predict.peak import predict_step
from slr_bench.trace.requests import ALLOCATE, LIBRARY, TRANSIENT, UNMODELLED
from slr_bench.units import MIB
from slr_bench.worker.calibrate import measured_operators, recorded_steps
from slr_bench.worker.operator_cases import CASES, OperatorCase, rule_of

CONTEXTS = (390, 400, 410, 430)
"""MiB beside the allocator, per process."""


def half_or_quarter(case):
    """Half of the bound if all of it is expected, otherwise a quarter."""
    rule = rule_of(case)
    return rule.most_bytes // (2 if rule.expected_bytes == rule.most_bytes else 4)


class FakeJobs:
    """Jobs on a fake card; the contexts of the steps differ."""

    def __init__(self, contexts=CONTEXTS, broken=(), **gpu):
        self.contexts, self.broken, self.gpu = iter(contexts), broken, {"scratch": half_or_quarter, **gpu}
        self.cells = []

    def operators(self, on_progress):
        return measured_operators(FakeGpu(**self.gpu), CASES, on_progress)

    def steps(self, cell):
        self.cells.append(cell)
        if len(self.cells) - 1 in self.broken:
            raise CellCrashedError("the process ended as oom_gpu: too small a card")
        gpu = FakeGpu(context=next(self.contexts) * MIB, **self.gpu)
        return recorded_steps(gpu, lambda: ToyStep(gpu), warmup_steps=1)


@pytest.fixture(scope="module")
def cells():
    grid = load_grid(files("slr_bench").joinpath("..", "configs", "calibrate.yml"))
    return expand(grid, {"data.dir": None})[:4]


@pytest.fixture(scope="module")
def measured(cells):
    return calibrate(cells, FakeJobs(), lambda text: None)


def test_every_case_has_a_rule_and_products_come_first():
    kinds = [case.is_product for case in CASES]
    assert kinds == sorted(kinds, reverse=True)
    assert sum(kinds) == 9
    assert len({case.title for case in CASES}) == len(CASES) == 104
    assert all(rule_of(case).is_modelled for case in CASES)
    sure = [case for case in CASES if 0 < rule_of(case).expected_bytes == rule_of(case).most_bytes]
    assert {(case.precision, case.layout) for case in sure} == {("bf16", "channels first"), ("fp16", "channels first")}
    assert len(sure) == 2 * 2 * 6  # precisions, forward and backward, layers


def test_inner_memory_of_an_operator_is_measured_to_the_byte_without_kept_memory():
    sizes = {case.title: 1000 * number for number, case in enumerate(CASES)}
    rows = measured_operators(FakeGpu(lambda case: sizes[case.title], cublas=33 * MIB + 1), CASES)["operators"]
    assert [row["workspace_bytes"] for row in rows] == list(sizes.values())
    assert [row["kept_bytes"] for row in rows] == [33 * MIB + 1] + [0] * (len(CASES) - 1)
    assert all(row["reason"] is None for row in rows)


def test_first_call_costs_the_context_only():
    first = measured_operators(FakeGpu(context=321 * MIB), ())["first_call"]
    assert first == {"bytes": 321 * MIB, "source": "NVML process", "reason": None}


def test_operator_that_the_card_refuses_costs_no_other():
    def refuse(case):
        if case.precision == "bf16" and case.name == "mm":
            raise RuntimeError("not implemented\nfor 'BFloat16'")
        return 5

    rows = measured_operators(FakeGpu(refuse), CASES[:4])["operators"]
    assert [row["workspace_bytes"] for row in rows] == [5, None, 5, 5]
    assert rows[1]["reason"] == "not implemented for 'BFloat16'"


def test_entry_has_the_figures_of_the_card(measured):
    entry = measured.entry
    assert measured.name == "h200"
    assert entry["cublas_workspace_bytes"] == 32 * MIB
    assert entry["shares"]["sure"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert entry["shares"]["possible"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    beyond = round(40 * MIB / 3)
    assert entry["context_bytes"] == {"median": 405 * MIB, "low": 390 * MIB - beyond, "high": 430 * MIB + beyond}
    assert (entry["not_measured"], list(measured.notes)) == ([], [])
    assert entry["measured_on"] == "NVIDIA H200, torch 2.14.1+cu130, CUDA 13.0, driver 580.1"
    assert len(entry["operators"]) == len(CASES)


def test_largest_product_counts_if_torch_keeps_no_workspace():
    entry = device_entry(measured_operators(FakeGpu(lambda case: 7 * MIB, cublas=0), CASES[:9]), [])
    assert entry["cublas_workspace_bytes"] == 7 * MIB
    assert entry["shares"] is None
    assert entry["context_bytes"] is None
    assert len(entry["not_measured"]) == 2


def read_back(entry_files, tmp_path, monkeypatch):
    place = tmp_path / "devices"
    (place / "known.json").write_text((files("slr_bench.predict") / "devices" / "known.json").read_text())
    assert entry_files[0].parent == place
    monkeypatch.setattr(device, "files", lambda package: tmp_path)
    return find_device("h200")


STEP = step_profile([ALLOCATE, 0, 100 * MIB], [LIBRARY, 0, 0], [TRANSIENT, 80 * MIB, 80 * MIB])


def test_measured_card_is_read_back_and_narrows_the_interval(measured, tmp_path, monkeypatch):
    by_rule = predict_step(STEP, find_device("h200"))
    assert by_rule.requested == Estimate(212 * MIB, 132 * MIB, 212 * MIB)
    written = measured.write(tmp_path / "devices", tmp_path / "traces")
    card = read_back(written, tmp_path, monkeypatch)
    found = predict_step(STEP, card)
    assert found.requested == Estimate(172 * MIB, 172 * MIB, 172 * MIB)  # exactly half of 80 MiB
    assert found.nvml.value == found.reserved.value + 405 * MIB
    assert found.nvml.high - found.nvml.low < by_rule.nvml.high - by_rule.nvml.low
    answer = found.to_dict()
    assert (answer["calibrated"], answer["calibration"]) == (True, measured.entry["measured_on"])
    assert by_rule.to_dict()["calibration"] is None
    assert card.rates == known_devices()["h200"].rates


@pytest.mark.parametrize(
    ("expected", "most", "ends"),
    [
        (0, 80, (120, 120, 120)),  # a quarter
        (80, 80, (140, 140, 140)),
        (40, 80, (120, 120, 120)),
        (0, 1, (100, 100, 101)),  # too small to be measured, so the rule holds
    ],
)
def test_shares_replace_rules_for_large_bounds(measured, tmp_path, monkeypatch, expected, most, ends):
    card = read_back(measured.write(tmp_path / "devices", None), tmp_path, monkeypatch)
    requests = [[ALLOCATE, 0, 100 * MIB], [TRANSIENT, expected * MIB, most * MIB]]
    found = predict_step(step_profile(*requests), card).requested
    assert (found.low, found.value, found.high) == tuple(size * MIB for size in ends)
    requests[1][0] = UNMODELLED  # the measured fractions do not bound it
    found = predict_step(step_profile(*requests), card).requested
    assert found == Estimate((100 + expected) * MIB, 100 * MIB, (100 + most) * MIB)


def test_missing_measurement_keeps_its_rule_and_is_noted(cells, tmp_path, monkeypatch):
    by_rule = find_device("h200")
    found = calibrate(cells, FakeJobs(broken=(0, 2)), lambda text: None)
    assert found.entry["context_bytes"] is None
    assert len(found.traces) == 2
    assert [note.partition(":")[0].partition(" (")[0] for note in found.notes] == [
        f"no trace of {cells[0].arm}",
        f"no trace of {cells[2].arm}",
        "context",
    ]
    card = read_back(found.write(tmp_path / "devices", None), tmp_path, monkeypatch)
    assert card.context == by_rule.context
    assert not card.is_calibrated
    assert card.shares is not None


def test_traces_are_written_with_card_torch_and_setting(measured, cells, tmp_path):
    written = measured.write(tmp_path / "devices", tmp_path / "traces")
    names = [path.name for path in written]
    assert names == ["h200.json", *(f"h200_2.14.1_{cell.cell_id}.json.gz" for cell in cells)]
    for cell, path in zip(cells, written[1:], strict=True):
        trace = read_golden(path)
        assert golden_differences(trace) == []
        assert trace.setting["setting"] == json.loads(json.dumps(cell.public_setting))


def test_trace_that_is_not_replayed_to_the_byte_is_kept_and_noted(cells):
    class WrongPeak(FakeJobs):
        def steps(self, cell):
            found = super().steps(cell)
            found["peaks"]["peak_reserved_bytes"] += 1
            return found

    found = calibrate(cells, WrongPeak(), lambda text: None)
    assert len(found.traces) == 4
    assert len(found.notes) == 4
    assert all("is not replayed to the byte: peak_reserved_bytes" in note for note in found.notes)


def test_operator_above_its_bound_is_noted():
    def more(case):
        return rule_of(case).most_bytes + (1 if case.name == "flash attention" else 0)

    chosen = [case for case in CASES if case.name in ("flash attention", "native_layer_norm_backward")]
    found = calibrate([], FakeOperators(more, chosen), lambda text: None)
    assert [note for note in found.notes if "bound" in note] == [
        f"flash attention, {precision}: 4259841 bytes, the rule's bound is 4259840" for precision in ("bf16", "fp16")
    ]


class FakeOperators(FakeJobs):
    def __init__(self, scratch, cases: list[OperatorCase]):
        super().__init__(scratch=scratch)
        self.cases = cases

    def operators(self, on_progress):
        return measured_operators(FakeGpu(**self.gpu), self.cases, on_progress)


def test_calibration_fails_without_a_gpu():
    class NoGpu(FakeJobs):
        def operators(self, on_progress):
            raise UnsupportedSettingError("none")

    with pytest.raises(UnsupportedSettingError):
        calibrate([], NoGpu(), lambda text: None)


class TestContextByTheDevice:
    """The context on a driver that does not report a process's memory."""

    def context(self, **state):
        gpu = FakeGpu(context=300 * MIB)
        gpu.tells_process = False
        for name, value in state.items():
            setattr(gpu, name, value)
        return recorded_steps(gpu, lambda: ToyStep(gpu), warmup_steps=0)["context"]

    def test_context_is_the_memory_over_idle_if_the_process_is_alone(self):
        assert self.context() == {
            "bytes": 300 * MIB, "source": "NVML device over idle (GPU exclusive)", "reason": None
        }  # fmt: skip
        assert "taken as exclusive" in self.context(strangers=None)["source"]

    @pytest.mark.parametrize(
        ("state", "reason"),
        [({"strangers": (7, 8)}, "2 other processes"), ({"tells_device": False}, "keeps it to itself")],
    )
    def test_unknown_context_is_null_with_a_reason(self, state, reason):
        found = self.context(**state)
        assert found["bytes"] is None
        assert reason in found["reason"]


@pytest.mark.parametrize(
    ("title", "gib", "name"),
    [
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA H100 NVL", 93.1, "h100-nvl"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80g"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40g"),
        ("NVIDIA GeForce RTX 3060", 11.7, "rtx3060"),
        ("NVIDIA GeForce RTX 3060", 7.8, "geforce-rtx-3060"),
        ("NVIDIA GeForce RTX 4070 Ti", 11.6, "geforce-rtx-4070-ti"),
        ("NVIDIA RTX A6000", 47.4, "a6000"),
        ("Tesla V100-SXM2-16GB", 15.77, "v100-16g"),
        ("Tesla T4", 14.6, "t4"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.5, "h100-80gb-hbm3-mig-1g-10gb"),
    ],
)
def test_card_has_the_listed_name_if_model_and_size_match(title, gib, name):
    assert card_name(title, round(gib * 2**30), known_devices()) == name


def test_facts_of_the_card_are_kept(measured):
    assert measured.entry["facts"] == FACTS
    assert measured.entry["capacity_bytes"] == FACTS["capacity_bytes"]
