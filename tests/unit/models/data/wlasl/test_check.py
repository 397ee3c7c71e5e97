"""The check of a data directory, on one that has one of everything."""

import json
import re
import shutil

import av
import numpy as np
import pytest
from clip_files import frame_showing, number_shown, shared_data, write_directory, write_video

from models.data import import_videos
from models.data.video.reader import open_video, read_frames
from models.data.wlasl import load_manifest
from models.data.wlasl.check import main
from slr_bench.errors import DataError

GLOSSES = ["walk", "book", "drink"]
CLIPS = {
    "00001": ("train", "walk"),  # whole
    "00002": ("train", "book"),  # missing
    "00003": ("train", "book"),  # empty
    "00004": ("train", "walk"),  # no video
    "00005": ("train", "walk"),  # cut off
    "00006": ("train", "walk"),  # short
    "00007": ("val", "walk"),  # 50 frames a second
    "00008": ("val", "drink"),  # a 256 x 256 copy
    "00009": ("test", "book"),  # whole, .swf
}


def write_other(path, codec, frames=20):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frame_showing(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.qmax = 3
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_showing(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = write_directory(tmp_path_factory.mktemp("check") / "data", CLIPS, GLOSSES)
    videos = root / "videos"
    write_video(videos / "00001.mp4", 20)
    (videos / "00003.mp4").write_bytes(b"")
    (videos / "00004.mp4").write_bytes(b"<html>this video is not available</html>")
    whole = write_video(videos / "00005.mp4", 60, movflags="faststart").read_bytes()
    (videos / "00005.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    write_video(videos / "00006.mp4", 5)
    write_video(videos / "00007.mp4", 40, fps=50)
    write_video(videos / "00008.mp4", 20, picture=lambda number: np.full((256, 256, 3), 9 * number, np.uint8))
    write_other(videos / "00009.swf", "flv1")
    return root


@pytest.fixture
def directory(template, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for path in template.iterdir():
        (root / path.name).symlink_to(path)
    return root


def checked(capsys, *arguments):
    code = main(["check", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_every_problem_is_found_and_listed(directory, capsys):
    code, out, _ = checked(capsys, directory, "--json")
    report = json.loads(out)
    assert report["clips"] == {
        "missing": ["00002"],
        "empty": ["00003"],
        "left_out": [],
        "unreadable": ["00004", "00005"],
        "short": ["00006"],
        "other_fps": ["00007"],
        "stale_bbox": ["00008"],
        "unannotated": [],
        "no_fps": [],
        "turned": [],
        "several_streams": [],
        "uneven": [],
        "trimmed": [],
        "ends_early": [],
        "concealed": [],
        "damaged": [],
    }
    assert report["splits"]["train"] | {"short": 0} == {
        "listed": 6, "usable": 2, "missing": 1, "empty": 1, "left_out": 0, "unreadable": 2,
        "short": 0, "other_fps": 0, "stale_bbox": 0, "unannotated": 0, "no_fps": 0, "turned": 0, "several_streams": 0,
        "concealed": 0, "uneven": 0, "trimmed": 0, "ends_early": 0, "damaged": 0,
    }  # fmt: skip
    assert [report["splits"][split]["usable"] for split in ("train", "val", "test")] == [2, 2, 1]
    assert [(row["gloss"], row["train"], row["val"], row["test"]) for row in report["classes"]] == [
        ("walk", 2, 1, 0),
        ("book", 0, 0, 1),
        ("drink", 0, 1, 0),
    ]
    assert report["causes"].keys() == {"00004", "00005"}
    assert re.search(r"only \d+ of its 60 frames", report["causes"]["00005"])
    assert (code, report["usable"]) == (2, False)


def test_the_table_shows_the_same_counts(directory, capsys):
    code, out, _ = checked(capsys, directory)
    assert code == 2
    rows = {cells[1].strip(): cells[2:6] for line in out.splitlines() if len(cells := line.split("│")) > 6}
    assert [int(cell) for cell in rows["listed"]] == [6, 2, 1, 9]
    assert [int(cell) for cell in rows["unreadable"]] == [2, 0, 0, 2]
    assert [int(cell) for cell in rows["short"]] == [1, 0, 0, 1]
    assert "unreadable: cannot read video 00004.mp4: Invalid data found" in out
    assert "2 classes have no training clip and cannot be learned: 1 (book), 2 (drink)" in out


def test_what_is_left_out_is_listed_for_every_later_training(directory, capsys):
    code, out, err = checked(capsys, directory, "--json", "--leave-out")
    assert code == 0
    assert "2 unreadable clips are named in" in err
    assert json.loads(out)["clips"]["left_out"] == ["00004", "00005"]
    listed = (directory / "left_out.txt").read_text()
    assert [line.split("\t")[0] for line in listed.splitlines()] == ["00004", "00005"]
    manifest = load_manifest(directory, 3)
    assert [clip.video_id for clip in manifest.clips["train"]] == ["00001", "00006"]
    assert checked(capsys, directory)[0] == 0
    assert checked(capsys, directory, "--leave-out")[0] == 0
    assert (directory / "left_out.txt").read_text() == listed


def test_only_decoding_finds_a_frame_that_is_in_the_file_and_broken(directory, capsys):
    data = bytearray((directory / "videos" / "00001.mp4").read_bytes())
    with av.open(str(directory / "videos" / "00001.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[5:9]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    videos = directory / "videos"
    others = list(videos.resolve().iterdir())
    videos.unlink()
    videos.mkdir()
    for path in others:
        if path.name not in ("00001.mp4", "00004.mp4", "00005.mp4"):
            (videos / path.name).symlink_to(path)
    (videos / "00001.mp4").write_bytes(data)
    assert checked(capsys, directory)[0] == 0
    code, out, _ = checked(capsys, directory, "--decode", "--json")
    assert code == 2
    assert json.loads(out)["clips"]["unreadable"] == ["00001"]


def test_a_frame_in_the_file_that_cannot_be_decoded_is_not_called_missing(tmp_path):
    with open_video(write_video(tmp_path / "clip.mp4", 20)) as video:
        video._number_of = {}  # a decoder that gives none of the frames that are there
        with pytest.raises(DataError, match=r"frame 3 of clip\.mp4 cannot be decoded \(its data are damaged\); fetch"):
            video.verify(3, 4, decode=True)


def test_a_directory_without_validation_clips_is_not_usable(tmp_path, capsys):
    root = write_directory(tmp_path / "data", {"00001": ("train", "walk"), "00002": ("test", "walk")}, ["walk"])
    for name in ("00001", "00002"):
        write_video(root / "videos" / f"{name}.mp4", 20)
    code, out, _ = checked(capsys, root)
    assert code == 2
    assert "no val clips: a training needs some; name them in the split file" in out
    assert "no train clips" not in out


def test_a_split_file_without_training_clips_is_an_error(tmp_path, capsys):
    root = write_directory(tmp_path / "data", {"00001": ("val", "walk")}, ["walk"])
    write_video(root / "videos" / "00001.mp4", 20)
    code, _, err = checked(capsys, root)
    assert code == 2
    assert err.endswith('nslt_1.json lists no clip of the subset "train"; use the split file of a release\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: the following arguments are required: DIR; see --help"),
        (("nowhere",), "error: cannot read data directory nowhere: No such file"),
        (("DIR", "--num-classes", "7"), "nslt_3.json; use model.num_classes: 3"),
        (("DIR", "--num-frames", "0"), "error: --num-frames 0 is not a number of frames"),
    ],
)
def test_mistakes_are_one_line(directory, capsys, arguments, message):
    code, out, err = checked(capsys, *(directory if name == "DIR" else name for name in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "short"), [("signer", []), pytest.param("dgs30", ["00047"], marks=pytest.mark.slow)])
def test_real_data_has_what_its_readme_says(name, short, capsys):
    code, out, _ = checked(capsys, shared_data(name), "--json")
    report = json.loads(out)
    assert code == 0
    assert report["clips"]["short"] == short
    assert not any(found for column, found in report["clips"].items() if column != "short")
    if name == "dgs30":
        train, val = ([row[split] for row in report["classes"]] for split in ("train", "val"))
        assert (min(train), max(train), min(val), max(val), sum(train), sum(val)) == (30, 79, 6, 17, 1221, 264)


@pytest.mark.parametrize(("suffix", "codec"), [("swf", "flv1"), ("avi", "mpeg4"), ("flv", "flv1"), ("mkv", "libx264")])
def test_other_containers_give_the_same_frames_in_any_order(tmp_path, suffix, codec):
    path = write_other(tmp_path / f"clip.{suffix}", codec)
    in_turn = read_frames(path, range(20))
    for number in (17, 3, 11):
        assert np.array_equal(read_frames(path, [number])[0], in_turn[number])
    assert [number_shown(frame) for frame in in_turn] == list(range(20))


@pytest.mark.parametrize(
    ("source", "column"),
    [
        ("rot90.mp4", "turned"),
        ("two_videos.mp4", "several_streams"),
        ("concealed_1bit.mp4", "concealed"),
        ("trunc.mkv", "unreadable"),
    ],
)
def test_files_that_need_a_look_are_named(tmp_path, capsys, source, column):
    path = shared_data("clips") / source
    names = {"00001": ("train", "walk"), "00002": ("val", "walk")}
    root = write_directory(tmp_path / "data", names, ["walk"])
    (root / "videos").mkdir()
    for video_id, file in (("00001", path), ("00002", path.with_name("h264_b.mp4"))):
        shutil.copy(file, root / "videos" / f"{video_id}{file.suffix}")
    _, out, _ = checked(capsys, root, "--json", "--decode")
    assert json.loads(out)["clips"][column] == ["00001"]


def test_clips_listed_twice_and_videos_in_two_splits_are_named(tmp_path, capsys):
    names = {"00001": ("train", "walk"), "00002": ("val", "walk"), "00003": ("val", "walk")}
    root = write_directory(tmp_path / "data", names, ["walk"])
    for number, name in enumerate(("00001", "00003")):
        write_video(root / "videos" / f"{name}.mp4", 20 + number)
    shutil.copy(root / "videos" / "00001.mp4", root / "videos" / "00002.mp4")
    split = (root / "nslt_1.json").read_text()
    (root / "nslt_1.json").write_text(split.rstrip("}") + "}, " + split.lstrip("{"))
    code, out, _ = checked(capsys, root, "--json")
    report = json.loads(out)
    assert (code, report["listed_twice"]) == (0, ["00001", "00002", "00003"])
    assert report["in_two_splits"] == [["00001", "00002"]]
    _, out, _ = checked(capsys, root)
    assert "clips that are listed twice: 3 (00001, 00002, 00003); the last entry counts" in out
    assert "videos that are in two splits: 1 (00001 = 00002)" in out


def test_videos_that_were_added_after_an_import_are_named(tmp_path, capsys):
    root = tmp_path / "data"
    for word in ("book", "walk"):
        for number in range(2):
            (root / word).mkdir(parents=True, exist_ok=True)
            write_video(root / word / f"{number}.mp4", 3 + number + 2 * (word == "walk"))
    assert import_videos.main([str(root)]) == 0
    shutil.copy(root / "book" / "0.mp4", root / "book" / "copy.mp4")
    capsys.readouterr()
    assert "not in imported_clips.csv" not in checked(capsys, root)[1]
    write_video(root / "walk" / "new.mp4", 9)
    _, out, _ = checked(capsys, root)
    assert "one video (walk/new.mp4) is not in imported_clips.csv and not used; to use new videos, run" in out
    assert f"python -m models.data.import_videos {root} --overwrite" in out
    assert json.loads(checked(capsys, root, "--json")[1])["beside_table"] == ["walk/new.mp4"]
