"""Weights load from a file, and every wrong file is refused in one line."""

import random
import re

import pytest
import torch
import torchvision

from models.config import ModelConfig
from models.networks.backbone import FrameBackbone
from models.networks.efficient import build_recogniser
from models.networks.published import read_weights
from models.networks.tensor_file import read_tensor_file
from models.networks.weights import CHECKPOINT_FORMAT, Target, class_order, load_backbone, state_difference
from slr_bench.errors import ConfigError


@pytest.fixture
def small():
    torch.manual_seed(0)
    return FrameBackbone("resnet18", 8, 4)


def load(backbone, path):
    load_backbone(Target(backbone, "conv1.weight", None, "use other weights"), read_weights(path).state, path)


def fails_with(backbone, path, *words):
    with pytest.raises(ConfigError) as error:
        load(backbone, path)
    assert all(word in str(error.value) for word in (str(path), *words)), str(error.value)
    assert "\n" not in str(error.value)


def test_torchvision_weights_load(tmp_path):
    path = tmp_path / "resnet18.pt"
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), path)
    backbone = FrameBackbone("resnet18", 64, 2)
    load(backbone, path)
    assert torch.equal(backbone.get_submodule("layer3")[1].conv2.weight, reference.layer3[1].conv2.weight)


def test_files_without_weights_are_refused(small, tmp_path):
    path = tmp_path / "weights.pt"
    fails_with(small, path, "No such file")
    fails_with(small, tmp_path, "is a directory")
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        fails_with(small, path, "truncated or not a file of tensors")
    torch.save([1, 2], path)
    fails_with(small, path, "list")


def test_truncated_and_random_files_are_refused(small, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(300), "b": {"c": [1.0, "x"]}}, path)
    whole = path.read_bytes()
    dice = random.Random(0)
    for length in range(0, len(whole) - 1, 97):
        for content in (whole[:length], dice.randbytes(length), b"\x80\x02" + dice.randbytes(length)):
            path.write_bytes(content)
            with pytest.raises(ConfigError):
                read_tensor_file(path, "test")


def test_single_wrong_bit_of_any_tensor_is_refused(small, tmp_path):
    """Torch reads such a file without an error, so the archive's checksums are compared here."""
    path = tmp_path / "weights.pt"
    state = {name: torch.full((100,), 7.0 + number) for number, name in enumerate("abc")}
    torch.save(state, path)
    whole = path.read_bytes()
    for number, value in enumerate(state.values()):
        data = value.numpy().tobytes()
        for offset in (0, 201, len(data) - 1):
            damaged = bytearray(whole)
            damaged[whole.index(data) + offset] ^= 1 << offset % 8
            path.write_bytes(damaged)
            assert torch.load(path, weights_only=True).keys() == state.keys()
            fails_with(small, path, "is damaged", f"weights/data/{number};", "use another copy")
    path.write_bytes(whole)
    assert all(torch.equal(value, state[name]) for name, value in read_tensor_file(path, "test").items())


def test_no_wrong_bit_changes_a_tensor(tmp_path):
    """Any wrong bit is refused, or has no effect (padding, dates of the archive)."""
    path = tmp_path / "weights.pt"
    state = {"a": torch.arange(50.0), "b": torch.arange(30)}
    torch.save(state, path)
    whole = path.read_bytes()
    dice = random.Random(0)
    bits = [(place, dice.randrange(8)) for place in range(0, len(whole), 5)]
    attributes = [match.start() + 38 for match in re.finditer(rb"PK\x01\x02", whole)]  # in the directory
    for place, bit in bits + [(place, 4) for place in attributes]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            found = read_tensor_file(path, "test")
        except ConfigError:
            continue
        assert found.keys() == state.keys(), place
        assert all(torch.equal(value, state[name]) for name, value in found.items()), place


def test_file_of_old_torch_without_checksums_is_read(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensor_file(path, "test")["a"], torch.ones(3))


