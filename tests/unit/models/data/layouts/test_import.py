"""The import of folders of videos, as a user calls it. The videos are a few bytes: an import opens none."""

import csv
import json
import os
import unicodedata
from pathlib import Path

import pytest

from models.data import import_videos
from models.data.layouts import tree
from models.data.layouts.layout import MANIFEST_NAME
from models.data.wlasl import SPLITS, load_manifest
from slr_bench.errors import DataError

WORDS = ("book", "walk")


def put(root, *paths):
    """Write videos with different contents."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(file))
    return root


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def class_folders(root, per_class=6, words=WORDS):
    return put(root, *(f"{word}/{number}.mp4" for word in words for number in range(per_class)))


@pytest.fixture
def imported(capsys):
    """``imported(DIR, …)`` -> exit code, standard output, standard error."""

    def call(*arguments):
        code = import_videos.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def report(imported):
    """``report(DIR, …)`` -> the JSON object of an import that works."""

    def call(*arguments):
        code, out, err = imported(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def rows_of(directory):
    with (directory / MANIFEST_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels_of(manifest):
    return {clip.video_id: clip.gloss for split in SPLITS for clip in manifest.clips[split]}


def splits_of(manifest):
    return {clip.video_id: split for split in SPLITS for clip in manifest.clips[split]}


def ucf(root):
    put(root / "UCF-101", *(f"{word}/v_{word}_g{g:02}_c{c:02}.avi" for word in WORDS for g in range(4) for c in (1, 2)))
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 book\n2 walk\n")
    for fold, held_out in ((1, 0), (2, 1)):
        listed = [
            (f"{word}/v_{word}_g{g:02}_c{c:02}.avi", g, number)
            for number, word in enumerate(WORDS, 1)
            for g in range(4)
            for c in (1, 2)
        ]
        write(lists / f"trainlist{fold:02}.txt", "".join(f"{p} {n}\r\n" for p, g, n in listed if g != held_out))
        write(lists / f"testlist{fold:02}.txt", "".join(f"{p}\r\n" for p, g, _ in listed if g == held_out))


def kinetics(root):
    put(root, *(f"videos/{word}/id{word}{n}_000007_000017.mp4" for word in WORDS for n in range(2)))
    lines = [f"{word},id{word}{n},7,17,{split}\n" for word in WORDS for n, split in enumerate(("train", "validate"))]
    write(root / "kinetics.csv", "label,youtube_id,time_start,time_end,split\n" + "".join(lines))


def flat(root):
    put(root, *(f"{number}.mp4" for number in range(8)))
    write(root / "my labels.csv", "path;label\n" + "".join(f"{n}.mp4;{WORDS[n % 2]}\n" for n in range(8)))


def metadata(root):
    for split in ("train", "validation"):
        put(root / split, "0.mp4", "1.mp4")
        write(root / split / "metadata.csv", "file_name,label\n0.mp4,book\n1.mp4,walk\n")


def json_lines(root):
    put(root, *(f"{n}.mp4" for n in range(8)))
    lines = [json.dumps({"file_name": f"{n}.mp4", "label": WORDS[n % 2]}) for n in range(8)]
    write(root / "metadata.jsonl", "\n".join(lines) + "\n")


def no_header(root):
    put(root, *(f"signer0_sample{n}_color.mp4" for n in range(4)))
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        write(root / f"{split}_labels.csv", "".join(f"signer0_sample{n}_color,{40 + n % 2}\n" for n in numbers))
    write(root / "SignList_ClassId_TR_EN.csv", "ClassId,TR,EN\n40,book,kitap\n41,walk,yurumek\n")


def participants(root):
    put(root / "videos", *(f"{n}.mp4" for n in range(4)))
    header = "\ufeffParticipant ID,Video file,Gloss,ASL-LEX Code\n"
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        lines = [f"P{n},{n}.mp4,{WORDS[n % 2]},B_{n}\n" for n in numbers]
        write(root / "splits" / f"{split}.csv", header + "".join(lines))


def with_splits(root):
    put(root, *(f"{split}/{word}/{n}.mp4" for split in ("training", "Valid", "test") for word in WORDS for n in "12"))


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
    with pytest.raises(DataError, match="no train and no val clips"):
        load_manifest(tmp_path / "d", 2)


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
    assert imported(tmp_path / "data", "--seed", 1, "--overwrite")[0] == 0
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


def test_equal_rows_count_once_with_a_notice(tmp_path, report):
    flat(tmp_path / "d")
    with (tmp_path / "d" / "my labels.csv").open("a") as file:
        file.write("./0.mp4;book\n")
    result = report(tmp_path / "d")
    assert (result["clips"], result["repeated"]) == (8, ["0.mp4"])
    assert "rows that repeat an earlier one: 1 (0.mp4); they are left out" in result["notices"]


def test_paths_may_be_absolute_or_from_windows_or_in_another_case(tmp_path, report):
    put(tmp_path / "d", "Clips/Book 1.MP4", "Clips/2.mp4", "Clips/3.mp4")
    put(tmp_path, "elsewhere/4.mp4")
    write(
        tmp_path / "d" / "labels.tsv",
        f"file\tword\nclips\\book 1.mp4\tbook\n{tmp_path}/d/Clips/2.mp4\twalk\nd/Clips/3\tbook\n"
        f"{tmp_path}/elsewhere/4.mp4\twalk\n",
    )
    report(tmp_path / "d")
    assert {row["path"]: row["label"] for row in rows_of(tmp_path / "d")} == {
        "Clips/Book 1.MP4": "book", "Clips/2.mp4": "walk", "Clips/3.mp4": "book",
        f"{tmp_path}/elsewhere/4.mp4": "walk",
    }  # fmt: skip
    assert load_manifest(tmp_path / "d", 2).missing == ()


def test_names_of_any_script_are_labels(tmp_path, report, imported):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    words = ["کتاب", "ב‌ג", "日本語", "red\x1b[31m", "evil\u202e", composed]
    class_folders(tmp_path / "d", words=words)
    put(tmp_path / "d", f"{decomposed}/7.mp4")
    result = report(tmp_path / "d")
    assert result["classes"] == sorted(["کتاب", "ב‌ג", "日本語", "red [31m", "evil", composed])
    assert result["clips"] == 37
    _, out, _ = imported(tmp_path / "d")
    assert "\x1b" not in out
    assert "\u202e" not in out
    manifest = load_manifest(tmp_path / "d", 6)
    assert sum(map(len, manifest.clips.values())) == 37
    assert all(clip.video_id == clip.video_id.splitlines()[0] for clip in manifest.clips["train"])


def test_numbers_are_classes_in_their_order(tmp_path, report):
    class_folders(tmp_path / "d", words=["10", "9", "0"])
    result = report(tmp_path / "d")
    assert result["classes"] == ["0", "9", "10"]
    assert "labels are numbers; --classes FILE with lines of number and word names them" in result["notices"]
    write(tmp_path / "names.txt", "\ufeff0 zero\n9\tnine\n10,ten\n")
    assert report(tmp_path / "d", "--classes", tmp_path / "names.txt", "--overwrite")["classes"] == [
        "nine",
        "ten",
        "zero",
    ]


def test_links_are_followed_once(tmp_path, report):
    class_folders(tmp_path / "d")
    (tmp_path / "d" / "book" / "loop").symlink_to("..")
    (tmp_path / "d" / "itself").symlink_to("itself")
    (tmp_path / "d" / "Alias").symlink_to("walk")
    (tmp_path / "d" / "walk" / "gone.mp4").symlink_to("nowhere")
    put(tmp_path / "outside", "7.mp4")
    (tmp_path / "d" / "book" / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "d" / "book" / "one.mp4").symlink_to(tmp_path / "d" / "book" / "1.mp4")
    result = report(tmp_path / "d")
    assert (result["classes"], result["clips"]) == (["book", "walk"], 13)
    assert result["copies"] == [["book/1.mp4", "book/one.mp4"]]


def test_ten_thousand_classes_are_read_in_one_pass(tmp_path, report, monkeypatch):
    names = [f"{number}/{clip}.mp4" for number in range(10_000) for clip in "ab"]
    monkeypatch.setattr(import_videos, "scan", lambda root: tree.Tree(root, dict.fromkeys(names, 9)))
    monkeypatch.setattr(import_videos, "same_content", lambda files: [])
    monkeypatch.setattr(tree.Tree, "_ending_with", lambda self, text: pytest.fail("a search for each clip"))
    result = report(tmp_path)
    assert (len(result["classes"]), result["splits"]) == (10_000, {"train": 10_000, "val": 10_000, "test": 0})


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
        "holds 3 images and no video; make one",
    ),
    "other files": (lambda root: write(root / "notes.docx", "x"), "holds one file and no video"),
    "dead links": (
        lambda root: (root.mkdir(), (root / "a.mp4").symlink_to("b")),
        "links to videos that are not there",
    ),
    "no labels": (lambda root: put(root, "0.mp4"), "holds one video in one folder and no labels; make a "),
    "one folder": (lambda root: put(root, "a/0.mp4", "a/1.mp4"), "holds 2 videos in one folder and no labels"),
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
        (["--labels", "nowhere.csv"], "nowhere.csv: No such file"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, imported, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    flat(tmp_path / "d")
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


def test_a_signer_in_two_given_splits_is_named(tmp_path, report):
    put(tmp_path / "d", *(f"{n}.mp4" for n in range(4)))
    rows = [f"{n}.mp4,{WORDS[n % 2]},{split},anna\n" for n, split in enumerate(("train", "train", "val", "val"))]
    write(tmp_path / "d" / "l.csv", "path,label,split,signer\n" + "".join(rows))
    assert report(tmp_path / "d")["notices"] == [
        "signers in two splits: 1 (anna); accuracy on other people is not measured"
    ]


def test_a_table_elsewhere_names_videos_of_a_linked_directory(tmp_path, report, monkeypatch):
    put(tmp_path / "far" / "data", *(f"v/{n}.mp4" for n in range(4)))
    (tmp_path / "link").symlink_to(tmp_path / "far" / "data")
    write(
        tmp_path / "labels.csv",
        "path,label,split\n"
        + "".join(f"{n}.mp4,{WORDS[n % 2]},{split}\n" for n, split in enumerate(("train", "train", "val", "val"))),
    )
    monkeypatch.chdir(tmp_path)
    assert report("link", "--labels", "labels.csv")["splits"] == {"train": 2, "val": 2, "test": 0}
    assert {row["path"] for row in rows_of(tmp_path / "link")} == {f"v/{n}.mp4" for n in range(4)}


def test_times_are_kept_to_the_millisecond(tmp_path, report):
    put(tmp_path / "d", "0.mp4", "1.mp4")
    write(
        tmp_path / "d" / "l.csv",
        "path,label,start_s,end_s,split\n0.mp4,a,3600.121,3601,train\n"
        "0.mp4,b,3600.124,3601.5,train\n1.mp4,a,0,1.25,val\n",
    )
    report(tmp_path / "d")
    found = sorted((row["start_s"], row["end_s"]) for row in rows_of(tmp_path / "d"))
    assert found == [("0", "1.25"), ("3600.121", "3601"), ("3600.124", "3601.5")]
