"""Paths, labels and rows as people write them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_folders import WORDS, class_folders, flat, put, rows_of, write

from models.data import import_videos
from models.data.layouts import tree
from models.data.layouts.layout import MANIFEST_NAME, Layout
from models.data.layouts.rows import Row, clean_label, look_up
from models.data.layouts.splits import Division
from models.data.layouts.tables import read_table
from models.data.wlasl import load_manifest
from slr_bench.errors import DataError


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


def test_a_converted_video_is_found_in_its_new_container(tmp_path, report):
    put(tmp_path / "d", *(f"videos/{word}/v_{word}_g0{n}.mp4" for word in WORDS for n in range(2)))
    for split, number in (("train", 0), ("val", 1)):
        write(tmp_path / "d" / f"{split}list01.txt", "".join(f"{word}/v_{word}_g0{number}.avi 1\n" for word in WORDS))
    assert report(tmp_path / "d")["splits"] == {"train": 2, "val": 2, "test": 0}


def test_files_of_the_system_are_no_data(tmp_path, report):
    class_folders(tmp_path / "d")
    put(tmp_path / "d", "lost+found/1.mp4", ".trash/1.mp4", "book/._0.mp4", "__MACOSX/book/._1.mp4")
    assert report(tmp_path / "d")["classes"] == ["book", "walk"]
    assert load_manifest(tmp_path / "d", 2).listed == 12


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


CELLS = ["path", "label", "split", "0.mp4", "1.mp4", "train", "é", '"', ",", ";", "\t", "\r", "\n", "\0", "\x1b",
         "\u2028", " ", "{", '{"file_name": "0.mp4", "label": 1}', "-1", "nan", "\ufeff", "/", "\\"]  # fmt: skip
TABLES = st.sampled_from(["a.csv", "train.tsv", "a.jsonl", "trainlist01.txt"])


@given(TABLES, st.lists(st.sampled_from(CELLS), max_size=16), st.booleans())
def test_any_text_is_a_table_or_no_table_or_one_line(tmp_path_factory, name, cells, has_header):
    root = tmp_path_factory.mktemp("tables")
    (root / name).write_text(("path,label,split\n" if has_header else "") + "".join(cells), newline="")
    files = tree.Tree(root, {"0.mp4": 9, "1.mp4": 9})
    message, table = "", None
    try:
        table = read_table(root, name, lambda text: files.find(text) is not None)
    except DataError as error:
        message = str(error)
    assert message.isprintable()
    assert table is None or all(row.label and row.path for row in table.rows)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.tuples(NAMES, st.sampled_from(["train", "val", "test"])), min_size=2, max_size=6))
def test_a_written_table_reads_back_as_it_was(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("written")
    files = tree.Tree(root, {f"{name}.mp4": 9 for name in names})
    rows = [Row(f"{name}.mp4", label, split) for name, (text, split) in names.items() if (label := clean_label(text))]
    clips = look_up(rows, files).clips
    if not clips:
        return
    division = Division([clip.row.split for clip in clips], "given", [])
    found = import_videos.Import(root, Layout("", rows), clips, division, 0, [], [], [], [], 0)
    (root / MANIFEST_NAME).write_text(found.table_text(root), newline="")
    table = read_table(root, MANIFEST_NAME, lambda text: True)
    again = look_up(table.rows, files).clips
    assert [(c.video_id, c.row.label, c.row.split) for c in again] == [
        (c.video_id, c.row.label, c.row.split) for c in clips
    ]
