import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clip_files import shared_data, write_directory

from models.data import wlasl
from models.data.left_out import LeftOut, describe
from models.data.manifest import VideoFile
from models.data.wlasl import SPLITS, load_manifest
from slr_bench.errors import DataError

GLOSSES = ["walk", "book", "drink"]  # the split file's order is not the alphabet's
CLIPS = {
    "00003": ("train", "walk"),
    "00001": ("train", "book"),
    "00002": ("train", "drink"),
    "00007": ("val", "book"),
    "00009": ("test", "drink"),
}


@pytest.fixture
def directory(tmp_path):
    return make_directory(tmp_path / "data")


def make_directory(root: Path, **instance: object) -> Path:
    write_directory(root, CLIPS, GLOSSES, **instance)
    (root / "videos").mkdir()
    for size, video_id in enumerate(CLIPS, start=10):
        (root / "videos" / f"{video_id}.mp4").write_bytes(b"x" * size)
    return root


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_reads_clips_by_split_with_the_split_files_class_ids(directory):
    manifest = load_manifest(directory, 3)
    found = {split: [(c.video_id, c.label, c.gloss) for c in manifest.clips[split]] for split in SPLITS}
    assert found == {
        "train": [("00001", 1, "book"), ("00002", 2, "drink"), ("00003", 0, "walk")],
        "val": [("00007", 1, "book")],
        "test": [("00009", 2, "drink")],
    }
    assert manifest.glosses == tuple(GLOSSES)
    assert manifest.missing == ()
    clip = manifest.clips["val"][0]
    assert (clip.frame_start, clip.frame_end, clip.fps, clip.signer_id, clip.file_bytes) == (0, None, 25.0, 3, 13)
    assert clip.path == directory / "videos" / "00007.mp4"


def test_frames_become_0_based_and_exclusive(tmp_path):
    clip = load_manifest(make_directory(tmp_path / "d", frame_start=11, frame_end=30), 3).clips["train"][0]
    assert (clip.frame_start, clip.frame_end) == (10, 30)  # 20 frames: 11 to 30 of those that count from 1
    clip = load_manifest(make_directory(tmp_path / "open", frame_start=11), 3).clips["train"][0]
    assert (clip.frame_start, clip.frame_end, clip.cut_frames) == (10, None, 10)


def test_unusable_clips_are_left_out_counted_and_listed(directory):
    (directory / "videos" / "00003.mp4").unlink()
    (directory / "videos" / "00009.mp4").unlink()
    (directory / "videos" / "00009.mp4").symlink_to("nowhere")
    (directory / "videos" / "00007.mp4").write_bytes(b"")
    (directory / "left_out.txt").write_text("00002\tcannot read video\n\n77777\n")
    manifest = load_manifest(directory, 3)
    reasons = {clip.video_id: (clip.split, clip.reason) for clip in manifest.left_out}
    assert reasons == {
        "00002": ("train", "unreadable"),
        "00003": ("train", "missing"),
        "00007": ("val", "empty"),
        "00009": ("test", "missing"),
    }
    assert manifest.missing == ("00003", "00009")
    assert [len(manifest.clips[split]) for split in SPLITS] == [1, 0, 0]
    assert manifest.glosses == tuple(GLOSSES)
    assert manifest.listed == 5
    assert manifest.left_out_text == (
        "4 of 5 listed clips are left out: 1 empty (00007), 2 missing (00003, 00009), 1 unreadable (00002)"
    )


def test_a_message_names_some_of_many():
    many = [LeftOut(f"{number:05}", "train", "missing") for number in range(4000)]
    text = describe(many, 14296)
    assert text == ("4000 of 14296 listed clips are left out: 4000 missing (00000, 00001, 00002, 00003, 00004, …)")


