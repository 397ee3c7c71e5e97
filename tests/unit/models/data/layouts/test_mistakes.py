"""Mistakes in directories, tables and options: one line, exit code 2, and nothing is written."""

import os
from pathlib import Path

import pytest
from video_folders import class_folders, flat, put, ucf, with_splits, write

from models.data.layouts import tree
from models.data.layouts.layout import MANIFEST_NAME
from models.data.wlasl import load_manifest
from slr_bench.errors import DataError


def table(text, videos=4):
    def make(root):
        put(root, *(f"{n}.mp4" for n in range(videos)))
        write(root / "l.csv", text)

    return make


def same_bytes(root):
    class_folders(root)
    (root / "walk" / "same.mp4").write_bytes((root / "book" / "0.mp4").read_bytes())


def release(root):
    put(root, "videos/1.mp4")
    write(root / "nslt_1.json", "{}")


MISTAKES = {
    "nothing there": (lambda root: None, "does not exist; name the directory"),
    "a file": (lambda root: write(root, "x"), "is a file, not a directory"),
    "empty": (lambda root: root.mkdir(), "is empty; put videos into one folder per class, then run python -m models"),
    "images": (
        lambda root: [write(root / f"{n}.jpg", "x") for n in range(3)],
        "holds 3 images and no video; make one video of the images of each clip, for example with ffmpeg -framerate 25 "
        "-i %d.jpg clip.mp4",
    ),
    "padded images": (lambda root: write(root / "a" / "im_00001.png", "x"), "-i im_%05d.png clip.mp4"),
    "named images": (lambda root: write(root / "a.png", "x"), "-pattern_type glob -i '*.png' clip.mp4"),
    "other files": (lambda root: write(root / "notes.docx", "x"), "holds one file and no video"),
    "dead links": (
        lambda root: (root.mkdir(), (root / "a.mp4").symlink_to("b")),
        "links to videos that are not there",
    ),
    "no labels": (lambda root: put(root, "0.mp4"), "holds one video in one folder and no labels; make a "),
    "one folder": (lambda root: put(root, "a/0.mp4", "a/1.mp4"), "holds 2 videos in one folder and no labels"),
    "splits without classes": (
        lambda root: put(root, "train/0.mp4", "test/1.mp4"),
        "has the splits test, train and no class folders for 2 videos",
    ),
    "one class": (table("path,label\n0.mp4,a\n1.mp4,a\n"), "has one class only (a)"),
    "WLASL inside": (
        lambda root: (put(root, "w/videos/1.mp4"), write(root / "w" / "nslt_1.json", "{}")),
        "is not in WLASL layout, but ",
    ),
    "one clip per class": (lambda root: class_folders(root, 1), "no clip is left for validation"),
    "loose videos": (lambda root: put(root, "a/0.mp4", "b/0.mp4", "intro.mp4"), "beside them one video (intro.mp4)"),
    "splits and others": (
        lambda root: put(root, "train/a/0.mp4", "more/0.mp4"),
        "has the splits train and beside them more",
    ),
    "missing": (
        table("path,label\n0.mp4,a\n9.mp4,b\n"),
        "1 of 2 videos (9.mp4); correct their paths, or add --skip-missing",
    ),
    "two labels": (
        table("path,label\n0.mp4,a\n0.mp4,b\n"),
        "0.mp4 has the labels 'a' and 'b' (l.csv, row 2 and l.csv, row 3)",
    ),
    "two labels of a content": (
        same_bytes,
        "have the same content and the labels 'book' and 'walk'; delete the wrong",
    ),
    "unknown split": (
        table("path,label,split\n0.mp4,a,holdout\n"),
        "l.csv, row 2: unknown split 'holdout'; use train, val",
    ),
    "some splits": (table("path,label,split\n0.mp4,a,train\n1.mp4,b,\n"), "l.csv, row 3: no split, but other rows"),
    "no label": (table("path,label\n0.mp4,\n"), "l.csv, row 2: no label; fill it in, or delete the row"),
    "ragged": (table("path,label\n0.mp4,a,b\n"), "row 2: 3 columns, expected 2; put quotes"),
    "open quote": (table('path,label\n0.mp4,"a\n'), "l.csv, row 2: unexpected end of data; save it as CSV"),
    "wrong times": (table("path,label,start_s,end_s\n0.mp4,a,2,1\n"), "the clip ends at 1 s, before it begins"),
    "no number": (table("path,label,start_s\n0.mp4,a,nan\n"), "'nan' is not a time in seconds"),
    "several tables": (
        lambda root: (flat(root), write(root / "b.csv", "path,label\n0.mp4,a\n")),
        "choose one with --labels",
    ),
    "UTF-16": (
        lambda root: (put(root, "0.mp4"), write(root / "l.csv", "path,label\n", "utf-16")),
        "save it as UTF-8 text",
    ),
    "Windows-1252": (
        lambda root: (put(root, "0.mp4"), write(root / "l.csv", "path,label\n0.mp4,müde\n", "cp1252")),
        "it is not UTF-8 text; if it is in another encoding, such as Windows-1252",
    ),
    "decimal comma": (table("path;label;start_s\n0.mp4;a;0,1\n"), "'0,1' is a time with a comma; write 0.1"),
    "unknown columns": (
        table("Datei;Wort\n0.mp4;a\n"),
        "l.csv has the columns Datei, Wort; rename those of video and label to path,label",
    ),
    "unknown label column": (table("id,translation\n0.mp4,a\n"), "l.csv has the columns id, translation; rename"),
    "empty table": (table(""), "l.csv is empty; write the columns path,label"),
    "no row": (table("path,label\n"), "l.csv has the names of its columns and no row below"),
    "WLASL": (release, "is in WLASL layout; use it as it is, with --data-dir"),
    "bytes as a name": (
        lambda root: put(class_folders(root), os.fsdecode(b"book/\xff.mp4")),
        "is not valid UTF-8 text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, imported, name):
    make, expected = MISTAKES[name]
    make(tmp_path / "d")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = imported(tmp_path / "d")
    assert (code, out) == (2, "")
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--val", "0.6", "--test", "0.6"], "use parts of 1 with a sum below 1"),
        (["--signer-from", "("], "--signer-from: '(' is not a regular expression"),
        (["--fold", "3"], "--fold 3: "),
        (["--labels", "nowhere.csv"], "nowhere.csv: No such file or directory; check the path\n"),
        (["--labels", "d/map.json"], "map.json is JSON, which names no clips here; write a CSV"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, imported, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    flat(tmp_path / "d")
    write(tmp_path / "d" / "map.json", '{"0.mp4": "book"}')
    code, _, err = imported(tmp_path / "d", *options)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "d" / MANIFEST_NAME).exists()


def test_a_directory_without_permission_is_named(tmp_path, imported, monkeypatch):
    """Root may read everything, so the refusal is made up where the system makes it."""
    class_folders(tmp_path / "d")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "walk":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(tree.os, "scandir", guarded)
    code, _, err = imported(tmp_path / "d")
    assert (code, err) == (2, f"error: cannot read {tmp_path}/d/walk: Permission denied; check the permissions\n")
    assert not (tmp_path / "d" / MANIFEST_NAME).exists()


def test_missing_videos_can_be_left_out(tmp_path, report):
    flat(tmp_path / "d")
    (tmp_path / "d" / "7.mp4").unlink()
    result = report(tmp_path / "d", "--skip-missing")
    assert (result["clips"], result["missing"]) == (7, ["7.mp4"])


def test_a_video_that_vanishes_after_the_import_is_left_out_and_counted(tmp_path, report):
    flat(tmp_path / "d")
    report(tmp_path / "d")
    (tmp_path / "d" / "7.mp4").unlink()
    manifest = load_manifest(tmp_path / "d", 2)
    assert manifest.missing == ("7.mp4",)
    assert manifest.listed == 8


def test_another_number_of_classes_names_the_right_one(tmp_path):
    with_splits(tmp_path / "d")
    with pytest.raises(DataError, match=r"num_classes=100, but .* has 2 classes; use --num-classes 2"):
        load_manifest(tmp_path / "d", 100)


def test_a_folder_that_disagrees_with_the_number_of_a_list_is_refused(tmp_path, imported):
    ucf(tmp_path / "d")
    write(tmp_path / "d" / "ucfTrainTestlist" / "classInd.txt", "1 walk\n2 book\n")
    code, _, err = imported(tmp_path / "d")
    assert code == 2
    assert "class 1 is 'walk'" in err


@pytest.mark.parametrize(
    ("paths", "needed", "expected"),
    [
        (["test/a/0.mp4", "test/b/0.mp4"], "train", r"has test clips only: it can be evaluated \(--split test\)"),
        (["a/0.mp4", "b/0.mp4"], "train", "one clip per class; add clips, at least two per class"),
        (["train/a/0.mp4", "val/b/0.mp4"], "test", "has no test clips; choose --split train or --split val"),
        (["train/a/0.mp4", "test/b/0.mp4"], "train", "no val clips; run python -m models.data.import_videos"),
    ],
)
def test_a_split_that_an_import_cannot_draw_is_not_promised(tmp_path, paths, needed, expected):
    with pytest.raises(DataError, match=expected):
        load_manifest(put(tmp_path / "d", *paths), None, needed=needed)


@pytest.mark.parametrize("needed", ["train", "test"])
def test_an_imported_table_without_a_split_says_what_can_be_done(tmp_path, imported, needed):
    given = ("test", "val") if needed == "train" else ("train", "val")
    put(tmp_path / "d", *(f"{split}/{word}/{n}.mp4" for split in given for word in "ab" for n in "12"))
    code, out, _ = imported(tmp_path / "d")
    assert code == 0
    assert ("train_efficient_model.py" in out) == (needed == "test")
    with pytest.raises(DataError, match="not trained" if needed == "train" else "choose --split train or --split val"):
        load_manifest(tmp_path / "d", None, needed=needed)