def test_weights_of_another_network_are_refused(small, tmp_path):
    path = tmp_path / "weights.pt"
    state = small.state_dict()
    torch.save(FrameBackbone("resnet18", 16, 4).state_dict(), path)
    fails_with(small, path, "conv1.weight is (16, 3, 7, 7), expected (8, 3, 7, 7)")
    torch.save({name.replace("layer1.0.conv2", "layer1.0.convb"): value for name, value in state.items()}, path)
    fails_with(small, path, "layer1.0.conv2.weight is missing; layer1.0.convb.weight is unknown; did you mean")
    torch.save(state | {"head.weight": torch.zeros(1)}, path)
    fails_with(small, path, "head.weight is unknown")
    torch.save(state | {"conv1.weight": "text"}, path)
    fails_with(small, path, "conv1.weight is str")


def saved_network(path, glosses):
    """Save a checkpoint of a tiny network with one class per gloss; return the rows of its classifier."""
    torch.manual_seed(len(glosses))
    model = build_recogniser(tiny(len(glosses)))
    state = {"format": CHECKPOINT_FORMAT, "glosses": glosses, "parts": {"model": model.state_dict()}}
    torch.save(state, path)
    return dict(zip(glosses, model.state_dict()["classifier.weight"], strict=True))


def tiny(classes, **more):
    return ModelConfig(num_classes=classes, base_channels=8, num_frames=4, pyramid_levels=(1, 2), **more)


def test_a_classifier_is_put_into_the_order_of_the_words_of_the_data(tmp_path):
    rows = saved_network(tmp_path / "c.pt", ["book", "walk", "drink"])
    wanted = ("drink", "book", "walk")
    model = build_recogniser(tiny(3, weights=tmp_path / "c.pt"), glosses=wanted)
    assert torch.equal(model.state_dict()["classifier.weight"], torch.stack([rows[gloss] for gloss in wanted]))


def test_a_classifier_of_more_words_gives_the_rows_of_those_in_the_data(tmp_path):
    rows = saved_network(tmp_path / "c.pt", ["book", "walk", "drink"])
    model = build_recogniser(tiny(2, weights=tmp_path / "c.pt"), glosses=("drink", "book"))
    assert torch.equal(model.state_dict()["classifier.weight"], torch.stack([rows["drink"], rows["book"]]))


@pytest.mark.parametrize("wanted", [("book", "walk", "eat"), ("book", "walk", "drink", "eat")])
def test_a_classifier_of_other_words_starts_from_scratch_with_a_warning(tmp_path, wanted):
    saved_network(tmp_path / "c.pt", ["book", "walk", "drink"])
    torch.manual_seed(5)
    fresh = build_recogniser(tiny(len(wanted))).state_dict()["classifier.weight"]
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match=r"was trained on other words \(not on 'eat'\): everything except"):
        model = build_recogniser(tiny(len(wanted), weights=tmp_path / "c.pt"), glosses=wanted)
    assert torch.equal(model.state_dict()["classifier.weight"], fresh)


@pytest.mark.parametrize(
    ("trained", "wanted", "order"),
    [
        (("a", "b"), ("a", "b"), [0, 1]),
        (("a", "b"), ("b", "a"), [1, 0]),
        (("a", "b", "c"), ("c",), [2]),
        (("a", "b"), ("a", "x"), None),
        (("a", "a"), ("a",), None),
        (("a", "", "b", ""), ("b", "", "a", ""), [2, 1, 0, 3]),
        (("a", "b"), ("a", ""), None),
    ],
)
def test_classes_are_matched_by_their_words(trained, wanted, order):
    assert class_order(trained, wanted) == order


def test_difference_of_two_networks_is_short():
    """A ResNet-34 in place of a ResNet-18 lacks nothing and has many more tensors."""
    small, large = (FrameBackbone(depth, 8, 4).state_dict() for depth in ("resnet18", "resnet34"))
    found = state_difference(large, small)
    assert found.startswith(f"{len(large) - len(small)} tensors are missing (layer1.2.conv1.weight, ")
    assert state_difference(small, large).endswith("layer1.2.bn1.bias, …)")
    assert len(found) < 200
    assert state_difference(small, FrameBackbone("resnet18", 16, 4).state_dict()).endswith("have another shape")
    assert state_difference(small, small) == ""
