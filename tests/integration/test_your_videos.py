"""Videos of a user: from folders to a trained network, and the refusal of a wrong directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clip_files import frame_showing, write_video

from models.data import import_videos
from models.data.layouts.layout import MANIFEST_NAME
from models.data.video.clip_location import frame_range
from models.data.video.reader import open_video
from models.data.wlasl import load_manifest
from models.data.wlasl.check import main as check

ROOT = Path(__file__).parents[2]
TINY = [
    "model.base_channels=8", "model.num_frames=4", "data.frame_size=32", "data.num_workers=0", "training.epochs=1",
    "training.batch_size=2", "training.gradient_accumulation_steps=2", "training.precision=fp32",
]  # fmt: skip

WRONG = """
import json, sys
from pathlib import Path
from models import evaluate
from models.data import import_videos
from models.data.wlasl import check
from models.training import advisor
import train_efficient_model

codes = []
for directory in sys.argv[1:]:
    codes += [
        train_efficient_model.main(["--data-dir", directory, "--output-dir", "out"]),
        train_efficient_model.main(["--data-dir", directory, "--output-dir", "out", "--auto"]),
        evaluate.main(["--checkpoint", "checkpoint.pt", "--data-dir", directory]),
        advisor.main(["--data-dir", directory]),
        check.main(["check", directory]),
        import_videos.main([directory]),
    ]
print(json.dumps([codes, "torch" in sys.modules, Path("out").exists()]))
"""


def test_a_wrong_directory_is_refused_before_torch_is_imported(tmp_path):
    """One process for all: starting one takes a second."""
    names = ("empty", "images", "flat", "missing", "file.mp4")
    for name in names[:3]:
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"x")
        (tmp_path / "flat" / f"{number}.mp4").write_bytes(b"x")
    (tmp_path / "file.mp4").write_bytes(b"x")
    process = subprocess.run(
        [sys.executable, "-c", WRONG, *names], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    codes, has_torch, was_written = json.loads(process.stdout)
    assert (set(codes), len(codes), has_torch, was_written) == ({2}, 30, False, False)
    lines = process.stderr.splitlines()
    assert len(lines) == len(codes)
    for place, seen in enumerate(("empty", "3 images", "3 videos in one folder", "missing", "file.mp4")):
        assert all(line.startswith("error: ") and seen in line for line in lines[6 * place : 6 * place + 6])


@pytest.mark.parametrize("fps", [25, 50])
def test_times_of_a_table_are_frames_of_the_video(tmp_path, fps):
    """A part that is longer than the file is the whole file: somebody has cut the clip out already."""
    for name in ("long", "short"):
        write_video(tmp_path / f"{name}.mp4", fps * (3 if name == "long" else 1), fps=fps)
    (tmp_path / "labels.csv").write_text(
        "path,label,time_start,time_end,split\nlong.mp4,book,1,2,train\nlong.mp4,walk,2.2,,train\nshort.mp4,book,7,8,val\n"
    )
    found = {}
    for clips in load_manifest(tmp_path, 2).clips.values():
        for clip in clips:
            with open_video(clip.path) as video:
                found[clip.video_id] = frame_range(clip, video)
    assert found == {
        "long.mp4@1-2": (fps, 2 * fps), "long.mp4@2.2-": (round(2.2 * fps), 3 * fps), "short.mp4@7-8": (0, fps),
    }  # fmt: skip


def test_class_folders_become_a_trained_and_evaluated_network(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import train_efficient_model
    from models import evaluate

    for label, word in enumerate(("book", "walk")):
        for number in range(5):
            path = tmp_path / "videos" / word / f"{number}.mp4"
            write_video(path, 6, picture=lambda frame, first=40 * label + 8 * number: frame_showing(first + frame))
    assert import_videos.main([str(tmp_path / "videos"), "--out", str(tmp_path / "data")]) == 0
    assert check(["check", str(tmp_path / "data"), "--decode", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: found for name, found in report["clips"].items() if found and name != "short"} == {}
    assert {split: counts["usable"] for split, counts in report["splits"].items()} == {"train": 6, "val": 2, "test": 2}
    settings = [part for setting in TINY for part in ("--set", setting)]
    arguments = ["--data-dir", str(tmp_path / "data"), "--num-classes", "2", "--output-dir", str(tmp_path / "out")]
    assert train_efficient_model.main([*arguments, *settings]) == 0
    capsys.readouterr()
    checkpoint = ["--checkpoint", str(tmp_path / "out" / "checkpoint.pt"), "--json"]
    assert evaluate.main(checkpoint) == 0
    ranks = json.loads(capsys.readouterr().out)["ranks"]
    assert set(ranks) == {line.split(",")[0] for line in (tmp_path / "data" / MANIFEST_NAME).read_text().splitlines()
                          if ",test" in line}  # fmt: skip
    # The videos themselves, as a test split of one of the two words, without training or validation clips.
    (tmp_path / "later" / "test").mkdir(parents=True)
    for word in ("book", "walk"):
        (tmp_path / "later" / "test" / word).symlink_to(tmp_path / "videos" / word)
    assert evaluate.main([*checkpoint, "--data-dir", str(tmp_path / "later")]) == 0
    again = json.loads(capsys.readouterr().out)["ranks"]
    assert len(again) == 10
    assert {video_id: again[f"test/{video_id}"] for video_id in ranks} == ranks


def test_an_unreadable_video_is_named_with_its_folder_and_can_be_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import train_efficient_model

    for split in ("train", "val"):
        for word in ("book", "walk"):
            write_video(tmp_path / "data" / split / word / "0.mp4", 6)
    (tmp_path / "data" / "train" / "walk" / "1.mp4").write_bytes(b"no video")
    settings = [part for setting in TINY for part in ("--set", setting)]
    arguments = ["--data-dir", str(tmp_path / "data"), "--num-classes", "2", "--output-dir", str(tmp_path / "out")]
    assert train_efficient_model.main([*arguments, *settings]) == 2
    assert "error: train/walk/1.mp4: cannot read video 1.mp4" in capsys.readouterr().err
    assert check(["check", str(tmp_path / "data"), "--leave-out"]) == 0
    assert (tmp_path / "data" / "left_out.txt").read_text().startswith("train/walk/1.mp4\t")
    assert load_manifest(tmp_path / "data", 2).left_out_text == (
        "1 of 5 listed clips is left out: 1 unreadable (train/walk/1.mp4)"
    )
