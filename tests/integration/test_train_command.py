"""The documented command in real processes on tiny real videos: it trains, resumes, and prints errors in one line."""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml

from models.config import Settings, load_settings

ROOT = Path(__file__).parents[2]
TINY = [
    "model.base_channels=8", "model.num_frames=4", "data.frame_size=32", "data.num_workers=0",
    "training.batch_size=2", "training.gradient_accumulation_steps=2", "training.precision=fp32",
    "training.memory_critical_threshold=1.0",  # a full machine must not change the micro-batch here
]  # fmt: skip


def write_video(path, shade):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 48
        for number in range(6):
            frame = np.full((48, 48, 3), shade, np.uint8)
            frame[:, 8 * number : 8 * number + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Render two classes with six training clips and two for validation."""
    root = tmp_path_factory.mktemp("data")
    (root / "videos").mkdir()
    glosses, split = [], {}
    for label, gloss in enumerate(("dark", "light")):
        ids = [f"{label}{index}" for index in range(4)]
        for index, video_id in enumerate(ids):
            write_video(root / "videos" / f"{video_id}.mp4", 40 + 120 * label + 4 * index)
            split[video_id] = {"subset": "train" if index else "val", "action": [label, 1, 6]}
        instances = [
            {"bbox": [0, 0, 48, 48], "fps": 25, "frame_start": 1, "frame_end": -1, "instance_id": index, "signer_id": 0,
             "source": "test", "split": split[name]["subset"], "url": "", "variation_id": 0, "video_id": name}
            for index, name in enumerate(ids)
        ]  # fmt: skip
        glosses.append({"gloss": gloss, "instances": instances})
    (root / "WLASL_v0.3.json").write_text(json.dumps(glosses))
    for count in (2, 100):  # of a hundred classes most have no clip yet
        (root / f"nslt_{count}.json").write_text(json.dumps(split))
    return root


def command(*arguments, settings=()):
    pairs = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "train_efficient_model.py", *map(str, arguments), *pairs]


def run(*arguments, settings=()):
    return subprocess.run(
        command(*arguments, settings=settings), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


DOCUMENTED = """
python train_efficient_model.py \
    --data-dir /path/to/data \
    --output-dir outputs \
    --config configs/efficient_training.yml \
    --num-classes 100
"""


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the documented call for a network that trains in seconds."""
    output = tmp_path_factory.mktemp("trained")
    places = {"/path/to/data": data, "outputs": output}
    python, script, *arguments = [places.get(word, word) for word in shlex.split(DOCUMENTED)]
    assert (python, script) == ("python", "train_efficient_model.py")
    result = run(*arguments, settings=[*TINY, "training.epochs=3"])
    assert result.returncode == 0, result.stderr
    return output, result


def weights(directory):
    return torch.load(directory / "checkpoint.pt", weights_only=True)["parts"]["model"]


def test_training_writes_its_files(data, trained):
    output, result = trained
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint.pt", "config.yml", "metrics.json"]
    lines = result.stderr.splitlines()
    assert lines[:2] == [
        f"training on 6 clips of 100 classes, validating on 2 clips, from {data}; loading torch ...",
        "on the CPU with one thread: 3 epochs of 2 steps, 4 clips per step in fp32",
    ]
    assert lines[2].startswith("a step takes ")
    assert [line.partition("  ")[0] for line in lines[3:-1]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[-1] == (
        f"the trained network is in {output}/checkpoint.pt; evaluate it with: "
        f"python -m models.evaluate --checkpoint {output}/checkpoint.pt --split val"
    )
    epochs = json.loads((output / "metrics.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    settings = load_settings(output / "config.yml")
    assert (settings.model.num_classes, settings.data.dir, settings.training.epochs) == (100, data, 3)


def test_terminated_training_resumes_to_the_same_weights(data, trained, tmp_path):
    """The training has a loader process and dynamic micro-batches; the reference training has neither."""
    arguments = ("--data-dir", data, "--output-dir", tmp_path, "--num-classes", 100)
    settings = [*TINY, "training.epochs=3", "data.num_workers=1", "training.dynamic_batch_size=true"]
    with subprocess.Popen(
        command(*arguments, settings=settings), cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as child:  # fmt: skip
        first_line = next(line for line in child.stderr if line.startswith("epoch "))
        child.send_signal(signal.SIGTERM)
        rest = child.stderr.read()
    assert first_line.startswith("epoch 1/3")
    assert "finishing the step, then saving the checkpoint; send SIGTERM again to stop now\n" in rest
    assert child.returncode == 143, rest
    assert rest.splitlines()[-1].startswith("error: interrupted in epoch ")
    assert "Traceback" not in rest
    elsewhere = tmp_path / "elsewhere"  # outside the repository; the directory that is continued holds its setting
    elsewhere.mkdir()
    resumed = subprocess.run(
        [sys.executable, ROOT / "train_efficient_model.py", "--output-dir", "..", "--resume"],
        cwd=elsewhere, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    evaluation = f"with: PYTHONPATH={ROOT} python -m models.evaluate --checkpoint ../checkpoint.pt --split val"
    assert resumed.stderr.splitlines()[-1].endswith(evaluation)
    expected, found = weights(trained[0]), weights(tmp_path)
    assert all(torch.equal(expected[name], value) for name, value in found.items())


def interrupt_in_terminal(arguments, settings, presses):
    """Train in a terminal, press Ctrl-C after the first epoch as often as given, and return exit code and output."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        os.execve(sys.executable, command(*arguments, settings=settings), os.environ | {"OMP_NUM_THREADS": "1"})
    output = b""

    def read_until(pattern):
        nonlocal output
        while pattern is None or not re.search(pattern, output):
            try:
                output += (part := os.read(terminal, 4096))
            except OSError:  # the terminal is closed with its last process
                part = b""
            if not part:
                return

    for drawn in (
        rb"micro-batch 1/2",
        rb"epoch ([2-9]|\d\d+)/100000  step",
    ):  # a quick machine does not draw every step
        read_until(drawn)
    for _ in range(presses):
        os.write(terminal, b"\x03")
        read_until(b"finishing the step")
    read_until(None)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.decode()


RESUME = "python train_efficient_model.py --output-dir {directory} --resume"
SAVED = "interrupted in epoch {epoch} of 100000; saved {directory}/checkpoint.pt, continue with: " + RESUME
STOPPED = "interrupted; {directory}/checkpoint.pt is unchanged, continue with: " + RESUME


@pytest.mark.parametrize(("presses", "ends"), [(1, [SAVED]), (2, [SAVED, STOPPED])])
def test_ctrl_c_is_answered_and_leaves_a_checkpoint(data, tmp_path, presses, ends):
    """The loader process receives Ctrl-C as well and prints nothing. The step may end before the second Ctrl-C."""
    arguments = ("--data-dir", data, "--output-dir", tmp_path, "--num-classes", 2)
    settings = [*TINY, "training.epochs=100000", "data.num_workers=1"]
    code, output = interrupt_in_terminal(arguments, settings, presses)
    assert code == 130, output[-2000:]
    assert output.count("finishing the step, then saving the checkpoint; press Ctrl-C again to stop now") == 1
    assert "micro-batch 1/2" in output
    assert "Traceback" not in output
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["epoch"]
    lines = [end.format(epoch=saved + 1, directory=tmp_path) for end in ends]
    assert output.splitlines()[-1].partition("error: ")[2] in lines


def test_earlier_training_is_not_overwritten(data, trained):
    before = (trained[0] / "checkpoint.pt").read_bytes()
    assert_refused(
        run("--data-dir", data, "--output-dir", trained[0]), "checkpoint.pt of an earlier training; add --resume"
    )
    assert (trained[0] / "checkpoint.pt").read_bytes() == before


def assert_refused(result, *words):
    """Assert exit code 2 and one line on stderr with the words."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in ("error: ", *words)), result.stderr


def mistake(capsys, *arguments):
    """Run the command in this process, because starting one takes seconds."""
    import train_efficient_model

    code = train_efficient_model.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no data directory: pass --data-dir"),
        (["--data-dir", "/nowhere"], "/nowhere does not exist"),
        (["--config", "nowhere.yml"], "cannot read configuration nowhere.yml"),
        (["--set", "training.bach_size=3"], "did you mean 'batch_size'"),
        (["--set", "training.batch_size=0"], "batch_size"),
        (["--set", "training.batch_size"], "is not KEY=VALUE; write it like --set section.key=4"),
        (["--set", "training.batch_size=[1"], "not valid YAML"),
        (["--num-classes", "0"], "num_classes"),
        (["--data-dir", ""], "data.dir: an empty path names nothing"),
        (["--config", ROOT / "configs" / "ablation.yml"], "ablation.yml is a grid file"),
    ],
)
def test_errors_in_the_configuration_print_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.syspath_prepend(ROOT)
    assert_refused(mistake(capsys, "--output-dir", tmp_path / "o", *arguments), words)
    assert not (tmp_path / "o").exists()


def test_output_directory_that_is_a_file_is_refused(tmp_path, capsys, monkeypatch, data):
    monkeypatch.syspath_prepend(ROOT)
    (tmp_path / "file").write_text("")
    assert_refused(
        mistake(capsys, "--data-dir", data, "--output-dir", tmp_path / "file"), "cannot be used: File exists"
    )
    below = tmp_path / "file" / "below"
    assert_refused(mistake(capsys, "--data-dir", data, "--output-dir", below), "cannot be used: Not a directory")


def train_here(capsys, monkeypatch, *arguments, settings=()):
    """Run the command in this process; return its exit code and stderr."""
    monkeypatch.syspath_prepend(ROOT)
    import train_efficient_model

    pairs = [part for setting in [*TINY, *settings] for part in ("--set", setting)]
    code = train_efficient_model.main([*map(str, arguments), *pairs])
    return code, capsys.readouterr().err


def test_auto_fits_the_machine_and_keeps_the_batches_on_resume(data, tmp_path, capsys, monkeypatch):
    """The two clips of the configuration do not fit this machine until it has as much memory as a GPU."""
    from models.training import step_need
    from models.training.advice import StepNeed
    from models.training.machine import Machine

    machine = Machine(cores=1, ram_free_bytes=100 * 2**20, ram_limit_bytes=2**30)
    monkeypatch.setattr(Machine, "current", lambda: machine)
    monkeypatch.setattr(step_need, "measure_step_need", lambda *_: StepNeed(0, 60 * 2**20))
    arguments = ("--data-dir", data, "--output-dir", tmp_path, "--num-classes", 2, "--auto")
    code, err = train_here(capsys, monkeypatch, *arguments, settings=["training.epochs=1", "data.num_workers=1"])
    assert code == 0, err
    assert "1 cores, 100.0 MiB of 1.00 GiB RAM free, no GPU" in err
    used = load_settings(tmp_path / "config.yml")
    assert (used.training.batch_size, used.training.gradient_accumulation_steps, used.data.num_workers) == (1, 4, 0)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["settings"]
    assert Settings.model_validate(kept) == used
    machine = Machine(cores=9, ram_free_bytes=2**30, ram_limit_bytes=2**30)
    code, err = train_here(capsys, monkeypatch, *arguments, "--resume", settings=["training.epochs=1"])
    assert code == 0, err
    assert load_settings(tmp_path / "config.yml").training.batch_size == 1


def test_training_starts_from_weights(data, trained, tmp_path, capsys, monkeypatch):
    """The weights do not change in one step at a rate of almost zero."""
    path = tmp_path / "backbone.pt"
    state = weights(trained[0])
    prefix = "backbone."
    torch.save({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, path)
    arguments = ("--data-dir", data, "--output-dir", tmp_path / "o", "--num-classes", 2, "--weights", path)
    code, err = train_here(
        capsys, monkeypatch, *arguments, settings=["training.epochs=1", "training.learning_rate=1e-30"]
    )
    assert code == 0, err
    found = weights(tmp_path / "o")
    assert torch.equal(found["backbone.conv1.weight"], state["backbone.conv1.weight"])
    assert load_settings(tmp_path / "o" / "config.yml").model.weights == path


def test_training_starts_from_all_weights_of_a_checkpoint(data, trained, tmp_path, capsys, monkeypatch):
    """The rows of the classifier follow the words of the data: all of them, or those of fewer classes."""
    for classes, kept in ((100, True), (2, False)):
        arguments = ("--data-dir", data, "--output-dir", tmp_path / str(classes), "--num-classes", classes)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            code, err = train_here(
                capsys, monkeypatch, *arguments, "--weights", trained[0] / "checkpoint.pt",
                settings=["training.epochs=1", "training.learning_rate=1e-30"],
            )  # fmt: skip
        assert code == 0, err
        assert not [one for one in warned if "model.weights" in str(one.message)]
        before, after = weights(trained[0]), weights(tmp_path / str(classes))
        assert torch.equal(after["classifier.weight"], before["classifier.weight"][:classes])
        same = {
            name
            for name in before
            if before[name].shape == after[name].shape
            and before[name].dtype.is_floating_point
            and name.rsplit(".")[-1] not in ("running_mean", "running_var")
            and torch.equal(before[name], after[name])
        }
        assert ("classifier.weight" in same) == kept
        assert {name for name in same if name.startswith(("backbone.", "attention."))} >= {
            "backbone.conv1.weight",
            "attention.in_proj_weight",
        } & before.keys()


def test_a_refused_resume_changes_no_file(data, trained, capsys, monkeypatch):
    before = {path.name: path.read_bytes() for path in trained[0].iterdir()}
    arguments = ("--data-dir", data, "--output-dir", trained[0], "--num-classes", 100, "--resume")
    code, err = train_here(capsys, monkeypatch, *arguments, settings=["training.epochs=3", "training.batch_size=1"])
    assert code == 2
    assert "was made with training.batch_size=2, now it is 1" in err
    assert {path.name: path.read_bytes() for path in trained[0].iterdir()} == before


def test_resuming_on_other_clips_is_refused(data, trained, tmp_path, capsys, monkeypatch):
    """The other clips are as many, so the steps are too. The directory of the same clips does not matter."""
    other = shutil.copytree(data, tmp_path / "moved")
    arguments = ("--data-dir", other, "--output-dir", trained[0], "--num-classes", 100, "--resume")
    code, err = train_here(capsys, monkeypatch, *arguments, settings=["training.epochs=3"])
    assert code == 0, err
    write_video(other / "videos" / "01.mp4", 200)
    with (other / "videos" / "01.mp4").open("ab") as video:
        video.write(b"longer")
    code, err = train_here(capsys, monkeypatch, *arguments, settings=["training.epochs=3"])
    assert code == 2
    assert "was made on other clips" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume"], "holds no checkpoint.pt to continue from"),
        (["--set", "training.batch_size=1", "--set", "model.weights=/nowhere.pt"], "/nowhere.pt"),
        (["--set", "training.learning_rate=1e30"], "the loss became"),
    ],
)
def test_a_refused_or_failed_training_leaves_no_new_directory(data, tmp_path, capsys, monkeypatch, arguments, words):
    output = tmp_path / "new" / "outputs"
    monkeypatch.syspath_prepend(ROOT)
    result = mistake(
        capsys, "--data-dir", data, "--output-dir", output, "--num-classes", 2,
        *[part for setting in TINY for part in ("--set", setting)], *arguments,
    )  # fmt: skip
    assert result.returncode, result.stderr
    assert words in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_wrong_option_prints_one_line(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    assert_refused(mistake(capsys, "--num-classes", "four"), "--num-classes: invalid int value: 'four'; see --help")


def test_two_trainings_do_not_share_a_directory(data, tmp_path, capsys, monkeypatch):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    arguments = ("--data-dir", data, "--output-dir", tmp_path, "--num-classes", 2)
    code, err = train_here(capsys, monkeypatch, *arguments, settings=["training.epochs=1"])
    os.close(descriptor)
    assert code == 2
    assert err.startswith(f"error: another training is writing to {tmp_path}; choose another directory")
    assert list(tmp_path.iterdir()) == []


def judged(capsys, *arguments):
    from models.evaluate import main

    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_evaluate_gives_the_accuracy_of_the_training(data, trained, tmp_path, capsys):
    code, out, err = judged(capsys, "--checkpoint", trained[0] / "checkpoint.pt", "--split", "val", "--json")
    assert code == 0, err
    found, last = json.loads(out), json.loads((trained[0] / "metrics.json").read_text())["epochs"][-1]
    assert found["clips"] == len(found["ranks"]) == 2
    for name in ("top1", "top5", "top10", "per_class_top1", "per_class_top10", "loss"):
        assert found[name] == pytest.approx(last[name if name == "val_loss" else f"val_{name}"], abs=1e-6)
    assert found["top1"] == sum(rank == 0 for rank in found["ranks"].values()) / 2


def relabelled(data, root, words, order):
    """Copy the data with other words for its classes, numbered in another order."""
    shutil.copytree(data, root)
    list_path = root / "WLASL_v0.3.json"
    for split_path in root.glob("nslt_*.json"):
        split = json.loads(split_path.read_text())
        for entry in split.values():
            entry["action"][0] = order[entry["action"][0]]
        split_path.write_text(json.dumps(split))
    entries = json.loads(list_path.read_text())
    for entry in entries:
        entry["gloss"] = words[entry["gloss"]]
    list_path.write_text(json.dumps(entries))
    for path in root.glob("*class_list*.txt"):
        path.unlink()
    return root


def test_evaluate_matches_renumbered_classes_by_their_words(data, trained, tmp_path, capsys):
    arguments = ("--checkpoint", trained[0] / "checkpoint.pt", "--split", "val", "--json")
    _, plain, _ = judged(capsys, *arguments)
    same_words = {"dark": "dark", "light": "light"}
    other = relabelled(data, tmp_path / "renumbered", same_words, {0: 1, 1: 0})
    code, found, err = judged(capsys, *arguments, "--data-dir", other)
    assert code == 0, err
    assert "matched by their words" in err
    assert json.loads(found)["ranks"] == json.loads(plain)["ranks"]


def test_evaluate_refuses_data_of_other_words(data, trained, tmp_path, capsys):
    other = relabelled(data, tmp_path / "other", {"dark": "dark", "light": "bright"}, {0: 0, 1: 1})
    code, _, err = judged(capsys, "--checkpoint", trained[0] / "checkpoint.pt", "--split", "val", "--data-dir", other)
    assert code == 2
    assert "was not trained on all words of the data (not on 'bright')" in err


def test_evaluate_refuses_bad_input_in_one_line(data, trained, capsys):
    checkpoint = trained[0] / "checkpoint.pt"
    assert_refused(
        subprocess.CompletedProcess((), *judged(capsys, "--checkpoint", checkpoint)),
        "has no test clips; choose another",
    )
    assert_refused(
        subprocess.CompletedProcess((), *judged(capsys, "--checkpoint", data / "none.pt")), "cannot read", "none.pt"
    )
    code, out, _ = judged(capsys, "--checkpoint", checkpoint, "--split", "train")
    assert code == 0
    assert out.startswith("6 train clips, 100 classes, loss ")


HALVES = ", or set training.dynamic_batch_size: true to halve the micro-batch automatically"


@pytest.mark.parametrize(
    ("setting", "tried", "cure"),
    [
        ("training.seed=0", "2 clips", HALVES),
        ("training.dynamic_batch_size=true", "one clip", ""),
    ],
)
def test_out_of_memory_prints_one_line_with_the_cure(data, tmp_path, capsys, monkeypatch, setting, tried, cure):
    """The line names the size that was tried last, and no cure that was already tried."""
    from models.training.stepper import Stepper

    monkeypatch.setattr(Stepper, "_backward", lambda *_: torch.empty(2**50, dtype=torch.uint8))
    arguments = ("--data-dir", data, "--output-dir", tmp_path, "--num-classes", 2)
    code, err = train_here(capsys, monkeypatch, *arguments, settings=[setting])
    assert code == 6
    pairs = [part for one in [*TINY, setting] for part in ("--set", one)]
    words = shlex.join(["--data-dir", str(data), "--num-classes", "2", *pairs])
    assert err.splitlines()[-1] == (
        f"error: out of memory: a micro-batch of {tried} (training.batch_size: 2) does not fit; "
        f"run python -m models.training.advisor --symptom oom {words} to see what to change{cure}"
    )
    from models.training import advisor

    assert advisor.main(["--symptom", "oom", *shlex.split(words)]) == 0
    assert "training.batch_size" in capsys.readouterr().out
    assert "Traceback" not in err


def test_errors_in_the_configuration_do_not_import_torch():
    code = "import sys, train_efficient_model as t; t.main(['--set', 'a.b=1']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_reference_configuration_names_every_key_with_its_default():
    values = yaml.safe_load((ROOT / "configs" / "efficient_training.yml").read_text())
    defaults = Settings().model_dump(mode="json")
    assert {name: list(section) for name, section in values.items()} == {n: list(s) for n, s in defaults.items()}
    assert load_settings(ROOT / "configs" / "efficient_training.yml") == Settings()


def test_baseline_has_the_same_effective_batch_and_differs_only_in_memory_options():
    reference = load_settings(ROOT / "configs" / "efficient_training.yml")
    baseline = load_settings(ROOT / "configs" / "baseline.yml")
    assert baseline.training.effective_batch == reference.training.effective_batch == 32
    differs = {
        f"{section}.{key}": value
        for section, values in baseline.model_dump().items()
        for key, value in values.items()
        if value != getattr(getattr(reference, section), key)
    }
    assert differs == {
        "model.temporal_shift": "plain", "model.max_pool": "plain", "model.attention": "dense",
        "model.enable_feature_caching": False,
        "data.max_frames_in_memory": None, "training.batch_size": 32, "training.gradient_accumulation_steps": 1,
        "training.mixed_precision": False, "training.precision": "fp32", "training.recompute": "none",
    }  # fmt: skip
