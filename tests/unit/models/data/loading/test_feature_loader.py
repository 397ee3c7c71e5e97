"""Features of a frozen backbone: kept, and equal to those made anew."""

import pytest
import torch
from clip_files import write_directory, write_video

from models.config import Settings
from models.data.loading import feature_loader
from models.data.loading.clip_reader import ClipReader
from models.data.loading.clips import build_loaders
from models.data.wlasl import SPLITS
from models.networks.efficient import build_recogniser
from models.training.efficient_trainer import build_trainer
from models.training.loaders import Splits, with_stored_features

LENGTHS = {"train0": 12, "train1": 3, "train2": 14, "train3": 9, "train4": 11, "val0": 8, "val1": 10}
FRAMES, FEATURES = 4, 64
CLIP_BYTES = FRAMES * FEATURES * 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("features") / "data")


def make_data(root):
    for video_id, length in LENGTHS.items():
        write_video(root / "videos" / f"{video_id}.mp4", length)
    clips = {name: (name[:-1], ["walk", "book"][int(name[-1]) % 2]) for name in LENGTHS}
    return write_directory(root, clips, ["walk", "book"])


def settings_for(data_dir, *, workers=0, **model):
    base = {"num_classes": 2, "num_frames": FRAMES, "base_channels": 8, "pyramid_levels": [1], "freeze_backbone": True}
    return Settings.model_validate(
        {
            "model": base | model,
            "data": {"dir": data_dir, "frame_size": 32, "num_workers": workers, "augment": False},
            "training": {"batch_size": 2, "gradient_accumulation_steps": 1, "precision": "fp32", "epochs": 2, "seed": 5}
            | {"enable_memory_tracking": False},
        }
    )


@pytest.fixture
def build(data_dir, monkeypatch):
    """Loaders with kept features, their network, and the names of the clips that are decoded."""
    built, decoded = [], []
    read_into = ClipReader.read_into

    def noted(reader, out, clip, augmentation):
        decoded.append(clip.video_id)
        return read_into(reader, out, clip, augmentation)

    monkeypatch.setattr(ClipReader, "read_into", noted)

    def make(root=data_dir, room_for=None, **options):
        settings = settings_for(root, **options)
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="freezes random numbers"):
            model = build_recogniser(settings.model)
        loaders = with_stored_features(build_loaders(settings), model, settings, CPU)
        if room_for is not None:
            loaders.train.loader._features.limit_bytes = room_for * CLIP_BYTES
        built.append(loaders)
        decoded.clear()
        return loaders, model, decoded

    yield make
    for loaders in built:
        loaders.close()


def by_name(batches):
    return {name: row for batch in batches for name, row in zip(batch.video_ids, batch.clips_BTCHW, strict=True)}


def epoch_of(split, epoch=0):
    split.set_epoch(epoch)
    return list(split)


def test_a_hit_equals_recomputation(build):
    loaders, model, decoded = build()
    first = by_name(epoch_of(loaders.train, 0))
    assert sorted(decoded) == sorted(first) == ["train0", "train1", "train2", "train3", "train4"]
    again = by_name(epoch_of(loaders.train, 1))
    assert len(decoded) == 5, "a clip whose features are kept is not decoded"
    plain = build_loaders(settings_for(loaders.train.loader._settings.data.dir, freeze_backbone=False))
    for name, clip_TCHW in by_name(epoch_of(plain.train)).items():
        expected = model.backbone(clip_TCHW.unsqueeze(0))[0]
        assert first[name].shape == (FRAMES, FEATURES)
        assert torch.equal(first[name], expected)
        assert torch.equal(again[name], expected)


