"""The division of clips, as properties that hold for every set of clips."""

from collections import defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from models.data.layouts.rows import Clip, Row
from models.data.layouts.splits import Fractions, divide
from models.data.manifest import VideoFile, same_content
from slr_bench.errors import DataError

RECORDINGS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=40)
FRACTIONS = st.builds(Fractions, st.floats(0.05, 0.4), st.floats(0.0, 0.4))


def clips_of(recordings, signer=None):
    """Return one clip per different (label, recording, part); recordings of a number are shared by all labels."""
    names = sorted({(label, f"r{recording}_c{part}{label}") for label, recording, part in recordings})
    return [
        Clip(Row(name, label, signer=signer(name) if signer else None), VideoFile(Path(f"{name[:4]}{number}.mp4"), 9),
             f"{name[:4]}{number}.mp4")
        for number, (label, name) in enumerate(names)
    ]  # fmt: skip


def divided(clips, fractions, seed=0):
    try:
        return divide(clips, {}, fractions, seed)
    except DataError:  # no clip is left for validation
        return None


def groups_of(clips, splits, key):
    where = defaultdict(set)
    for clip, split in zip(clips, splits, strict=True):
        where[key(clip)].add(split)
    return where


@given(RECORDINGS, FRACTIONS, st.integers(0, 3))
def test_each_recording_is_in_one_split_and_the_order_of_clips_does_not_matter(recordings, fractions, seed):
    clips = clips_of(recordings)
    division = divided(clips, fractions, seed)
    if division is None:
        return
    recording = lambda clip: clip.video_id.partition("_c")[0]  # noqa: E731
    assert all(len(splits) == 1 for splits in groups_of(clips, division.splits, recording).values())
    backwards = divided(clips[::-1], fractions, seed)
    assert backwards.splits == division.splits[::-1]
    assert "train" in division.splits


@given(RECORDINGS, FRACTIONS)
def test_each_signer_is_in_one_split(recordings, fractions):
    clips = clips_of(recordings, signer=lambda name: name[1])
    division = divided(clips, fractions)
    if division is None:
        return
    by = (lambda clip: clip.row.signer) if division.by == "signer" else (lambda clip: clip.video_id.partition("_c")[0])
    assert (division.by == "signer") == (len({clip.row.signer for clip in clips}) > 1)
    assert all(len(splits) == 1 for splits in groups_of(clips, division.splits, by).values())


def test_a_validation_split_is_taken_from_training_alone():
    clips = [
        Clip(Row(name, name[0], split), VideoFile(Path(name), 9), name)
        for split, names in (("train", ("a1", "a2", "b1", "b2")), ("test", ("a3", "b3")))
        for name in names
    ]
    division = divide(clips, {}, Fractions(), 0)
    assert sorted(division.splits) == ["test", "test", "train", "train", "val", "val"]
    assert division.splits[4:] == ["test", "test"]
    assert division.notices == ["no validation split is given, so one is taken from training, by recording"]


@given(st.lists(st.binary(max_size=3), max_size=8), st.integers(1, 20_000))
def test_same_content_groups_files_as_comparing_each_pair_does(tmp_path_factory, contents, padding):
    root = tmp_path_factory.mktemp("files")
    contents = [b"x" * padding + content for content in contents]  # they differ behind what is compared first
    files = []
    for number, content in enumerate(contents):
        path = root / str(number)
        path.write_bytes(content)
        files.append(VideoFile(path, len(content)))
    naive = {frozenset(k for k, other in enumerate(contents) if other == content) for content in contents}
    assert {frozenset(group) for group in same_content(files)} == {group for group in naive if len(group) > 1}


def test_a_file_that_cannot_be_read_has_no_copies(tmp_path):
    assert same_content([VideoFile(tmp_path / "a", 3), VideoFile(tmp_path / "b", 3)]) == []


@given(RECORDINGS, RECORDINGS, FRACTIONS, st.integers(0, 3), st.booleans())
def test_clips_of_an_earlier_division_keep_their_split(recordings, more, fractions, seed, with_signers):
    signer = (lambda name: name[1]) if with_signers else None
    before = clips_of(recordings, signer)
    first = divided(before, fractions)
    if first is None:
        return
    earlier = {clip.video_id: split for clip, split in zip(before, first.splits, strict=True)}
    known = {clip.row.path for clip in before}
    grown = before + [
        clip._replace(video_id=f"more{clip.video_id}") for clip in clips_of(more, signer) if clip.row.path not in known
    ]
    second = divide(grown, {}, fractions, seed, earlier)
    assert second.splits[: len(before)] == first.splits
    if second.by == "signer" == first.by:
        assert all(len(splits) == 1 for splits in groups_of(grown, second.splits, lambda c: c.row.signer).values())
