"""Published checkpoints as they come: wrappers, prefixes, temporal shift's own names, blue-green-red colours."""

import argparse
import warnings

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.config import ModelConfig
from models.networks.efficient import build_recogniser
from models.networks.i3d import InceptionI3d
from models.networks.published import read_weights, weights_in
from models.networks.trained import load_recogniser
from models.networks.video import NETWORKS, VideoNetwork
from slr_bench.errors import ConfigError

# B clip, T frame, C channel, H height, W width


def config(**changes):
    return ModelConfig.model_validate({"num_classes": 5, "num_frames": 8} | changes)


class TemporalShift(nn.Module):
    """The wrapper of mit-han-lab/temporal-shift-module, which gives its convolution the name ``net``."""

    def __init__(self, net):
        super().__init__()
        self.net = net


class TSN(nn.Module):
    """The network of that repository: a torchvision ResNet as ``base_model`` and the classifier ``new_fc``."""

    def __init__(self, name="resnet18"):
        super().__init__()
        self.base_model = torchvision.models.get_model(name)
        for stage in range(1, 5):
            for block in self.base_model.get_submodule(f"layer{stage}"):
                block.conv1 = TemporalShift(block.conv1)
        self.base_model.fc = nn.Dropout(0.8)
        self.new_fc = nn.Linear(512, 400)


def test_a_checkpoint_of_temporal_shift_loads_into_the_backbone_and_its_classifier_is_named(tmp_path):
    """As its training loop saves it: in ``DataParallel``, beside the optimizer and the best accuracy."""
    source = nn.DataParallel(TSN())
    names = set(source.state_dict())
    assert {"module.base_model.layer1.0.conv1.net.weight", "module.new_fc.weight"} <= names
    path = tmp_path / "ckpt.pth.tar"
    torch.save({"epoch": 50, "arch": "resnet18", "state_dict": source.state_dict(), "best_prec1": np.float64(71)}, path)
    with pytest.warns(UserWarning, match="its classifier of 400 classes is not loaded"):
        model = build_recogniser(config(weights=path))
    expected = source.module.base_model.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, expected[name.replace("conv1.", "conv1.net.") if "layer" in name else name]), name


def test_a_resnet_50_is_refused_with_its_name(tmp_path):
    torch.save({"state_dict": nn.DataParallel(TSN("resnet50")).state_dict()}, tmp_path / "tsm.pth")
    with pytest.raises(ConfigError, match=r"three convolutions per block \(ResNet-50 .* use weights of a resnet18"):
        build_recogniser(config(weights=tmp_path / "tsm.pth"))


PREFIXES = st.lists(st.sampled_from(["module.", "_orig_mod.", "_fsdp_wrapped_module."]), max_size=3).map("".join)
WRAPPERS = st.lists(st.sampled_from(["state_dict", "model_state_dict", "model"]), max_size=3)


@settings(max_examples=40, deadline=None)
@given(prefix=PREFIXES, wrappers=WRAPPERS, inside=st.booleans())
def test_wrappers_and_prefixes_change_nothing(tmp_path_factory, prefix, wrappers, inside):
    """In any order and nested, before the names or inside them, as ``torch.compile`` of a part gives them."""
    plain = {name: torch.tensor(float(number)) for number, name in enumerate(("conv1.weight", "layer1.0.bn1.bias"))}
    content = {prefix + (name.replace("0.", "0._orig_mod.") if inside else name): v for name, v in plain.items()}
    for key in wrappers:
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    weights = weights_in(content, tmp_path_factory.getbasetemp() / "f.pt")
    assert weights.state == plain
    assert weights.is_bare is not bool(prefix or wrappers or inside)


def test_names_of_torchs_own_wrappers_are_removed(tmp_path):
    """The names come from torch itself: a compiled network, an average of weights, and both around each other."""
    net = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4))
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(net))
    assert "n_averaged" in averaged.state_dict()
    for wrapped in (torch.compile(net), averaged, nn.DataParallel(torch.compile(net))):
        torch.save({"model": wrapped.state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pt")
        found = read_weights(tmp_path / "w.pt").state
        assert list(found) == list(net.state_dict())
        assert all(torch.equal(value, found[name]) for name, value in net.state_dict().items())


def test_a_network_of_this_project_is_not_shortened(tmp_path):
    """A state dict of the 3-D network as this project names it, without a checkpoint around it."""
    model = build_recogniser(config(network="s3d"))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    loaded = build_recogniser(config(network="s3d", weights=tmp_path / "w.pt"))
    assert torch.equal(loaded.net.classifier[1].weight, model.net.classifier[1].weight)


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "arch": "resnet18"}, {"state_dict": {}}])
def test_a_file_without_tensors_lists_its_entries(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"holds no tensors by name \(its entries: (none|epoch, arch)\); use a file"):
        build_recogniser(config(weights=tmp_path / "w.pt"))


def test_a_pickled_network_is_refused_with_its_class_and_the_cure(tmp_path):
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"it holds torch\.nn\.modules\.linear\.Linear, and reading that could run"):
        build_recogniser(config(weights=tmp_path / "w.pt"))


@pytest.fixture(scope="module")
def published_i3d():
    """An I3D of 100 classes with the names of the published files, and its logits on frames in blue, green, red."""
    torch.manual_seed(0)
    net = InceptionI3d(100, 0.5).eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.1)  # otherwise the signal fades before it reaches the logits
    clips_BTCHW = torch.randint(0, 256, (1, 8, 3, 32, 32), dtype=torch.uint8)
    # OpenCV reads blue, green, red. The authors' code scales to [-1, 1] and keeps that order.
    opencv_BCTHW = clips_BTCHW[:, :, [2, 1, 0]].transpose(1, 2)
    with torch.no_grad():
        return net, clips_BTCHW, net((opencv_BCTHW / 255.0) * 2 - 1)


