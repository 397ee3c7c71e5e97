"""The 3-D networks: torchvision's own logits, recomputation that changes nothing, weights from files."""

import copy

import pytest
import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms._presets import VideoClassification

from models.config import ModelConfig, Settings
from models.networks.efficient import build_recogniser
from models.networks.video import NETWORKS, VideoNetwork
from slr_bench.errors import ConfigError

# B clip, T frame, C channel, H height, W width, K sign class

CLASSIFIERS = {"i3d": "logits.conv3d", "r3d_18": "fc", "s3d": "classifier.1"}


def config(network, **changes):
    return ModelConfig.model_validate({"network": network, "num_classes": 5, "num_frames": 8} | changes)


def clips(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["i3d", "s3d", pytest.param("r3d_18", marks=pytest.mark.slow)])
def network(request):
    torch.manual_seed(0)
    return request.param, build_recogniser(config(request.param, dropout=0.5))


@pytest.mark.parametrize(("name", "frames", "size"), [("r3d_18", 5, 24), ("s3d", 13, 64)])
def test_logits_equal_torchvisions(name, frames, size):
    """Torchvision's transform normalises. Its S3D takes at least 209 pixels; here its last window is smaller."""
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, num_classes=5).eval()
    model = VideoNetwork(config(name)).eval()
    model.net.load_state_dict(reference.state_dict())
    if name == "s3d":
        reference.avgpool = torch.nn.AvgPool3d((2, 2, 2), stride=1)
    clips_BTCHW = clips(1, frames, 3, size, size)
    prepare = VideoClassification(crop_size=(size, size), resize_size=(size, size))
    with torch.no_grad():
        torch.testing.assert_close(model(clips_BTCHW), reference(prepare(clips_BTCHW)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(clips_BTCHW / 255), model(clips_BTCHW), rtol=1e-4, atol=1e-5)


def test_i3d_takes_values_from_minus_one_to_one():
    model = VideoNetwork(config("i3d"))
    seen = []
    model.net.Conv3d_1a_7x7.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    white_BTCHW = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    white_BTCHW[:, 1:] = 255
    with torch.no_grad():
        model.eval()(white_BTCHW)
    assert torch.equal(seen[0][:, :, 0], torch.full((1, 3, 32, 32), -1.0))
    assert torch.equal(seen[0][:, :, 1:], torch.ones(1, 3, 3, 32, 32))


def step(model):
    torch.manual_seed(1)
    logits_BK = model(clips(2, 8, 3, 32, 32))
    F.cross_entropy(logits_BK, torch.tensor([1, 4])).backward()
    return [logits_BK, *(parameter.grad for parameter in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("recompute", ["stage", pytest.param("block", marks=pytest.mark.slow)])
def test_recomputation_changes_nothing(network, recompute):
    """Gradients, dropout and statistics are the same bit for bit, and parameters keep their only name."""
    name, model = network
    plain, again = copy.deepcopy(model), build_recogniser(config(name, dropout=0.5), recompute)
    again.load_state_dict(model.state_dict())
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]
    expected, found = step(plain), step(again)
    assert len(expected) == len(found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_recomputation_keeps_the_clip_as_bytes_and_the_inputs_of_units():
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    model = build_recogniser(config("s3d"), "stage")
    clips_BTCHW = clips(2, 8, 3, 64, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(clips_BTCHW)
    kept = sorted((size for _, size in sizes.values()), reverse=True)
    # T x H x W halve in the stem, H x W in the next pool, then T too: inputs of stages 2 to 5, in fp32.
    inputs = [64 * 4 * 32 * 32, 192 * 4 * 16 * 16, 480 * 4 * 8 * 8, 832 * 2 * 4 * 4]
    expected = sorted([clips_BTCHW.numel(), *(2 * 4 * count for count in inputs)], reverse=True)
    assert kept[: len(expected)] == expected
    assert sum(kept[len(expected) :]) < 0.1 * sum(kept)  # the head's, and random states


def test_a_whole_file_loads_unchanged(network, tmp_path):
    name, model = network
    path = tmp_path / "weights.pt"
    torch.save(model.net.state_dict(), path)
    loaded = build_recogniser(config(name, weights=path))
    found, expected = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_classifier_with_other_classes_is_not_loaded_and_warns(network, tmp_path):
    """Published files from before torch 0.4.1 also lack the batch counters."""
    name, model = network
    path = tmp_path / "weights.pt"
    state = {key: value for key, value in model.net.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, path)
    with pytest.warns(
        UserWarning, match=rf"5 classes, model\.num_classes is 7: everything except its {CLASSIFIERS[name]}"
    ):
        loaded = build_recogniser(config(name, weights=path, num_classes=7))
    for key, value in loaded.net.state_dict().items():
        if key.startswith(CLASSIFIERS[name]):
            assert value.shape[0] == 7
        elif key in state:
            assert torch.equal(value, state[key]), key


def test_files_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    state = build_recogniser(config("i3d")).net.state_dict()
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"does not fit: 387 tensors are missing .*; use weights of the network s3d"):
        build_recogniser(config("s3d", weights=path))
    torch.save(state | {"Mixed_3b.b0.conv3d.weight": torch.zeros(64, 192, 3, 3, 3)}, path)
    with pytest.raises(ConfigError, match=r"Mixed_3b\.b0\.conv3d\.weight is \(64, 192, 3, 3, 3\), expected"):
        build_recogniser(config("i3d", weights=path))
    torch.save({key: value for key, value in state.items() if key != "Mixed_4d.b2a.bn.weight"}, path)
    with pytest.raises(ConfigError, match=r"Mixed_4d\.b2a\.bn\.weight is missing"):
        build_recogniser(config("i3d", weights=path))


def test_region_focus_comes_before_any_network():
    model = build_recogniser(config("s3d", region_focus="motion", focus_size=40)).eval()
    seen = []
    model.net.features[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        model(clips(1, 8, 3, 64, 64))
    assert seen == [(1, 3, 8, 40, 40)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.temporal_shift": "plain"}, "temporal_shift=plain has no effect with network: i3d; leave it at"),
        ({"model.base_channels": 16}, "base_channels=16 has no effect"),
        ({"model.frame_budget": 8}, "frame_budget=8 has no effect"),
        ({"model.causal": True}, "causal: true cannot go with network: i3d"),
        ({"training.recompute": "budget:64"}, "its layers are not chosen one by one; use stage or block"),
        ({"training.channels_last": True}, "cannot go with training.channels_last: true"),
        ({"model.network": "s3d", "model.num_frames": 7}, "less than the 8 frames"),
        ({"model.num_frames": 7}, "less than the 8 frames"),
    ],
)
def test_keys_without_effect_are_refused(changes, words):
    values = {"model": {"network": "i3d"}, "training": {}}
    for key, value in changes.items():
        section, name = key.split(".")
        values[section][name] = value
    with pytest.raises(ValueError) as error:
        Settings.model_validate(values)
    assert words in str(error.value)


@pytest.mark.parametrize("network_name", NETWORKS)
def test_other_keys_are_accepted(network_name):
    settings = Settings.model_validate({"model": {"network": network_name, "num_frames": 8}})
    assert settings.training.recompute == "block"