def test_a_broken_left_out_list_is_an_error(directory):
    (directory / "left_out.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"left_out\.txt: .*; check the file, or delete it"):
        load_manifest(directory, 3)


def test_other_containers_are_found_and_mp4_goes_first(directory):
    videos = directory / "videos"
    (videos / "00001.mp4").rename(videos / "00001.swf")
    (videos / "00002.mp4").rename(videos / "00002.MP4")
    for suffix in ("3gp", "avi", "flv", "mkv", "mov", "webm"):  # before and after .mp4, in whatever order they lie
        (videos / f"00003.{suffix}").write_bytes(b"x")
    (videos / "00007.txt").write_bytes(b"no video")
    (videos / "00009.mp4").unlink()
    (videos / "00009.mp4").mkdir()
    manifest = load_manifest(directory, 3)
    assert [clip.path.name for clip in manifest.clips["train"]] == ["00001.swf", "00002.MP4", "00003.mp4"]
    assert manifest.missing == ("00009",)


PUBLISHED = {100: (1442, 338, 258), 300: (3549, 901, 668), 1000: (8978, 2320, 1876), 2000: (14296, 3920, 2879)}


@pytest.fixture(scope="module")
def wlasl_of_published_size(tmp_path_factory):
    """Clips enough for every published split file; each has the first N classes of the annotation list."""
    root = tmp_path_factory.mktemp("wlasl")
    clips, first, before = {}, 0, (0, 0, 0)
    for classes, counts in PUBLISHED.items():
        for split, count, earlier in zip(SPLITS, counts, before, strict=True):
            for number in range(count - earlier):
                clips[f"{len(clips):05}"] = (split, f"sign{first + number % (classes - first)}")
        first, before = classes, counts
    glosses = [f"sign{label}" for label in range(2000)]
    write_directory(root, clips, glosses)
    whole = json.loads((root / "nslt_2000.json").read_text())
    for classes in (100, 300, 1000):
        part = {video_id: entry for video_id, entry in whole.items() if entry["action"][0] < classes}
        (root / f"nslt_{classes}.json").write_text(json.dumps(part))
    (root / "videos").mkdir()
    return root


@pytest.mark.parametrize("classes", [100, *(pytest.param(n, marks=pytest.mark.slow) for n in (300, 1000)), 2000])
def test_published_split_files_load_with_their_counts(wlasl_of_published_size, classes, monkeypatch):
    everywhere = {f"{number:05}": VideoFile(Path(f"{number:05}.mp4"), 9) for number in range(21095)}
    monkeypatch.setattr(wlasl, "find_videos", lambda data_dir: everywhere)
    manifest = load_manifest(wlasl_of_published_size, classes)
    assert tuple(len(manifest.clips[split]) for split in SPLITS) == PUBLISHED[classes]
    assert manifest.glosses == tuple(f"sign{label}" for label in range(classes))
    assert {clip.label for clip in manifest.clips["train"]} == set(range(classes))
    ids = [clip.video_id for split in SPLITS for clip in manifest.clips[split]]
    assert len(ids) == len(set(ids)), "a clip is in one split only"


def test_a_published_directory_without_its_videos_says_how_many(wlasl_of_published_size):
    with pytest.raises(DataError, match=r"\(2038 of 2038 listed clips are left out: 2038 missing \(00000, .*…\)\)"):
        load_manifest(wlasl_of_published_size, 100)


@pytest.mark.parametrize("whole_folder", [True, False])
def test_no_training_video_is_refused(directory, whole_folder):
    if whole_folder:
        shutil.rmtree(directory / "videos")
    else:
        for video_id in ("00001", "00002", "00003"):
            (directory / "videos" / f"{video_id}.mp4").unlink()
    with pytest.raises(
        DataError, match=rf"no training video .*\({5 if whole_folder else 3} of 5 listed clips are left out: "
    ):
        load_manifest(directory, 3)


def test_class_count_chooses_among_split_files(directory):
    split = json.loads((directory / "nslt_3.json").read_text())
    two = {video_id: entry for video_id, entry in split.items() if entry["action"][0] < 2}
    (directory / "nslt_2.json").write_text(json.dumps(two))
    assert load_manifest(directory, 2).glosses == ("walk", "book")
    assert load_manifest(directory, 3).glosses == tuple(GLOSSES)
    with pytest.raises(
        DataError, match=r"has nslt_2\.json, nslt_3\.json; choose one with model\.num_classes or --num-classes"
    ):
        load_manifest(directory, None)


def test_the_only_split_file_needs_no_class_count(directory):
    assert load_manifest(directory, None) == load_manifest(directory, 3)


def test_another_class_count_is_refused_with_the_cure(directory):
    with pytest.raises(DataError, match=r"model\.num_classes=100, but .* nslt_3\.json; use model\.num_classes: 3$"):
        load_manifest(directory, 100)


def test_other_json_files_are_left_alone(directory):
    before = load_manifest(directory, 3)
    (directory / "synthetic.json").write_text('{"seed": 0}')
    assert load_manifest(directory, 3) == before


def test_fingerprint_depends_on_the_data_and_not_on_the_path(directory, tmp_path):
    first = load_manifest(directory, 3).fingerprint
    assert load_manifest(make_directory(tmp_path / "elsewhere"), 3).fingerprint == first
    assert load_manifest(make_directory(tmp_path / "range", frame_start=2), 3).fingerprint != first
    (directory / "videos" / "00001.mp4").write_bytes(b"other size")
    second = load_manifest(directory, 3).fingerprint
    edit(directory / "nslt_3.json", lambda split: split["00003"].update(subset="val"))
    assert len({first, second, load_manifest(directory, 3).fingerprint}) == 3


MISTAKES = {
    "annotations not JSON": (lambda d: (d / "signs_v1.json").write_text("[{"), "signs_v1.json is not valid JSON"),
    "annotations not text": (lambda d: (d / "signs_v1.json").write_bytes(b"\xff\xfe\x00"), "cannot read"),
    "split not JSON": (lambda d: (d / "nslt_3.json").write_text("{"), "nslt_3.json is not valid JSON"),
    "split is a list": (lambda d: (d / "nslt_3.json").write_text("[]"), "nslt_3.json: the file"),
    "no split file": (lambda d: (d / "nslt_3.json").unlink(), "no split file nslt_<N>.json"),
    "no annotations": (lambda d: (d / "signs_v1.json").unlink(), "no annotation list"),
    "two annotation lists": (lambda d: (d / "old.json").write_text("[]"), "several annotation lists"),
    "instances missing": (lambda d: edit(d / "signs_v1.json", lambda a: a[0].pop("instances")), "0.instances"),
    "unknown subset": (lambda d: edit(d / "nslt_3.json", lambda s: s["00001"].update(subset="dev")), "subset"),
    "class above N": (lambda d: edit(d / "nslt_3.json", lambda s: s["00001"].update(action=[3, 1, 9])), "class 3"),
    "another annotation list": (
        lambda d: edit(d / "signs_v1.json", lambda a: [gloss.update(instances=[]) for gloss in a]),
        "the annotation list has only 0 of its",
    ),
    "ids of another tool": (lambda d: edit(d / "nslt_3.json", lambda s: s["00003"].update(action=[1, 1, 9])), "walk"),
    "class list broken": (lambda d: (d / "wlasl_class_list.txt").write_text("walk\n"), "<class><tab><gloss>"),
    "path as id": (
        lambda d: edit(d / "signs_v1.json", lambda a: a[0]["instances"][0].update(video_id="../00003")),
        "video_id",
    ),
    "range of no frames": (
        lambda d: edit(d / "signs_v1.json", lambda a: a[0]["instances"][0].update(frame_start=9, frame_end=3)),
        "video 00003: frame_end 3 is before frame_start 9",
    ),
    "no directory": (shutil.rmtree, "cannot read data directory"),
    "a file": (lambda d: (shutil.rmtree(d), d.write_text("")), "cannot read data directory"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(directory, name):
    spoil, expected = MISTAKES[name]
    load_manifest(directory, 3)
    spoil(directory)
    with pytest.raises(DataError) as caught:
        load_manifest(directory, 3)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "classes", "counts"), [("signer", 20, (20, 20, 0)), ("dgs30", 30, (1221, 264, 0))])
def test_real_data_loads_unchanged(name, classes, counts):
    manifest = load_manifest(shared_data(name), classes)
    assert tuple(len(manifest.clips[split]) for split in SPLITS) == counts
    assert manifest.missing == ()
    assert all(manifest.glosses)
    assert {clip.label for clip in manifest.clips["train"]} == set(range(classes))


def test_manifest_and_reader_need_no_torch():
    code = "import sys, models.data.wlasl.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[5], check=False).returncode == 0


def test_a_clip_without_annotation_is_left_out_and_counted(directory):
    edit(directory / "signs_v1.json", lambda glosses: glosses[1]["instances"].pop(0))
    manifest = load_manifest(directory, 3)
    assert [(clip.video_id, clip.reason) for clip in manifest.left_out if clip.reason == "unannotated"] == [
        ("00001", "unannotated")
    ]
    assert "1 unannotated (00001)" in (manifest.left_out_text or "")


def test_the_two_spellings_of_the_official_release_are_one_word(directory):
    edit(directory / "signs_v1.json", lambda glosses: glosses[0].update(gloss="lose"))
    classes = (directory / "wlasl_class_list.txt").read_text()
    (directory / "wlasl_class_list.txt").write_text(classes.replace("walk", "losear"))
    assert load_manifest(directory, 3).glosses[0] == "lose"


def test_an_empty_file_does_not_hide_a_good_one_of_another_container(directory):
    before = load_manifest(directory, 3).clips["train"][0]
    before.path.rename(before.path.with_suffix(".mkv"))
    before.path.write_bytes(b"")
    assert load_manifest(directory, 3).clips["train"][0].path.suffix == ".mkv"


def test_an_annotation_without_a_rate_counts_in_frames_of_the_file(directory):
    edit(directory / "signs_v1.json", lambda glosses: [one.pop("fps") for g in glosses for one in g["instances"]])
    assert {clip.fps for clips in load_manifest(directory, 3).clips.values() for clip in clips} == {None}


def test_every_text_file_may_begin_with_a_byte_order_mark(directory):
    (directory / "left_out.txt").write_text("00002\tcannot read video\n")
    expected = load_manifest(directory, 3)
    for path in directory.iterdir():
        if path.is_file():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_manifest(directory, 3) == expected


def listed_again(path, video_id, **changes):
    """Add a second entry for an id at the end of a split file, as JSON allows it."""
    entry = json.loads(path.read_text())[video_id] | changes
    path.write_text(f"{path.read_text().rstrip().removesuffix('}')}, {json.dumps(video_id)}: {json.dumps(entry)}}}")


def test_an_id_that_is_listed_twice_counts_once_and_is_named(directory):
    listed_again(directory / "nslt_3.json", "00001")
    listed_again(directory / "nslt_3.json", "00003", subset="val")
    manifest = load_manifest(directory, 3)
    assert (manifest.repeated, manifest.listed) == (("00001", "00003"), 5)
    assert [clip.video_id for clip in manifest.clips["val"]] == ["00003", "00007"]
    assert manifest.notices == ["clips that are listed twice: 2 (00001, 00003); the last entry counts"]


def test_an_id_with_two_classes_is_refused(directory):
    listed_again(directory / "nslt_3.json", "00001", action=[0, 1, 10])
    with pytest.raises(DataError, match="video 00001 has class 1 and class 0; fix the file"):
        load_manifest(directory, 3)


def test_an_annotation_that_is_listed_twice_is_named(directory):
    edit(directory / "signs_v1.json", lambda glosses: glosses[0]["instances"].append(glosses[0]["instances"][0]))
    assert load_manifest(directory, 3).repeated == ("00003",)


def test_a_video_in_two_splits_is_named(directory):
    videos = directory / "videos"
    assert load_manifest(directory, 3).notices == []
    (videos / "00007.mp4").write_bytes((videos / "00001.mp4").read_bytes())
    manifest = load_manifest(directory, 3)
    assert manifest.leaks == (("00001", "00007"),)
    assert manifest.notices == [
        "videos that are in two splits: 1 (00001 = 00007); accuracy is then too high, so delete the copies"
    ]


def test_copies_in_one_split_and_other_parts_of_a_video_are_no_leak(directory):
    videos = directory / "videos"
    for video_id in ("00002", "00007"):
        (videos / f"{video_id}.mp4").write_bytes((videos / "00001.mp4").read_bytes())
    edit(directory / "signs_v1.json", lambda glosses: glosses[1]["instances"][1].update(frame_start=30))
    assert load_manifest(directory, 3).leaks == ()


def test_only_the_needed_split_must_have_clips(directory):
    edit(directory / "nslt_3.json", lambda split: [entry.update(subset="test") for entry in split.values()])
    assert len(load_manifest(directory, 3, needed="test").clips["test"]) == 5
    for needed, message in (("train", 'no clip of the subset "train"'), ("val", "has no val clips; choose another")):
        with pytest.raises(DataError, match=message):
            load_manifest(directory, 3, needed=needed)


def test_another_number_of_classes_is_taken_where_words_decide(directory):
    assert load_manifest(directory, 100, exactly=False) == load_manifest(directory, 3)
