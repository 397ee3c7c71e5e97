"""The rendered directory: labels, splits, equal bytes, resuming, refusing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.synthetic import dataset as synthetic
from models.data.synthetic.lexicon import LEXICON
from models.data.synthetic.plan import Clip, RenderSettings, plan_clips
from slr_bench.errors import ConfigError, DataError

DEFAULTS = {"num_classes": 20, "clips_per_class": 24, "signers": 12, "size": 128, "seed": 0, "nuisance": 1.0}
TINY = {"num_classes": 2, "clips_per_class": 3, "signers": 3, "size": 32, "seed": 5}


def plan(**changes: object) -> list[Clip]:
    return plan_clips(RenderSettings.model_validate({**DEFAULTS, **changes}))


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "tiny"
    assert synthetic.render_dataset(out, **TINY, workers=1) == 6
    return out


def test_default_plan_is_sixteen_four_four_on_eight_two_two_signers() -> None:
    clips = plan()
    assert len(clips) == 480
    for split, clips_a_class, people in (("train", 16, 8), ("val", 4, 2), ("test", 4, 2)):
        chosen = [clip for clip in clips if clip.split == split]
        assert len({clip.signer_id for clip in chosen}) == people
        assert all(sum(clip.class_id == k for clip in chosen) == clips_a_class for k in range(20))
    assert all(32 <= clip.frames <= 60 for clip in clips)


def test_a_part_held_out_is_that_part_of_clips_and_signers() -> None:
    clips = plan(num_classes=2, clips_per_class=50, signers=20, held_out=0.4)
    for split, clips_a_class, people in (("train", 10, 4), ("val", 20, 8), ("test", 20, 8)):
        chosen = [clip for clip in clips if clip.split == split]
        assert (len(chosen), len({clip.signer_id for clip in chosen})) == (2 * clips_a_class, people)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(3, 40), st.integers(3, 30), st.sampled_from([1 / 6, 0.01, 0.36, 0.45]))
def test_splits_never_share_a_signer_and_hold_every_class(
    classes: int, clips_per_class: int, signers: int, held_out: float
) -> None:
    clips = plan(num_classes=classes, clips_per_class=clips_per_class, signers=signers, held_out=held_out)
    by_split = {split: [c for c in clips if c.split == split] for split in ("train", "val", "test")}
    people = [{clip.signer_id for clip in members} for members in by_split.values()]
    assert sum(map(len, people)) == len(set().union(*people))
    assert all({clip.class_id for clip in members} == set(range(classes)) for members in by_split.values())
    assert len(clips) == classes * clips_per_class
    assert len({clip.video_id for clip in clips}) == len(clips)


def test_lists_and_videos_agree(tiny: Path) -> None:
    annotations = json.loads((tiny / "WLASL_v0.3.json").read_text())
    split = json.loads((tiny / "nslt_2.json").read_text())
    assert (tiny / "wlasl_class_list.txt").read_text() == f"0\t{LEXICON[0].gloss}\n1\t{LEXICON[1].gloss}\n"
    seen = []
    for class_id, entry in enumerate(annotations):
        assert entry["gloss"] == LEXICON[class_id].gloss
        for number, instance in enumerate(entry["instances"]):
            video_id = instance["video_id"]
            assert instance == {
                "bbox": [0, 0, 32, 32],
                "fps": 25,
                "frame_start": 1,
                "frame_end": -1,
                "instance_id": number,
                "source": "synthetic",
                "url": "",
                "variation_id": 0,
                "video_id": video_id,
                "signer_id": instance["signer_id"],
                "split": split[video_id]["subset"],
            }
            with av.open(str(tiny / "videos" / f"{video_id}.mp4")) as container:
                stream = container.streams.video[0]
                assert (stream.codec_context.name, stream.average_rate, stream.pix_fmt) == ("h264", 25, "yuv420p")
                assert (stream.width, stream.height) == (32, 32)
                assert split[video_id]["action"] == [class_id, 1, sum(1 for _ in container.decode(video=0))]
            seen.append(video_id)
    assert sorted(seen) == sorted(split) == sorted(path.stem for path in (tiny / "videos").iterdir())


def test_equal_settings_give_equal_bytes_whatever_the_workers(tiny: Path, tmp_path: Path) -> None:
    synthetic.render_dataset(tmp_path / "again", **TINY, workers=2)
    assert bytes_of(tmp_path / "again") == bytes_of(tiny)


def test_another_seed_gives_other_videos(tiny: Path, tmp_path: Path) -> None:
    synthetic.render_dataset(tmp_path / "other", **{**TINY, "seed": 6}, workers=1)
    other, same = bytes_of(tmp_path / "other"), bytes_of(tiny)
    assert all(other[name] != same[name] for name in same if name.endswith(".mp4"))


def test_a_second_call_renders_nothing_and_reports_it(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    options = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert synthetic.main(["--out", str(tiny), *options]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_interrupted_rendering_has_no_annotation_list_and_is_completed(tiny: Path, tmp_path: Path) -> None:
    def stop_at_three(count: int, total: int) -> None:
        assert total == 6
        if count == 3:
            raise KeyboardInterrupt

    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        synthetic.render_dataset(out, **TINY, workers=1, progress=stop_at_three)
    assert not (out / "WLASL_v0.3.json").exists()
    counts: list[int] = []
    assert synthetic.render_dataset(out, **TINY, workers=1, progress=lambda count, _: counts.append(count)) == 3
    assert counts == [4, 5, 6]
    assert bytes_of(out) == bytes_of(tiny)


def test_killed_worker_is_named_and_its_rendering_completed(tiny: Path, tmp_path: Path) -> None:
    def kill_workers(count: int, total: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    big = {**TINY, "clips_per_class": 30, "size": 64}
    with pytest.raises(DataError, match=r"was killed .* run again"):
        synthetic.render_dataset(tmp_path / "part", **big, workers=2, progress=kill_workers)
    assert not multiprocessing.active_children()
    there = len(list((tmp_path / "part" / "videos").glob("*.mp4")))
    assert 0 < there < 60
    assert synthetic.render_dataset(tmp_path / "part", **big, workers=1) == 60 - there


PRINT_EACH_CLIP = """
import sys
from models.data.synthetic import dataset as synthetic
write_clips = synthetic.write_clips
def printing(*arguments):
    for clip in write_clips(*arguments):
        print("clip", flush=True)
        yield clip
