"""``slr-bench plan``: the fastest setting that fits, its reasons, and the training file that it writes."""

import json

import pytest

TINY = {
    "model.num_classes": 2,
    "model.base_channels": 8,
    "model.num_frames": 4,
    "model.attention": "none",
    "model.temporal_shift": "plain",
    "model.max_pool": "plain",
    "data.frame_size": 448,
    "training.batch_size": 2,
    "training.gradient_accumulation_steps": 6,
}
ONE_KNOB = ["--keep", "training.precision", "--keep", "model.stem"]


@pytest.fixture
def grid(write_grid):
    return write_grid({"workload": "train_step", "set": TINY})


def test_plan_fits_its_budget_has_reasons_and_writes_a_file_that_is_predicted_to_fit(slr_bench, grid, tmp_path):
    chosen, picture = tmp_path / "chosen.yml", tmp_path / "plan.png"
    files = ["--out", str(chosen), "--picture", str(picture)]
    done = slr_bench("plan", grid, "--gpu-memory", "1100MiB", *ONE_KNOB, *files, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    room = found["budget_bytes"] - found["headroom_bytes"]
    assert (found["budget_bytes"], found["headroom_bytes"]) == (1100 << 20, 55 << 20)
    assert found["chosen"]["need_bytes"] == found["chosen"]["predicted"]["nvml_bytes"]["high"] <= room
    training = found["chosen"]["setting"]["training"]
    assert training["batch_size"] * training["gradient_accumulation_steps"] == 12
    assert training["recompute"] != "none" or training["batch_size"] < 12  # all at once does not fit
    over = [one for one in found["rejected"] if one["bytes"] > 0]
    slower = [one for one in found["rejected"] if one["bytes"] == 0]
    assert all("needs" in one["reason"] for one in over)
    assert all("slower" in one["reason"] or "giving cached memory back" in one["reason"] for one in slower)
    assert any("slower" in one["reason"] for one in slower)
    assert found["chosen"]["predicted"]["tight"] is False
    assert over
    assert slower
    front = [(point["step_time_s"], point["need_bytes"]) for point in found["pareto"]]
    assert front == sorted(front)
    assert [need for _, need in front] == sorted((need for _, need in front), reverse=True)
    assert any("model.region_focus" in reason for reason in found["left_alone"])
    assert picture.read_bytes().startswith(b"\x89PNG")

    again = slr_bench("predict", chosen, "--device", f"{room // 2**20}MiB", "--json")
    assert again.returncode == 0, again.stderr
    prediction = json.loads(again.stdout)
    assert prediction["fits"] is True
    assert prediction["setting"] == found["chosen"]["setting"]
    assert prediction["nvml_bytes"] == found["chosen"]["predicted"]["nvml_bytes"]


def test_budget_that_nothing_fits_exits_with_6_and_the_parts_of_the_least_need(slr_bench, grid):
    kept = [word for key in ("training.recompute", "training.precision", "model.stem") for word in ("--keep", key)]
    done = slr_bench("plan", grid, "--gpu-memory", "100MiB", *kept)
    assert done.returncode == 6
    for words in ("nothing fits 95.0 MiB (100.0 MiB less 5 % headroom)", "context", "parameter", "operators' floor",
                  "leave out --keep training.recompute or ", "--allow"):  # fmt: skip
        assert words in done.stderr
    assert done.stdout == ""
    assert sum(not line.startswith("traced ") for line in done.stderr.strip().splitlines()) == 1  # beside the progress


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, ["--gpu-memory 6GiB", "--slower 10"]),
        (["--gpu-memory", "6"], 2, ["--gpu-memory", "no unit", "6GiB"]),
        (["--gpu-memory", "0GiB"], 2, ["0 bytes"]),
        (["--device", "rtx40600"], 2, ["'rtx4060' (7.63 GiB)?"]),
        (["--gpu-memory", "6GiB", "--keep", "training.precison"], 2, ["'training.precision'?"]),
        (["--gpu-memory", "6GiB", "--allow", "model.focus"], 2, ["--allow", "model.focus"]),
        (["--gpu-memory", "6GiB", "--vary", "training.batch_size"], 2, ["KEY=A,B"]),
        (["--gpu-memory", "6GiB", "--device", "cpu"], 2, ["predict --device cpu"]),
        (["--gpu-memory", "6GiB", "--measure"], 5, ["torch finds none here"]),
        (["--gpu-memory", "6GiB", "--vary", "training.bach_size=1,2"], 2, ["'training.batch_size'?"]),
        (["--gpu-memory", "6GiB", "--workload", "train_epochs"], 2, ["'train_step'?"]),
        (["--gpu-memory", "6GiB", "--vary", "training.epochs=[1,"], 2, ["--vary", "not valid YAML"]),
        (["--gpu-memory", "6GiB", "--vary", "training.precision=fp32,fp8"], 2, ["--vary training.precision", "fp8"]),
        (["--gpu-memory", "6GiB", "--vary", "training.batch_size=5"], 2, ["5 does not divide", "12"]),
        (["--gpu-memory", "6GiB", "--alloc-conf", "expandable:True"], 2, ["'expandable_segments'?"]),
        (["--gpu-memory", "6GiB", "--slower", "10"], 2, ["--slower", "leave out --gpu-memory"]),
        (["--gpu-memory", "64GiB", "--device", "gtx1650"], 2, ["64GiB", "more than the 3.81 GiB"]),
        (["--gpu-memory", "6GiB", "--out", "nowhere/chosen.yml"], 2, ["nowhere", "create it"]),
        (["--gpu-memory", "6GiB", "--out", "."], 2, ["cannot write .: Is a directory; choose another path"]),
        (["--gpu-memory", "6GiB", "--picture", "plan.bmp"], 2, ["neither PNG nor SVG"]),
    ],
)
def test_mistake_is_refused_in_one_line_before_anything_is_traced(slr_bench, grid, options, code, words):
    done = slr_bench("plan", grid, *options)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
