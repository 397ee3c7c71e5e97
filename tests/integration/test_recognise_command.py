"""The recognise command in this process: equal to evaluation, its tables and JSON, and each error in one line."""

import json
import math
import os

import pytest
import torch
from clip_files import frame_showing, write_directory, write_video
from PIL import Image

from models import evaluate
from models.config import Settings
from models.data.loading.clip_reader import ClipReader
from models.data.loading.clips import build_loaders
from models.data.wlasl import load_manifest
from models.networks.efficient import build_recogniser
from models.networks.trained import load_recogniser
from models.recognise import main, whole_file
from models.training.evaluation import class_logits
from models.training.optimization import autocast

# B clip, T frame, C channel, H height, W width, K sign class

GLOSSES = ["book", "drink", "a[b]c", "walk", "eat", "[red]two\n"]
OTHERS = [*GLOSSES[:5], "other"]


def write_checkpoint(path, data_dir=None, glosses=GLOSSES, **model):
    """Save a network with random weights, as the trainer does."""
    values = {
        "model": {"num_classes": len(GLOSSES), "base_channels": 8, "num_frames": 8} | model,
        "data": {"frame_size": 48, "dir": str(data_dir) if data_dir else None, "num_workers": 0},
        "training": {"batch_size": 2, "precision": "bf16"},
    }
    settings = Settings.model_validate(values)
    torch.manual_seed(0)
    network = build_recogniser(settings.model)
    if settings.model.network == "efficient":
        torch.nn.init.normal_(network.classifier.weight, std=0.01)
    torch.save(
        {
            "format": "slr-recogniser-checkpoint", "settings": settings.model_dump(mode="json"), "glosses": glosses,
            "parts": {"model": network.state_dict()},
        },
        path,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three test clips of different lengths and a checkpoint. The last clip has fewer frames than the network."""
    root = tmp_path_factory.mktemp("recognise")
    clips = {"00001": ("test", "walk"), "00002": ("test", "eat"), "00003": ("test", "book")}
    data = write_directory(root / "data", clips, OTHERS)
    for number, frames in zip(clips, (20, 33, 5), strict=True):
        write_video(
            data / "videos" / f"{number}.mp4", frames, picture=lambda n, k=frames: frame_showing(n * k % 251, 64)
        )
    write_checkpoint(root / "checkpoint.pt", data, OTHERS)
    return root


def run(root, *arguments, checkpoint="checkpoint.pt"):
    return main(["--checkpoint", str(root / checkpoint), *map(str, arguments)])


def test_probabilities_are_those_of_evaluation(root, capsys):
    """Evaluation prints the mean of -log(probability of the true class), and the rank of that class."""
    assert evaluate.main(["--checkpoint", str(root / "checkpoint.pt"), "--split", "test", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert run(root, root / "data" / "videos", "--top", 99, "--json") == 0
    clips = json.loads(capsys.readouterr().out)["clips"]
    truth = {"00001": "walk", "00002": "eat", "00003": "book"}
    losses = []
    for clip in clips:
        name = os.path.basename(clip["file"]).removesuffix(".mp4")
        order = [sign["gloss"] for sign in clip["top"]]
        assert order.index(truth[name]) == evaluated["ranks"][name]
        losses.append(-math.log(clip["top"][order.index(truth[name])]["probability"]))
    assert len(losses) == 3
    assert sum(losses) / 3 == pytest.approx(evaluated["loss"], rel=1e-6)


@pytest.mark.parametrize("model", [{}, {"region_focus": "motion", "focus_size": 40}, {"region_focus": "manifest"}])
def test_pixels_and_logits_are_bit_for_bit_those_of_evaluation(root, tmp_path, model):
    path = write_checkpoint(tmp_path / "c.pt", root / "data", **model)
    network, settings, _ = load_recogniser(path, None, {"training.batch_size": 3})
    manifest = load_manifest(settings.data.dir, 6, needed="test")
    loaders = build_loaders(settings, manifest)
    (batch,) = loaders.test
    reader = ClipReader.of(settings, threads=2)
    clips_BTCHW = torch.zeros_like(batch.clips_BTCHW)
    files = [root / "data" / "videos" / f"{name}.mp4" for name in batch.video_ids]
    padded = [reader.read_into(row, whole_file(file), None) for row, file in zip(clips_BTCHW, files, strict=True)]
    assert torch.equal(clips_BTCHW, batch.clips_BTCHW)
    assert padded == [0, 0, 3]
    cpu = torch.device("cpu")
    found, expected = (
        class_logits(network.eval(), clips, cpu, autocast(cpu, settings.training))
        for clips in (clips_BTCHW, batch.clips_BTCHW)
    )
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32


def test_a_table_has_a_row_per_sign_and_shows_foreign_names_as_text(root, tmp_path, capsys, monkeypatch):
    write_checkpoint(root / "named.pt", glosses=GLOSSES)
    write_video(tmp_path / "[bold]clip.mp4", 12)
    monkeypatch.chdir(tmp_path)
    assert run(root, "[bold]clip.mp4", "--top", 6, checkpoint="named.pt") == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["[bold]clip.mp4", *[""] * 5]
    assert {row[1] for row in rows} == {*GLOSSES[:5], "[red]two"}
    percents = [float(row[2].removesuffix(" %")) for row in rows]
    assert sum(percents) == pytest.approx(100, abs=0.5)
    assert percents == sorted(percents, reverse=True)


def test_unreadable_files_are_one_line_each_and_the_others_are_recognised(root, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    sound = root / "data" / "videos" / "00001.mp4"
    files = (tmp_path / "text.mp4", sound, tmp_path / "none.mp4", sound)
    assert run(root, *files, "--json", "--batch-size", 3) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [clip["file"] for clip in found["clips"]] == [str(sound)] * 2
    assert [failed["file"] for failed in found["unreadable"]] == [str(files[0]), str(files[2])]
    assert len(err.splitlines()) == 2
    assert all(line.startswith(f"error: {tmp_path}") for line in err.splitlines())
    assert run(root, files[0]) == 2
    assert capsys.readouterr().out == ""


def test_the_batch_size_changes_no_sign(root, capsys):
    """Other sizes use other kernels, so probabilities may differ by rounding in bf16."""
    found = []
    for size in (1, 2, 3):
        assert run(root, root / "data", "--batch-size", size, "--json", "--top", 6) == 0
        found.append(json.loads(capsys.readouterr().out)["clips"])
    for clips in found[1:]:
        for clip, expected in zip(clips, found[0], strict=True):
            values = ({sign["class"]: sign["probability"] for sign in one["top"]} for one in (clip, expected))
            assert next(values) == pytest.approx(next(values), abs=0.02)


def test_words_come_from_a_class_list_where_the_checkpoint_has_none(root, tmp_path, capsys):
    write_checkpoint(root / "old.pt", glosses=None)
    video = root / "data" / "videos" / "00001.mp4"
    names = []
    for more in ((), ("--classes", root / "data"), ("--classes", root / "data" / "wlasl_class_list.txt")):
        assert run(root, video, "--json", *more, checkpoint="old.pt") == 0
        names.append([sign["gloss"] for sign in json.loads(capsys.readouterr().out)["clips"][0]["top"]])
    assert names[0] == [None] * 5
    assert names[1] == names[2]
    assert set(names[1]) <= {*OTHERS}


def test_evaluation_asks_for_the_data_directory_if_that_of_the_training_has_moved(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "moved")
    assert evaluate.main(["--checkpoint", str(path)]) == 2
    assert capsys.readouterr().err == f"error: the data directory {tmp_path}/moved is not there; pass --data-dir DIR\n"


def test_words_of_the_checkpoint_are_not_replaced_by_a_list(root, tmp_path, capsys):
    video, listed = root / "data" / "videos" / "00001.mp4", tmp_path / "class_list.txt"
    expected = None
    for words, warning in ((OTHERS, ""), (OTHERS[::-1], "numbers the words differently from the checkpoint")):
        listed.write_text("".join(f"{label}\t{word}\n" for label, word in enumerate(words)))
        assert run(root, video, "--json", "--classes", listed) == 0
        out, err = capsys.readouterr()
        assert warning in err
        assert bool(warning) == bool(err)
        expected = expected or out
        assert out == expected
    for words in (OTHERS[:-1], ["nobody", *OTHERS[1:]], [*OTHERS, "more"]):
        listed.write_text("".join(f"{label}\t{word}\n" for label, word in enumerate(words)))
        assert run(root, video, "--json", "--classes", listed) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "Leave --classes out" in err


def test_unusable_names_are_one_line_each_with_their_cure_and_the_others_are_recognised(root, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "0.jpg")
    cures = {
        tmp_path / "empty": "holds no video file",
        "https://example.com/a.mp4": "https://example.com/a.mp4 is an address",
        tmp_path / "0.jpg": "0.jpg is an image",
        tmp_path / "labels.csv": "name a video file (.mp4",
        tmp_path / "none.mp4": "check the path",
    }
    short = root / "data" / "videos" / "00003.mp4"
    assert run(root, *cures, short, "--json") == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [clip["file"] for clip in found["clips"]] == [str(short)]
    assert {failed["file"] for failed in found["unreadable"]} == set(map(str, cures))
    *lines, remark = err.splitlines()
    assert len(lines) == len(cures)
    assert all(sum(cure in line for line in lines) == 1 for cure in cures.values())
    assert not any("delete" in line for line in lines)
    assert remark == f"{short}: the clip has 5 frames, and the network takes 8; the last one is repeated"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", 0, "x.mp4"], "--top 0: use 1 or more"),
        (["--batch-size", -1, "x.mp4"], "--batch-size -1: use 1 or more"),
        ([], "the following arguments are required: FILE; see --help"),
        (["{}/empty"], "empty holds no video file (.mp4, .mkv"),
        (["x.mp4", "--classes", "{}/empty"], "holds no class list"),
        (["x.mp4", "--config", "{}/none.yml"], "none.yml"),
    ],
)
def test_bad_input_prints_one_line(root, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    assert run(root, *(str(word).format(tmp_path) for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert words in err


def test_numbers_that_are_not_finite_are_reported(root, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "nan.pt")
    content = torch.load(path)
    content["parts"]["model"]["classifier.bias"][0] = math.nan
    torch.save(content, path)
    assert main(["--checkpoint", str(path), str(root / "data" / "videos" / "00001.mp4"), "--json"]) == 2
    assert "not finite numbers" in json.loads(capsys.readouterr().out)["unreadable"][0]["reason"]