synthetic.write_clips = printing
sys.exit(synthetic.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("deadly", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_an_interrupted_or_killed_parent(deadly: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRINT_EACH_CLIP, "--out", str(tmp_path / "out"), "--clips-per-class", "200"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "clip\n"
        if deadly == signal.SIGINT:
            os.killpg(parent.pid, deadly)  # as a terminal's Ctrl-C does
        else:
            parent.kill()
        _, errors = parent.communicate(timeout=60)  # returns when the last holder of the pipes, a worker too, is gone
    if deadly == signal.SIGINT:
        assert parent.returncode == 130
        assert "interrupted; the same command completes the rendering" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "WLASL_v0.3.json").exists()


def test_other_settings_into_a_rendered_directory_are_refused(tiny: Path) -> None:
    before = bytes_of(tiny)
    with pytest.raises(ConfigError, match=r"another rendering.*choose another directory or delete"):
        synthetic.render_dataset(tiny, **{**TINY, "seed": 1}, workers=1)
    assert bytes_of(tiny) == before


def test_foreign_and_damaged_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        synthetic.render_dataset(tmp_path, **TINY, workers=1)
    (tmp_path / synthetic.FINGERPRINT).write_bytes(b"\xff\x00[")
    with pytest.raises(ConfigError, match="another rendering"):
        synthetic.render_dataset(tmp_path, **TINY, workers=1)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--signers", "2"], "signers: Input should be greater than or equal to 3; got 2"),
        (["--clips-per-class", "2"], "clips_per_class: Input should be greater than or equal to 3; got 2"),
        (["--num-classes", "0"], "num_classes: Input should be greater than or equal to 1; got 0"),
        (["--num-classes", "121"], "num_classes: Input should be less than or equal to 120; got 121"),
        (["--size", "127"], "size: Input should be a multiple of 2; got 127"),
        (["--seed", "-1"], "seed: Input should be greater than or equal to 0; got -1"),
        (["--nuisance", "nan"], "nuisance: "),
        (["--workers", "0"], "workers=0"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--sizes", "64"], "unrecognized arguments: --sizes 64"),
    ],
)
def test_bad_options_end_in_one_line_and_exit_code_2(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthetic.main(["--out", str(tmp_path / "out"), *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unusable_output_directories_end_in_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for place, message in ((file, "is a file"), (file / "below", "cannot write"), (Path("/proc/none"), "cannot write")):
        assert synthetic.main(["--out", str(place)]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert synthetic.main([]) == 2
    assert "--out" in capsys.readouterr().err


def test_imports_no_torch() -> None:
    code = "import sys, models.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