def assert_equal_logits(found_BK, expected_BK):
    """The bound is rounding in fp32, relative to the largest logit."""
    assert (found_BK - expected_BK).abs().max() < 1e-5 * expected_BK.abs().max()


@pytest.mark.parametrize("order", ["auto", "bgr"])
def test_wlasl_weights_give_their_logits_on_rgb_clips(published_i3d, tmp_path, order):
    """Frames in the wrong order differ by more than a tenth of the spread of the logits."""
    net, clips_BTCHW, expected_BK = published_i3d
    path = tmp_path / "FINAL_nslt_100_iters=896_top1=65.89_top5=84.11_top10=89.92.pt"
    torch.save(net.state_dict(), path)
    settings = config(network="i3d", num_classes=100, weights=path, weights_channel_order=order)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = build_recogniser(settings).eval()
    assert [("blue, green, red" in str(warning.message)) for warning in caught] == [True] * (order == "auto")
    with torch.no_grad():
        assert_equal_logits(model(clips_BTCHW), expected_BK)
        plain = build_recogniser(settings.model_copy(update={"weights_channel_order": "rgb"})).eval()(clips_BTCHW)
    assert (plain - expected_BK).abs().max() > expected_BK.std() / 10


def test_only_bare_files_with_the_classes_of_wlasl_are_taken_for_theirs(tmp_path):
    """The Kinetics files have 400 classes, and other programs wrap theirs. They were trained on red, green, blue."""
    with torch.device("meta"):
        state = InceptionI3d(100, 0.5).state_dict()
    kinetics = state | {"logits.conv3d.weight": torch.empty(400, 1024, 1, 1, 1, device="meta")}
    found = [{"state_dict": state}, {f"module.{name}": value for name, value in state.items()}, kinetics, state]
    assert [weights_in(content, tmp_path).is_wlasl_i3d for content in found] == [False, False, False, True]


def test_checkpoints_of_the_trainer_are_never_reversed(tmp_path):
    """Their networks take RGB, whatever their first weights were."""
    model = build_recogniser(config(base_channels=8))
    content = {"format": "slr-recogniser-checkpoint", "glosses": list("abcde"), "parts": {"model": model.state_dict()}}
    torch.save(content, tmp_path / "c.pt")
    loaded = build_recogniser(config(base_channels=8, weights=tmp_path / "c.pt", weights_channel_order="bgr"))
    assert torch.equal(loaded.backbone.conv1.weight, model.backbone.conv1.weight)


@pytest.mark.parametrize(("network", "first"), [("efficient", "backbone.conv1"), ("s3d", "net.features.0.0.0")])
def test_bgr_weights_of_any_network_see_each_colour_with_its_own_weight(network, first, tmp_path):
    model = build_recogniser(config(network=network))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    loaded = build_recogniser(config(network=network, weights=tmp_path / "w.pt", weights_channel_order="bgr"))
    found, expected = loaded.get_submodule(first).weight, model.get_submodule(first).weight
    assert torch.equal(found[:, [2, 1, 0]], expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_weight_of_each_network_has_one_channel_per_colour(name):
    with torch.device("meta"):
        target = VideoNetwork(config(network=name)).weights_target([])
    first = next(target.module.parameters())
    assert name == "i3d" or target.module.get_parameter(target.first) is first  # i3d names its classifier first
    assert target.module.get_parameter(target.first).shape[1] == 3


def test_a_published_file_can_be_used_without_training(published_i3d, tmp_path):
    net, clips_BTCHW, expected_BK = published_i3d
    path = tmp_path / "nslt_100.pt"
    torch.save(net.state_dict(), path)
    named = {"model.network": "i3d", "model.num_classes": 100, "model.num_frames": 8}
    with pytest.warns(UserWarning, match="blue, green, red"):
        model, found, glosses = load_recogniser(path, None, named)
    with torch.no_grad():
        assert_equal_logits(model.eval()(clips_BTCHW), expected_BK)
    assert (found.model.network, glosses) == ("i3d", None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"does not describe its network; pass --config, or --set model\.network=i3d"),
        ({"model.network": "i3d"}, r"has 5 classes, model\.num_classes is 100; use --set model\.num_classes=5"),
        ({"model.network": "s3d", "model.num_classes": 5}, r"does not fit: .* use weights of the network s3d"),
        ({"model.num_classes": 5}, r"does not fit: "),
    ],
)
def test_a_published_file_with_another_network_is_refused(tmp_path, overrides, words):
    with torch.device("meta"):
        state = InceptionI3d(5, 0.5).state_dict()
    torch.save({name: torch.zeros(value.shape) for name, value in state.items()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=words):
        load_recogniser(tmp_path / "w.pt", None, overrides)


def test_an_export_and_a_directory_are_refused_with_the_file_to_use(tmp_path):
    for name in ("m.onnx", "m.pt2"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ConfigError, match=r"is an export, .* use the checkpoint.pt"):
            load_recogniser(tmp_path / name, None, {})
    with pytest.raises(ConfigError, match=r"is a directory; name a file in it, as .*/checkpoint.pt"):
        load_recogniser(tmp_path, None, {})


def test_a_backbone_alone_recognises_nothing(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ConfigError, match=r"holds a backbone alone, .* --weights"):
        load_recogniser(tmp_path / "resnet18.pth", None, {})
    with pytest.raises(ConfigError, match=r"holds a backbone alone, .* --weights"):
        load_recogniser(tmp_path / "resnet18.pth", None, {"model.num_classes": 5})
