"""Each layout is imported, used directly where it can be, and divided."""

import pytest
from video_folders import (
    WORDS,
    class_folders,
    flat,
    json_lines,
    kinetics,
    labels_of,
    metadata,
    no_header,
    participants,
    put,
    rows_of,
    splits_of,
    ucf,
    with_splits,
    write,
)  # fmt: skip

from models.data.layouts.layout import MANIFEST_NAME
from models.data.wlasl import SPLITS, load_manifest
from models.data.wlasl.files import load_class_list
from slr_bench.errors import DataError

LAYOUTS = {
    "class folders": (class_folders, {"train": 8, "val": 2, "test": 2}, "recording"),
    "class folders in splits": (with_splits, {"train": 4, "val": 4, "test": 4}, "given"),
    "lists of UCF": (ucf, {"train": 8, "val": 4, "test": 4}, "given"),
    "table of Kinetics": (kinetics, {"train": 2, "val": 2, "test": 0}, "given"),
    "flat folder": (flat, {"train": 6, "val": 2, "test": 0}, "recording"),
    "metadata.csv": (metadata, {"train": 2, "val": 2, "test": 0}, "given"),
    "metadata.jsonl": (json_lines, {"train": 6, "val": 2, "test": 0}, "recording"),
    "tables without a header": (no_header, {"train": 2, "val": 2, "test": 0}, "given"),
    "tables with participants": (participants, {"train": 2, "val": 2, "test": 0}, "given"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_imported_and_its_directory_can_be_used(tmp_path, report, name):
    make, splits, by = LAYOUTS[name]
    make(tmp_path / "videos of mine")
    before = sorted(tmp_path.rglob("*"))
    result = report(tmp_path / "videos of mine")
    assert (result["splits"], result["split_by"], result["classes"]) == (splits, by, ["book", "walk"])
    assert set(tmp_path.rglob("*")) - set(before) == {tmp_path / "videos of mine" / MANIFEST_NAME}
    manifest = load_manifest(tmp_path / "videos of mine", 2)
    assert {split: len(manifest.clips[split]) for split in SPLITS} == splits
    assert manifest.left_out == ()
    for clips in manifest.clips.values():
        for clip in clips:
            assert clip.path.is_file()
            assert clip.file_bytes == clip.path.stat().st_size
            assert (clip.frame_start, clip.frame_end, clip.fps, clip.bbox) == (0, None, None, None)


@pytest.mark.parametrize("name", ["class folders in splits", "table of Kinetics", "metadata.csv"])
def test_a_layout_with_all_splits_needs_no_import(tmp_path, report, name):
    make, splits, _ = LAYOUTS[name]
    make(tmp_path / "data")
    direct = load_manifest(tmp_path / "data", 2)
    assert {split: len(direct.clips[split]) for split in SPLITS} == splits
    report(tmp_path / "data")
    imported = load_manifest(tmp_path / "data", 2)
    assert (labels_of(imported), splits_of(imported)) == (labels_of(direct), splits_of(direct))
    assert imported.fingerprint == direct.fingerprint


@pytest.mark.parametrize("name", ["class folders", "lists of UCF", "flat folder"])
def test_a_layout_without_validation_clips_names_the_import(tmp_path, name):
    LAYOUTS[name][0](tmp_path / "my data")
    with pytest.raises(DataError, match=r"import_videos '.*my data', which divides them") as caught:
        load_manifest(tmp_path / "my data", 2)
    assert "no val clips" in str(caught.value) or "no splits" in str(caught.value)


def test_a_test_split_alone_can_be_evaluated(tmp_path):
    put(tmp_path / "d", *(f"test/{word}/{n}.mp4" for word in WORDS for n in range(3)))
    assert len(load_manifest(tmp_path / "d", 2, needed="test").clips["test"]) == 6
    assert len(load_manifest(tmp_path / "d", 20, needed="test", exactly=False).glosses) == 2
    with pytest.raises(DataError, match="has test clips only: it can be evaluated"):
        load_manifest(tmp_path / "d", 2)


def test_an_imported_table_is_a_list_of_the_classes(tmp_path, report):
    class_folders(tmp_path / "d", words=["walk", "book"])
    report(tmp_path / "d")
    assert load_class_list(tmp_path / "d", [MANIFEST_NAME]) == dict(enumerate(load_manifest(tmp_path / "d", 2).glosses))
    assert load_class_list(tmp_path / "d", []) == {}


def test_an_import_elsewhere_copies_nothing_and_is_the_same_data(tmp_path, report):
    class_folders(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    report(tmp_path / "link", "--out", tmp_path / "deep" / "out")
    report(tmp_path / "data")
    assert list((tmp_path / "deep" / "out").iterdir()) == [tmp_path / "deep" / "out" / MANIFEST_NAME]
    assert all(row["path"].startswith("../../data/") for row in rows_of(tmp_path / "deep" / "out"))
    here, elsewhere = load_manifest(tmp_path / "data", 2), load_manifest(tmp_path / "deep" / "out", 2)
    assert here.fingerprint == elsewhere.fingerprint
    (tmp_path / "deep").rename(tmp_path / "moved")
    assert load_manifest(tmp_path / "moved" / "out", 2).missing == ()


def test_a_second_import_gives_the_same_splits_and_writes_nothing(tmp_path, imported, report):
    class_folders(tmp_path / "data", per_class=20)
    first = report(tmp_path / "data")
    before = (tmp_path / "data" / MANIFEST_NAME).stat().st_mtime_ns
    assert report(tmp_path / "data") == first
    assert (tmp_path / "data" / MANIFEST_NAME).stat().st_mtime_ns == before
    code, _, err = imported(tmp_path / "data", "--seed", 1)
    assert code == 2
    assert "is there and different; add --overwrite, or choose another --out" in err
    splits = splits_of(load_manifest(tmp_path / "data", 2))
    code, out, _ = imported(tmp_path / "data", "--seed", 1, "--overwrite")
    assert code == 0
    assert "clips that change their split: " in out
    other = splits_of(load_manifest(tmp_path / "data", 2))
    assert other != splits
    assert sorted(other.values()) == sorted(splits.values())


def test_the_table_names_every_number_and_the_next_command(tmp_path, imported):
    class_folders(tmp_path / "data")
    code, out, err = imported(tmp_path / "data")
    assert (code, err) == (0, "")
    cells = {row[0].strip(): [int(cell) for cell in row[1:5]] for line in out.splitlines()
             if len(row := line.strip("│").split("│")) == 5 and row[0].strip() in ("clips", "classes")}  # fmt: skip
    assert cells == {"clips": [8, 2, 2, 12], "classes": [2, 2, 2, 2]}
    assert f"python train_efficient_model.py --data-dir {tmp_path / 'data'} --num-classes 2" in out


def test_signers_are_divided_where_they_are_known(tmp_path, report):
    put(tmp_path / "d", *(f"{word}/P{signer}/{n}.mp4" for word in WORDS for signer in range(6) for n in range(2)))
    result = report(tmp_path / "d")
    assert (result["split_by"], result["signers"], result["splits"]) == (
        "signer",
        6,
        {"train": 16, "val": 4, "test": 4},
    )
    where = {}
    for row in rows_of(tmp_path / "d"):
        where.setdefault(row["signer"], set()).add(row["split"])
    assert len(where) == 6
    assert all(len(splits) == 1 for splits in where.values())


def test_a_signer_can_be_a_part_of_the_path(tmp_path, report):
    put(
        tmp_path / "d", *(f"{word}/{word}_p{signer}_{n}.mp4" for word in WORDS for signer in range(3) for n in range(2))
    )
    assert report(tmp_path / "d", "--signer-from", r"_(p\d)_")["signers"] == 3
    assert {row["signer"] for row in rows_of(tmp_path / "d")} == {"p0", "p1", "p2"}


def test_parts_of_one_recording_stay_together(tmp_path, report):
    put(tmp_path / "d", *(f"{n}.mp4" for n in range(8)))
    write(
        tmp_path / "d" / "parts.csv",
        "path,label,start_s,end_s\n"
        + "".join(f"{n}.mp4,{w},{k},{k + 0.5}\n" for n in range(8) for k, w in enumerate(WORDS)),
    )
    assert report(tmp_path / "d")["splits"] == {"train": 12, "val": 2, "test": 2}
    manifest = load_manifest(tmp_path / "d", 2)
    clips = [clip for split in SPLITS for clip in manifest.clips[split]]
    assert {(clip.frame_start / clip.fps, clip.frame_end / clip.fps) for clip in clips} == {(0, 0.5), (1, 1.5)}
    where = {}
    for clip in clips:
        where.setdefault(clip.path.name, set()).add(clip.split)
    assert all(len(splits) == 1 for splits in where.values())


def test_equal_videos_come_into_one_split_once(tmp_path, report):
    with_splits(tmp_path / "d")
    content = (tmp_path / "d" / "training" / "book" / "1.mp4").read_bytes()
    (tmp_path / "d" / "test" / "book" / "copy.mp4").write_bytes(content)
    direct = load_manifest(tmp_path / "d", 2)
    assert direct.leaks == (("training/book/1.mp4", "test/book/copy.mp4"),)
    assert "videos that are in two splits: 1 (training/book/1.mp4 = test/book/copy.mp4)" in direct.notices[0]
    result = report(tmp_path / "d")
    assert result["copies"] == [["test/book/copy.mp4", "training/book/1.mp4"]]
    assert result["splits"] == {"train": 3, "val": 4, "test": 5}
    assert load_manifest(tmp_path / "d", 2).leaks == ()


def test_a_signer_in_two_given_splits_is_named(tmp_path, report):
    put(tmp_path / "d", *(f"{n}.mp4" for n in range(4)))
    rows = [f"{n}.mp4,{WORDS[n % 2]},{split},anna\n" for n, split in enumerate(("train", "train", "val", "val"))]
    write(tmp_path / "d" / "l.csv", "path,label,split,signer\n" + "".join(rows))
    assert report(tmp_path / "d")["notices"] == [
        "signers in two splits: 1 (anna); accuracy on other people is not measured"
    ]


def signer_folders(root, signers):
    return put(root, *(f"{word}/{name}/{n}.mp4" for word in WORDS for name in signers for n in range(2)))


@pytest.mark.parametrize("out", [".", "tables"])
def test_a_grown_import_keeps_the_splits_of_its_earlier_clips(tmp_path, report, out):
    root = signer_folders(tmp_path / "d", "abcdef")
    report(root, "--out", root / out)
    before = {row["path"]: row["split"] for row in rows_of(root / out)}
    signer_folders(root, "ghijklmnop")
    (root / "book" / "a" / "0 copy.mp4").write_bytes((root / "book" / "a" / "0.mp4").read_bytes())
    result = report(root, "--out", root / out, "--overwrite")
    after = {row["path"]: row["split"] for row in rows_of(root / out)}
    assert len(after) == 64
    assert after | {path: split for path, split in before.items() if path in after} == after
    assert len(before.keys() - after.keys()) <= 1, "one of two copies is used"
    assert any("24 clips of the earlier table" in line for line in result["notices"])
    assert not any("two splits" in line for line in result["notices"])


def test_given_splits_that_move_earlier_clips_are_counted(tmp_path, report):
    root = put(tmp_path / "d", *(f"{n}.mp4" for n in range(4)))
    for splits in (("train", "val"), ("val", "train")):
        lines = [f"{n}.mp4,{WORDS[n % 2]},{splits[n // 2]}\n" for n in range(4)]
        write(root / "l.csv", "path,label,split\n" + "".join(lines))
        result = report(root, "--overwrite")
    assert any(line.startswith("clips that change their split: 4 (0.mp4") for line in result["notices"])


def test_an_import_without_test_clips_says_so(tmp_path, report):
    result = report(class_folders(tmp_path / "d", per_class=4))
    assert "each class has fewer than 5 recordings; evaluate with --split val" in " ".join(result["notices"])


def test_folders_below_the_classes_that_are_not_used_are_named(tmp_path, report):
    root = put(
        tmp_path / "d", *(f"{path}/{n}.mp4" for path in ("animals/cat", "animals/dog", "food/bread") for n in "12345")
    )
    result = report(root)
    assert result["classes"] == ["animals", "food"]
    assert any(
        "below the classes are not used: animals/cat, animals/dog, food/bread; if they are the classes, move" in line
        for line in result["notices"]
    )
