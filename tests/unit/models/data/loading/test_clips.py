import gc
import multiprocessing
import weakref

import pytest
import torch
from clip_files import number_shown, shared_data, write_directory, write_video

from models.config import Settings, working_size
from models.data.loading import loader_pool
from models.data.loading.clips import build_loaders
from models.data.video.reader import uniform_indices
from models.data.wlasl import SPLITS
from models.data.wlasl import check as wlasl_check
from slr_bench.errors import ConfigError, DataError

GLOSSES = ["walk", "book"]
LENGTHS = {"train": [30, 9, 41, 26, 12], "val": [30, 5, 44], "test": []}
SIZE, FRAMES = 32, 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("clips") / "data")


def make_data(root):
    clips = {}
    for split, lengths in LENGTHS.items():
        for number, length in enumerate(lengths):
            video_id = f"{split}{number}"
            clips[video_id] = (split, GLOSSES[number % 2])
            write_video(root / "videos" / f"{video_id}.mp4", length, gop=12, open_gop=True)
    return write_directory(root, clips, GLOSSES)


def settings_for(data_dir, *, caching=False, batch_size=2, **data):
    return Settings.model_validate(
        {
            "model": {"num_classes": 2, "num_frames": FRAMES, "enable_feature_caching": caching},
            "data": {"dir": data_dir, "frame_size": SIZE, "num_workers": 0} | data,
            "training": {"batch_size": batch_size, "seed": 5},
        }
    )


@pytest.fixture
def loaders_for(data_dir):
    """Builds loaders and ends them; no process may be left then."""
    built = []

    def build(**options):
        built.append(build_loaders(settings_for(**({"data_dir": data_dir} | options))))
        return built[-1]

    yield build
    for loaders in built:
        loaders.close()
    gc.collect()
    assert multiprocessing.active_children() == []


def epoch_of(split_loader, epoch=0):
    split_loader.set_epoch(epoch)
    return list(split_loader)


def clips_by_name(batches):
    pairs = (zip(batch.video_ids, batch.clips_BTCHW, strict=True) for batch in batches)
    return {name: clip for pair in pairs for name, clip in pair}


def assert_equal_batches(found, expected):
    assert [batch.video_ids for batch in found] == [batch.video_ids for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.clips_BTCHW, other.clips_BTCHW)
        assert torch.equal(one.labels_B, other.labels_B)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("chunk_size", [3, 32])
def test_evaluation_sees_the_uniform_frames_of_every_clip(loaders_for, workers, chunk_size):
    batches = list(loaders_for(num_workers=workers, chunk_size=chunk_size).val)
    assert [batch.video_ids for batch in batches] == [("val0", "val1"), ("val2",)]
    assert [batch.labels_B.tolist() for batch in batches] == [[0, 1], [0]]
    assert [batch.padded_B for batch in batches] == [(0, FRAMES - 5), (0,)]
    clips = [clip for batch in batches for clip in batch.clips_BTCHW]
    cropped = 1 - SIZE / working_size(SIZE)
    for clip_TCHW, length in zip(clips, LENGTHS["val"], strict=True):
        assert clip_TCHW.dtype == torch.uint8
        assert clip_TCHW.shape == (FRAMES, 3, SIZE, SIZE)
        shown = [number_shown(frame.permute(1, 2, 0).numpy(), cropped) for frame in clip_TCHW]
        assert shown == uniform_indices(0, length, FRAMES).numbers_T.tolist()


def test_training_sees_every_clip_once_and_another_order_each_epoch(loaders_for):
    train = loaders_for().train
    assert len(train) == 3
    orders = []
    for epoch in range(4):
        batches = epoch_of(train, epoch)
        assert [len(batch.labels_B) for batch in batches] == [2, 2, 1]
        orders.append(tuple(video_id for batch in batches for video_id in batch.video_ids))
        assert sorted(orders[-1]) == [f"train{number}" for number in range(5)]
    assert len(set(orders)) > 1


