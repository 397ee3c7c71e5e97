"""``slr-bench predict``: predictions as text, as a JSON object and as an exit code."""

import json

import pytest

KEYS = {
    "setting",
    "device",
    "requested_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "nvml_bytes",
    "by_category",
    "unmodelled",
    "capacity_bytes",
    "fits",
}
ESTIMATES = ("requested_bytes", "allocated_bytes", "reserved_bytes", "nvml_bytes")
TINY = {
    "model.num_classes": 2,
    "model.base_channels": 8,
    "model.num_frames": 4,
    "model.attention": "none",
    "data.frame_size": 32,
    "training.batch_size": 2,
    "training.gradient_accumulation_steps": 6,
}
GRID = {
    "workload": "train_step",
    "set": TINY,
    "arms": {"baseline": {"training.recompute": "none"}, "optimized": {"training.recompute": "block"}},
    "also": [{"workload": "train_epochs", "set": {"training.epochs": 1}}],
}


def test_setting_on_a_card_is_printed_as_an_object(slr_bench, write_grid):
    """The command needs no data, and stdout has only the object."""
    done = slr_bench("predict", write_grid(GRID), "--arm", "optimized", "--device", "24GiB", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    for name in ESTIMATES:
        estimate = found[name]
        assert estimate.keys() == {"value", "low", "high"}
        assert 0 < estimate["low"] <= estimate["value"] <= estimate["high"]
    values = [found[name]["value"] for name in ESTIMATES]
    assert values == sorted(values)
    assert found["requested_bytes"]["value"] >= found["peak_tensor_bytes"] == sum(found["by_category"].values())
    assert found["capacity_bytes"] == 24 << 30
    assert found["fits"] is True
    assert found["source"] == "cuda-rules"
    assert found["setting"]["training"]["gradient_accumulation_steps"] == 6


def test_grid_that_does_not_fit_exits_with_6_and_judges_every_cell(slr_bench, write_grid):
    """A whole training in the grid is left out. A cell that cannot be traced has its reason among the others."""
    grid = {
        "workload": "faulty",
        "axes": {"fault.mode": ["ok", "nonzero"], "fault.size": [1 << 20, 1 << 21]},
        "also": [{"workload": "train_epochs", "set": {"training.epochs": 1}}],
    }
    done = slr_bench("predict", write_grid(grid), "--grid", "--device", "300 MiB", "--json")
    assert done.returncode == 6, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [(cell["workload"], *cell["coordinates"].values()) for cell in cells] == [
        ("faulty", mode, size) for mode in ("ok", "nonzero") for size in (1 << 20, 1 << 21)
    ]
    assert [cell["peak_tensor_bytes"] for cell in cells[:2]] == [4 << 20, 8 << 20]
    assert [cell["fits"] for cell in cells[:2]] == [False, False]
    assert all("aten.nonzero" in cell["unsupported"] for cell in cells[2:])
    assert "Traceback" not in done.stderr


def test_interpolated_cell_of_a_grid_equals_the_prediction_of_its_setting(slr_bench, write_grid):
    tiny = TINY | {"model.temporal_shift": "plain", "model.max_pool": "plain"}
    grid = write_grid({"workload": "train_step", "set": tiny, "axes": {"training.batch_size": [2, 4, 6]}})
    done = slr_bench("predict", grid, "--grid", "--device", "24GiB", "--json")
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [cell["told_from_micro_batches"] for cell in cells] == [None, [2, 6], None]
    alone = slr_bench("predict", grid, "--device", "24GiB", "--set", "training.batch_size=4", "--json")
    traced = json.loads(alone.stdout)
    assert traced["told_from_micro_batches"] is None
    differing = {"cell_id", "arm", "workload", "coordinates", "setting", "told_from_micro_batches", "loader_refusal"}
    assert {k: v for k, v in cells[1].items() if k not in differing} == {
        k: v for k, v in traced.items() if k not in differing
    }


@pytest.mark.parametrize("command", [["predict"], ["plan", "--gpu-memory", "6GiB"]])
def test_step_that_cannot_be_traced_is_refused_with_operator_line_and_cure(slr_bench, write_grid, command):
    done = slr_bench(*command, write_grid({"workload": "faulty", "set": {"fault.mode": "nonzero"}}))
    assert done.returncode == 5
    for words in ("aten.nonzero", "faulty_workload.py:", "torch.ones(4).nonzero()", "profile without --fake"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_every_known_card_is_judged_without_a_device(slr_bench, write_grid):
    grid = write_grid({"workload": "faulty", "set": {"fault.size": 1 << 30}})
    cards = json.loads(slr_bench("predict", grid, "--json").stdout)["cards"]
    assert len(cards) >= 25
    assert (cards["gtx1650"]["fits"], cards["h200"]["fits"]) == (False, True)
    assert all(card["lacks"] is None for card in cards.values())
    words = slr_bench("predict", grid).stdout.replace("\n", " ")
    for verdict in (True, False):
        listed = words.partition("It fits: " if verdict else "It does not fit: ")[2].partition("It ")[0]
        assert all(name in listed for name, card in cards.items() if card["fits"] is verdict)


def test_prediction_for_the_cpu_is_printed_as_text(slr_bench, write_grid):
    done = slr_bench("predict", write_grid({"workload": "faulty", "set": {"fault.size": 1 << 20}}), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for words in ("on the CPU", "It fits: ", "over start", "Tensors at the peak: 4.0 MiB", "exact to the byte"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--device", "h2000"], 2, ["'h200' (139.70 GiB)?", "a100-80g", "cpu", "24GiB"]),
        (["--device", "24"], 2, ["has no unit", "6GiB"]),
        (["--device", "0GiB"], 2, ["0 bytes"]),
        (["--arm", "baseline", "--set", "training.batch_size=two"], 2, ["training.batch_size", "two"]),
        (["--arm", "baseline", "--set", "training.batch_sise=2"], 2, ["batch_size"]),
        (["--arm", "optimised"], 2, ["'optimized'?"]),
        ([], 2, ["baseline, optimized", "--arm"]),
        (["--arm", "baseline", "--workload", "inferenze"], 2, ["--workload"]),
        (["--alloc-conf", "expandable_segment:True"], 2, ["PYTORCH_ALLOC_CONF", "'expandable_segments'?"]),
        (["--device", "cpu", "--alloc-conf", "expandable_segments:True"], 2, ["--alloc-conf", "leave it out"]),
        (["--grid", "--workload", "train_step"], 2, ["--grid", "--workload"]),
        (["--arm", "baseline", "--workload", "train_epochs"], 5, ["train_epochs is a whole training", "--workload"]),
    ],
)
def test_mistake_is_refused_in_one_line_before_anything_is_traced(slr_bench, write_grid, options, code, words):
    done = slr_bench("predict", write_grid(GRID), *options)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
