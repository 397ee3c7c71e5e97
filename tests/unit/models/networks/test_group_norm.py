"""``norm: group``: torchvision's names, and micro-batches that equal the whole batch."""

import pytest
import torch
import torchvision
from tiny import TinyBatch, tiny_config

from models.config import ModelConfig
from models.networks.backbone import FrameBackbone
from models.networks.efficient import build_recogniser
from models.networks.weights import Target, load_backbone
from models.training.stepper import Stepper
from slr_bench.errors import ConfigError


def moved(norm, sizes):
    """Return parameters and norm statistics after two SGD steps in fp64 with ``sizes`` clips per micro-batch."""
    torch.manual_seed(0)
    config = ModelConfig(num_classes=3, base_channels=8, num_frames=2, pyramid_levels=(1, 2), norm=norm, dropout=0.0)
    model = build_recogniser(config, "block").double()
    stepper = Stepper(model, tiny_config(optimizer="sgd", gradient_clip_norm=0.5), "cpu", total_steps=10)
    generator = torch.Generator().manual_seed(1)
    clips_BTCHW = torch.randint(0, 256, (sum(sizes), 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels_B = torch.arange(sum(sizes)) % 3
    for _ in range(2):
        parts = zip(clips_BTCHW.split(sizes), labels_B.split(sizes), strict=True)
        stepper.step([TinyBatch(clips, labels, ()) for clips, labels in parts], sum(sizes))
    return model.state_dict()


@pytest.mark.parametrize("sizes", [[1, 3], [2, 1, 2]])
def test_unequal_micro_batches_and_a_partial_last_one_equal_the_whole_batch(sizes):
    whole, parts = moved("group", [sum(sizes)]), moved("group", sizes)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-9, atol=1e-12)


def test_unequal_micro_batches_differ_with_batch_norm():
    whole, parts = moved("batch", [4]), moved("batch", [1, 3])
    assert not torch.allclose(parts["backbone.conv1.weight"], whole["backbone.conv1.weight"], rtol=1e-4)
    tracked = "backbone.bn1.num_batches_tracked"
    assert (int(whole[tracked]), int(parts[tracked])) == (2, 4)  # once a micro-batch


def test_names_equal_torchvisions_without_statistics():
    with torch.device("meta"):
        expected = torchvision.models.resnet18().state_dict()
    expected = {name: value.shape for name, value in expected.items() if not name.startswith("fc.")}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected = {name: shape for name, shape in expected.items() if not name.endswith(statistics)}
    found = FrameBackbone("resnet18", 64, 4, norm="group")
    assert {name: value.shape for name, value in found.state_dict().items()} == expected
    assert found.bn1.num_groups == 8
    assert found.layer4[0].bn1.num_groups == 32


def test_weights_of_a_batch_norm_network_are_refused(tmp_path):
    torch.save(FrameBackbone("resnet18", 8, 4).state_dict(), tmp_path / "weights.pt")
    path, backbone = tmp_path / "weights.pt", FrameBackbone("resnet18", 8, 4, norm="group")
    with pytest.raises(ConfigError, match=r"batch norm.*model.norm: group; use model.norm: batch"):
        load_backbone(Target(backbone, "conv1.weight", None, ""), torch.load(path), path)


def test_weights_of_a_group_norm_network_load(tmp_path):
    source, target = FrameBackbone("resnet18", 8, 4, norm="group"), FrameBackbone("resnet18", 8, 4, norm="group")
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    path = tmp_path / "weights.pt"
    load_backbone(Target(target, "conv1.weight", None, ""), torch.load(path), path)
    assert torch.equal(source.conv1.weight, target.conv1.weight)