def test_batches_do_not_depend_on_processes_or_chunks(loaders_for):
    expected = epoch_of(loaders_for().train, 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert_equal_batches(epoch_of(loaders_for(num_workers=2, chunk_size=3).train, 3), expected)
    assert torch.equal(torch.get_rng_state(), before), "the loader drew from the model's generator"


def test_a_clips_augmentation_does_not_depend_on_its_batch(loaders_for):
    pairs, alone = (clips_by_name(epoch_of(loaders_for(batch_size=size).train)) for size in (2, 1))
    assert all(torch.equal(pairs[name], alone[name]) for name in pairs)


def test_epochs_differ_in_pixels_and_return(loaders_for):
    train = loaders_for().train
    first, second, again = (
        {
            name: clip
            for batch in epoch_of(train, epoch)
            for name, clip in zip(batch.video_ids, batch.clips_BTCHW, strict=True)
        }
        for epoch in (0, 1, 0)
    )
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_augmentation_epochs_have_the_same_pixels(loaders_for):
    train = loaders_for(augment=False, batch_size=1).train
    first, second = ({batch.video_ids: batch.clips_BTCHW for batch in epoch_of(train, epoch)} for epoch in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("workers", "time_crop"), [(0, 0.0), (2, 0.0), (0, 0.3)])
def test_caching_changes_no_pixel(loaders_for, workers, time_crop):
    plain = loaders_for(caching=False, time_crop=time_crop)
    cached = loaders_for(caching=True, num_workers=workers, chunk_size=5, time_crop=time_crop)
    for epoch in range(3):
        assert_equal_batches(epoch_of(cached.train, epoch), epoch_of(plain.train, epoch))
        assert_equal_batches(list(cached.val), list(plain.val))


@pytest.mark.parametrize("time_crop", [0.0, 0.3])
def test_cached_clips_need_no_file_in_later_epochs(tmp_path, loaders_for, time_crop):
    root = make_data(tmp_path / "data")
    plain = loaders_for(data_dir=root, time_crop=time_crop)
    cached = loaders_for(data_dir=root, caching=True, time_crop=time_crop)
    expected = epoch_of(plain.train, 1)
    epoch_of(cached.train, 0)
    for path in (root / "videos").iterdir():
        path.unlink()
    assert_equal_batches(epoch_of(cached.train, 1), expected)
    with pytest.raises(DataError, match="cannot read video"):
        epoch_of(plain.train, 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("limit", [2 * FRAMES, 5 * FRAMES])
def test_owned_frames_stay_within_the_limit(loaders_for, workers, limit):
    loaders = loaders_for(num_workers=workers, prefetch_batches=4, max_frames_in_memory=limit)
    for epoch in range(2):
        assert len(epoch_of(loaders.train, epoch)) == 3
        assert len(list(loaders.val)) == 2
    assert 2 * FRAMES <= loaders.train.loader.high_water_frames <= limit


def test_without_a_limit_the_loader_runs_ahead(loaders_for):
    loaders = loaders_for(num_workers=1, prefetch_batches=4, max_frames_in_memory=None)
    batches = iter(loaders.train)
    next(batches)
    # The consumer takes no further batch; the process makes the two that are left. Only a loader that stops early
    # hangs here.
    while loaders.train.loader.high_water_frames < 3 * FRAMES:
        pass
    assert len(list(batches)) == 2


def test_the_loader_keeps_no_reference_to_a_yielded_batch(loaders_for):
    batches = iter(loaders_for(num_workers=1).train)
    batch = next(batches)
    clips = weakref.ref(batch.clips_BTCHW)
    del batch
    assert clips() is None
    assert len(list(batches)) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_leaves_nothing_behind(loaders_for, workers):
    loaders = loaders_for(num_workers=workers, max_frames_in_memory=2 * FRAMES)
    expected = epoch_of(loaders.train, 0)
    for _ in loaders.train:
        break
    gc.collect()
    assert multiprocessing.active_children() == []
    assert_equal_batches(epoch_of(loaders.train, 0), expected)


def test_processes_stay_after_the_last_batch_even_if_the_iterator_is_not_exhausted(loaders_for):
    loaders = loaders_for(num_workers=2)
    for _, _ in zip(range(len(loaders.train)), loaders.train, strict=False):
        pass
    before = {process.pid for process in multiprocessing.active_children()}
    epoch_of(loaders.train, 1)
    assert {process.pid for process in multiprocessing.active_children()} == before
    assert len(before) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_resume_at_any_batch(loaders_for, workers):
    train = loaders_for(num_workers=workers).train
    expected = epoch_of(train, 4)
    for first in range(4):
        assert_equal_batches(list(train.batches(first)), expected[first:])


def test_giving_up_memory_changes_no_batch_and_lasts(loaders_for):
    """Memory is given up in the middle of an epoch, which then resumes with the remaining resources."""
    expected = epoch_of(loaders_for().train, 2)
    train = loaders_for(caching=True, num_workers=2, prefetch_batches=3).train
    train.set_epoch(2)
    done, processes = [], []
    for what in ("cache", "cache", "prefetch", "prefetch", "workers", "workers", "workers"):
        batches = train.batches()
        found = [next(batches)]
        processes.append(len(multiprocessing.active_children()))
        done.append(train.shed(what))
        if done[-1] is not None:
            with pytest.raises(RuntimeError, match="this epoch ended"):
                next(batches)
            batches = train.batches(1)
        assert_equal_batches(found + list(batches), expected)
    assert done == [
        "the clip cache of up to 1024 MiB is dropped", None, "batches prefetched by each process: 3 -> 1", None,
        "loader processes: 2 -> 1", "loader processes: 1 -> 0", None,
    ]  # fmt: skip
    assert processes == [2, 2, 2, 2, 2, 1, 0]
    assert train.loader._settings.model.enable_feature_caching is False
    assert train.shed("prefetch") is None


def test_a_second_epoch_ends_the_first_with_an_error(loaders_for):
    loaders = loaders_for(num_workers=1)
    batches = iter(loaders.train)
    next(batches)
    assert len(list(loaders.val)) == 2
    with pytest.raises(RuntimeError, match="this epoch ended when another one began"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"no video", None])
def test_an_unreadable_clip_is_one_line(tmp_path, loaders_for, workers, content):
    root = make_data(tmp_path / "data")
    path = root / "videos" / "train2.mp4"
    loaders = loaders_for(data_dir=root, num_workers=workers, max_frames_in_memory=2 * FRAMES)
    path.write_bytes(content or path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(DataError, match=r"train2\.mp4") as caught:
        epoch_of(loaders.train)
    assert "\n" not in str(caught.value)


def test_training_skips_unreadable_clips_that_the_check_left_out(tmp_path, loaders_for, capsys):
    root = make_data(tmp_path / "data")
    (root / "videos" / "train2.mp4").write_bytes(b"no video")
    with pytest.raises(
        DataError, match=rf"wlasl check {root} --decode --leave-out finds all such clips and leaves them out"
    ):
        epoch_of(loaders_for(data_dir=root).train)
    assert wlasl_check.main(["check", str(root), "--decode", "--leave-out"]) == 0
    loaders = loaders_for(data_dir=root)
    names = {video_id for batch in epoch_of(loaders.train) for video_id in batch.video_ids}
    assert names == {"train0", "train1", "train3", "train4"}
    assert loaders.manifest.left_out_text == "1 of 8 listed clips is left out: 1 unreadable (train2)"


def test_more_processes_than_cores_give_one_short_warning(loaders_for, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    with pytest.warns(UserWarning, match="num_workers") as warned:
        epoch_of(loaders_for(num_workers=2).train)
    assert [str(one.message) for one in warned] == [
        "data.num_workers: 2 is more than the cores that this process may run on; use 1 or fewer"
    ]


def test_a_cache_that_cannot_hold_a_clip_gives_a_warning(data_dir):
    build_loaders(settings_for(data_dir, caching=True))
    settings = settings_for(data_dir, caching=True, frame_size=224)
    tight = settings.model.model_copy(update={"cache_size_limit_mb": 2})
    with pytest.warns(UserWarning, match=r"cannot hold one training clip \(3\.0 MiB\).*; use 3 or more, or"):
        build_loaders(settings.model_copy(update={"model": tight}))
    enough = settings.model.model_copy(update={"cache_size_limit_mb": 3})
    build_loaders(settings.model_copy(update={"model": enough}))


def test_splits_are_never_mixed(loaders_for):
    loaders = loaders_for()
    seen = {
        split: {name for batch in epoch_of(getattr(loaders, split)) for name in batch.video_ids} for split in SPLITS
    }
    assert seen == {split: {f"{split}{number}" for number in range(len(LENGTHS[split]))} for split in SPLITS}


def test_a_killed_loader_process_is_one_line(loaders_for, monkeypatch):
    def killed():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")
        yield

    loaders = loaders_for()
    monkeypatch.setattr(loader_pool._Pool, "begin", lambda pool, tickets: setattr(pool, "_answers", killed()))
    with pytest.raises(DataError, match=r"process died \(DataLoader worker \(pid 7\).*Killed\.\); .*num_workers"):
        list(loaders.train)


def test_a_process_with_cuda_gets_a_fork_server(loaders_for, monkeypatch):
    expected = list(loaders_for(num_workers=0).val)
    assert loader_pool._start_method() == "fork"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert loader_pool._start_method() == "forkserver"
    assert_equal_batches(list(loaders_for(num_workers=1).val), expected)


def test_decoding_in_the_training_process_leaves_its_threads_alone(loaders_for):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(loaders_for().val)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_a_missing_data_directory_is_an_error():
    with pytest.raises(ConfigError, match=r"data\.dir is not set"):
        build_loaders(settings_for(None))


def test_real_recordings_load():
    loaders = build_loaders(
        Settings.model_validate(
            {
                "model": {"num_classes": 20},
                "data": {"dir": shared_data("signer"), "frame_size": 112, "num_workers": 0},
                "training": {"batch_size": 2},
            }
        )
    )
    batch = next(iter(loaders.val))
    assert batch.clips_BTCHW.shape == (2, 16, 3, 112, 112)
    assert batch.labels_B.tolist() == [0, 1]
    assert batch.clips_BTCHW.float().std() > 20, "a picture, not a blank"
