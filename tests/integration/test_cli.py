"""The commands as a user meets them: exit codes, one-line errors, and only JSON on stdout with ``--json``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import slr_bench as package
from slr_bench.errors import ConfigError
from slr_bench.run import runner

MODULE = [sys.executable, "-m", "slr_bench"]
SCRIPT = Path(sys.executable).with_name("slr-bench")
FAULTY = {"workload": "faulty", "repeats": 1, "device": "cpu"}


def imported_by(*arguments: object, cwd: Path) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run the command; return it with the top-level packages that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "slr_bench", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return done, {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize("command", [[], ["run"], ["report"], ["compare"], ["gate"], ["watch"], ["doctor"], ["schema"]])
def test_help_imports_nothing_heavy(command, tmp_path):
    done, imported = imported_by(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert "typer" in imported
    assert not imported & {"torch", "torchvision", "matplotlib", "pandas", "av", "numpy", "psutil", "pynvml"}


def test_installed_script_prints_the_help_of_the_module():
    by_script = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, timeout=60, check=True)
    by_module = subprocess.run(
        [sys.executable, "-m", "slr_bench", "--help"], capture_output=True, text=True, timeout=60
    )
    assert by_script.stdout.split() == by_module.stdout.replace("python -m slr_bench", "slr-bench").split()


def test_misspelt_model_key_is_reported_before_torch_is_imported(write_grid, tmp_path):
    path = write_grid({"workload": "train_step", "set": {"model.num_clases": 20}})
    done, imported = imported_by("run", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown key 'model.num_clases'; did you mean 'num_classes'?" in done.stderr
    assert "torch" not in imported


STEP = {"workload": "train_step"}


@pytest.mark.parametrize(
    ("grid", "options", "words"),
    [
        (STEP | {"repeat": 3}, [], ["unknown key 'repeat'", "'repeats'?"]),
        (STEP | {"axes": {"training.batchsize": [2]}}, [], ["axes", "'training.batchsize'", "'training.batch_size'?"]),
        (STEP | {"arms": {"a": {"training.precison": "fp32"}}}, [], ["arm 'a'", "'precision'?"]),
        (STEP, ["--set", "modle.num_classes=3"], ["'modle'", "'model'?"]),
        (STEP, ["--set", "repeats=1"], ["repeats is a key of a grid file", "or pass --repeats to run"]),
        (STEP, ["--set", "timeout_s=1"], ["timeout_s is a key of a grid file, not of a setting"]),
        (STEP, ["--set", "training.batch_size"], ["--set", "KEY=VALUE"]),
        (STEP, ["--set", "training.batch_size=0"], ["training.batch_size", "greater than or equal to 1", "got 0"]),
        (STEP, ["--arm", "optimised"], ["no arm 'optimised'"]),
        (STEP, ["--device", "tpu"], ["--device", "'tpu'"]),
        (STEP, ["--set", "data.dir=no/such/place"], ["no directory no/such/place", "check the path"]),
        (STEP, ["--set", "data.dir=data/synthetic"], ["no directory data/synthetic", "`make data`"]),
        (STEP, ["--set", "data.num_frames=8"], ["'data.num_frames'", "'model.num_frames'?"]),
        (STEP, [], ["data.dir is not set", "--set data.dir="]),
        ({"workload": "train_stepp"}, [], ["no workload 'train_stepp' is registered", "'train_step'?"]),
        (STEP | {"exclude": [{}]}, [], ["grid is empty", "exclude"]),
        (STEP | {"axes": {"training.batch_size": []}}, [], ["axes.training.batch_size", "at least 1"]),
        ("workload: [", [], ["grid.yml: not valid YAML"]),
        ("", [], ["grid.yml: the file is empty"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_mistake_is_reported_in_one_line_before_any_file_is_made(write_grid, slr_bench, tmp_path, grid, options, words):
    done = slr_bench("run", write_grid(grid), *options)
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert all(line.startswith("slr-bench: ") for line in done.stderr.splitlines())
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yml"]


def test_missing_file_is_reported(slr_bench):
    done = slr_bench("run", "absent.yml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "slr-bench: cannot read configuration absent.yml: No such file or directory; check the path\n"


def test_directory_without_videos_is_reported(write_grid, slr_bench, tmp_path):
    (tmp_path / "data").mkdir()
    done = slr_bench("run", write_grid(STEP), "--set", "data.dir=data")
    assert done.returncode == 2
    assert done.stderr.startswith("slr-bench: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_output_directory_that_is_a_file_is_refused(write_grid, slr_bench, tmp_path, out):
    (tmp_path / "file").write_text("mine")
    done = slr_bench("run", write_grid(FAULTY), "--out", out)
    assert done.returncode == 2
    assert "Not a directory; choose another with --out" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only directory")
def test_output_directory_that_is_not_writable_is_refused(write_grid, slr_bench, tmp_path):
    path = write_grid(FAULTY)
    tmp_path.chmod(0o500)
    done = slr_bench("run", path, "--out", "run")
    assert done.returncode == 2
    assert "Permission denied; choose another with --out" in done.stderr


def test_unknown_option_is_a_usage_error(slr_bench):
    done = slr_bench("run", "grid.yml", "--repeat", "3")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workload", ["train_step", "faulty"])
def test_schema_is_one_json_document(slr_bench, workload):
    done = slr_bench("schema", workload)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["type"] == "object"


def test_schema_describes_every_key(slr_bench):
    schema = json.loads(slr_bench("schema").stdout)
    training = schema["$defs"]["TrainingConfig"]["properties"]
    assert {"batch_size", "gradient_accumulation_steps", "mixed_precision"} <= training.keys()
    assert all(text.get("description") for text in training.values())


def test_schema_of_grid_files_is_one_json_document(slr_bench):
    done = slr_bench("schema", "--grid")
    assert (done.returncode, done.stderr) == (0, "")
    assert "training.batch_size" in json.loads(done.stdout)["properties"]["axes"]["properties"]


def test_schema_is_written_as_markdown_or_as_json_but_not_as_both(slr_bench):
    done = slr_bench("schema", "--markdown", "faulty")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Configuration\n")
    assert "| `mode` | `ok`, `sigkill`" in done.stdout
    both = slr_bench("schema", "--markdown", "--grid")
    assert (both.returncode, both.stdout) == (2, "")
    assert "give one of them" in both.stderr


def test_schema_of_an_unknown_workload_is_refused(slr_bench):
    done = slr_bench("schema", "train_stp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'train_step'?" in done.stderr


def test_run_with_a_crashed_cell_exits_with_7_and_writes_json_and_report(write_grid, slr_bench, quick_server, tmp_path):
    grid = FAULTY | {"axes": {"fault.mode": ["ok", "unsupported", "sigkill"]}}
    done = slr_bench("run", write_grid(grid), "--out", "run", "--json")
    assert done.returncode == 7, done.stderr
    summary = json.loads(done.stdout)
    assert summary.keys() == {"run_dir", "cells", "outcomes", "duration_s", "harness_s_per_cell"}
    assert summary["outcomes"] == {"ok": 1, "unsupported": 1, "crash": 1}
    assert (summary["run_dir"], summary["cells"]) == ("run", 3)
    assert summary["harness_s_per_cell"] > 0
    assert {"report.html", "report.md", "grid.json", "records"} <= {path.name for path in (tmp_path / "run").iterdir()}
    again = slr_bench("report", "run", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run_dir"] == "run"


def test_cells_larger_than_one_that_ran_out_of_memory_are_skipped(write_grid, slr_bench):
    """A float32 of 2**36 elements fails under the limit; 2**37 is not tried."""
    sizes = {"fault.size": [1, 1 << 36, 1 << 37]}
    path = write_grid({"workload": "hungry", "axes": sizes, "repeats": 1, "device": "cpu", "ram_limit": "16GiB"})
    first = slr_bench("run", path, "--out", "run", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["outcomes"] == {"ok": 1, "oom_host": 1, "skipped_dominated": 1}


@pytest.mark.parametrize(
    ("options", "reached"),
    [
        ([], {"fake": False, "retry": False, "skip": True}),
        (["--no-skip"], {"fake": False, "retry": False, "skip": False}),
        (["--retry", "--fake"], {"fake": True, "retry": True, "skip": True}),
    ],
)
def test_options_reach_the_runner(write_grid, slr_bench, monkeypatch, options, reached):
    """The tests of the runner check what it does with them."""
    received = {}

    def stop(grid, cells, store, *, command, **options):
        received.update(options)
        raise ConfigError("far enough")

    monkeypatch.setattr(runner, "Runner", stop)
    assert slr_bench("run", write_grid(FAULTY), *options).returncode == 2
    assert received == reached


def test_aa_run_leaves_interleaved_pairs_of_one_cell(write_grid, slr_bench, quick_server, tmp_path):
    done = slr_bench("run", write_grid(FAULTY | {"repeats": 2}), "--aa", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "run" / "records").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.stem[-1] for path in paths] == ["0", "0", "1", "1"]
    assert {path.stem[-3:] for path in paths} == {"a-0", "b-0", "b-1", "a-1"}
    assert len({path.stem[:-4] for path in paths}) == 1
    assert json.loads(done.stdout)["cells"] == 1


def test_run_without_a_measurement_exits_with_5_and_the_reason(write_grid, slr_bench, quick_server):
    done = slr_bench("run", write_grid(FAULTY | {"set": {"fault.mode": "unsupported"}}), "--json")
    assert (done.returncode, done.stdout) == (5, "")
    assert "nothing was measured" in done.stderr
    assert "this machine cannot do it" in done.stderr
    assert "Traceback" not in done.stderr


def test_default_run_directory_of_another_source_is_renamed(write_grid, slr_bench, quick_server, tmp_path):
    earlier = tmp_path / "reports" / "latest"
    (earlier / "records").mkdir(parents=True)
    (earlier / "records" / "of-another-time.json").write_text("{}")
    manifest = {"schema": 1, "workload": "faulty", "source_hash": "of another time", "config_hash": "", "cells": []}
    (earlier / "grid.json").write_text(json.dumps(manifest | {"environment": {}, "command": ""}))
    done = slr_bench("run", write_grid(FAULTY))
    assert done.returncode == 0, done.stderr
    assert "are now in reports/latest-1" in done.stdout
    assert [path.name for path in (tmp_path / "reports/latest-1/records").iterdir()] == ["of-another-time.json"]
    assert len(list((earlier / "records").iterdir())) == 1
    assert json.loads((earlier / "grid.json").read_text())["source_hash"] != "of another time"


def test_plain_training_file_is_a_grid_of_one_cell(tmp_path, slr_bench):
    """The command ends at the data, which is not set."""
    (tmp_path / "training.yml").write_text(yaml.safe_dump({"training": {"batch_size": 2}}))
    done = slr_bench("run", "training.yml")
    assert done.returncode == 2
    assert "data.dir is not set" in done.stderr


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["doctor", "--json"]])
def test_command_ends_quietly_if_the_reader_of_its_pipe_closes_it(arguments):
    process = subprocess.Popen([*MODULE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode in (0, 141)


def test_closed_stdout_is_no_error():
    done = subprocess.run(f"'{sys.executable}' -m slr_bench schema >&-", shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_version_is_printed():
    done = subprocess.run([*MODULE, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"slr-bench {package.__version__}\n")


def test_output_that_cannot_be_written_ends_with_a_line_and_a_code_of_its_own():
    with open("/dev/full", "w") as full:
        done = subprocess.run([SCRIPT, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        74,
        "slr-bench: the output: No space left on device; free space, or choose another place\n",
    )


def test_deleted_working_directory_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {SCRIPT} compare a b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (74, "slr-bench: the working directory is gone; change to another\n")


def test_mistake_of_the_program_does_not_end_with_the_code_of_a_regression(slr_bench, monkeypatch):
    monkeypatch.setattr("slr_bench.grid.schema.training_schema", lambda spec: [][0])
    done = slr_bench("schema")
    assert done.returncode == 70
    assert "IndexError" in done.stderr
    assert done.stderr.endswith("slr-bench: this is a mistake of slr-bench; please report it with the lines above\n")


HOSTILE = ["\x1b[31mred\x1b[0m\a", "\u202eevil", "a\n# b"]


def test_names_from_files_reach_terminal_and_errors_without_control_characters(slr_bench, write_grid):
    grid = write_grid(FAULTY | {"arms": {name: {"fault.mode": "ok"} for name in HOSTILE}})
    done = slr_bench("run", grid, "--out", "run")
    assert done.returncode == 0
    assert "red" in done.stdout
    assert "evil" in done.stdout
    assert not re.search(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\u202e]", done.stdout + done.stderr)
    assert not re.search(r"(?m)^# b", done.stdout)
    done = slr_bench("run", "\x1b[31mno\u202e.yml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.rstrip("\n").isprintable()