@pytest.mark.parametrize(("room_for", "workers"), [(0, 0), (3, 0), (7, 0), (3, 2)])
def test_clips_without_room_are_extracted_again_and_batches_are_the_same(build, room_for, workers):
    full, _, _ = build()
    expected = [[*epoch_of(full.train, epoch), *full.val] for epoch in range(3)]
    loaders, _, decoded = build(room_for=room_for, workers=workers)
    for epoch in range(3):
        decoded.clear()
        found = [*epoch_of(loaders.train, epoch), *loaders.val]
        for one, other in zip(found, expected[epoch], strict=True):
            assert one.video_ids == other.video_ids
            assert one.padded_B == other.padded_B
            assert torch.equal(one.labels_B, other.labels_B)
            assert torch.equal(one.clips_BTCHW, other.clips_BTCHW)
        if workers == 0:
            assert len(decoded) == (7 - room_for if epoch else 7)
    assert loaders.train.loader._features.stored_bytes == room_for * CLIP_BYTES


def test_batches_keep_order_labels_and_padding(build, data_dir):
    loaders, _, _ = build()
    plain = build_loaders(settings_for(data_dir, freeze_backbone=False))
    for epoch in range(2):
        found, expected = epoch_of(loaders.train, epoch), epoch_of(plain.train, epoch)
        assert [batch.video_ids for batch in found] == [batch.video_ids for batch in expected]
        assert [batch.padded_B for batch in found] == [batch.padded_B for batch in expected]
        assert all(torch.equal(a.labels_B, b.labels_B) for a, b in zip(found, expected, strict=True))
    assert loaders.padding_text == (
        "clips shorter than model.num_frames=4: 1 (train1), padded with 1 frames (their last one, repeated)"
    )


def test_kept_features_need_no_file(build, tmp_path):
    root = make_data(tmp_path / "data")
    loaders, _, _ = build(root=root)
    epoch_of(loaders.train)
    for path in (root / "videos").iterdir():
        path.unlink()
    assert len(epoch_of(loaders.train, 1)) == 3


def test_other_weights_make_other_features(build):
    loaders, model, decoded = build()
    before = by_name(epoch_of(loaders.train))
    with torch.no_grad():
        model.backbone.layer4[1].conv2.weight.mul_(1.5)
    after = by_name(epoch_of(loaders.train))
    assert len(decoded) == 10
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert len(loaders.train.loader._features) == 5, "features of the old weights are of no use"


def test_an_epoch_left_early_starts_again(build):
    loaders, _, _ = build(workers=1)
    expected = epoch_of(loaders.train)
    other, _, _ = build(workers=1)
    for _ in other.train:
        break
    for one, another in zip(epoch_of(other.train), expected, strict=True):
        assert torch.equal(one.clips_BTCHW, another.clips_BTCHW)


def test_a_cache_that_is_switched_off_gives_its_memory_back(build, data_dir):
    loaders, _, decoded = build()
    expected = by_name(epoch_of(loaders.train))
    loader = loaders.train.loader
    loader._settings = settings_for(data_dir, enable_feature_caching=False)
    loader.close()
    assert loader._features.stored_bytes == 0
    found = by_name(epoch_of(loaders.train))
    assert len(decoded) == 10
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loader._features.stored_bytes == 0


def test_with_augmentation_nothing_is_kept_in_place_of_clips(data_dir):
    settings = settings_for(data_dir)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"augment": True})})
    loaders = build_loaders(settings)
    assert with_stored_features(loaders, torch.nn.Identity(), settings, CPU) is loaders


def test_training_on_kept_features_is_training_behind_the_frozen_backbone(build, data_dir):
    loaders, model, decoded = build()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    settings = settings_for(data_dir)
    plain = build_loaders(settings)  # the same network, fed with frames
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="freezes random numbers"):
        twin = build_recogniser(settings.model)
    for network, source in ((model, loaders), (twin, plain)):
        torch.manual_seed(1)
        build_trainer(network, settings.training, "cpu", 6, Splits(source.train, source.val)).fit(None)
    assert len(decoded) == 7 + 14, "7 clips once, and 14 in two epochs of frames"
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(value, start[name]) == name.startswith("backbone."), name


def test_features_share_the_cache_limit_of_clips(build):
    loaders, _, _ = build(cache_size_limit_mb=3)
    assert loaders.train.loader._features.limit_bytes == 3 * 2**20
    assert isinstance(loaders.train.loader, feature_loader.FeatureLoader)
    assert {getattr(loaders, split).loader for split in SPLITS} == {loaders.train.loader}
