import pytest
import torch

from models.config import ModelConfig
from models.networks.backbone import FrameBackbone, FrozenBackbone

ARGUMENTS = ("resnet18", 8, 4, "plain", "block")


def make_pair():
    torch.manual_seed(0)
    free = FrameBackbone(*ARGUMENTS)
    frozen = FrozenBackbone(*ARGUMENTS)
    frozen.load_state_dict(free.state_dict())
    return free, frozen


def test_frozen_backbone_equals_the_plain_one_in_evaluation():
    free, frozen = make_pair()
    clips = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    features = frozen.train()(clips)
    assert not features.requires_grad
    assert torch.equal(features, free.eval()(clips))
    assert torch.equal(frozen(features), features)


def test_frozen_backbone_does_not_change_in_training():
    free, frozen = make_pair()
    whole = torch.nn.Sequential(frozen, torch.nn.Linear(64, 2)).train()
    whole(torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)).sum().backward()
    assert whole.training
    assert not any(module.training for module in frozen.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.parameters())
    assert whole[1].weight.grad is not None
    for name, value in free.state_dict().items():
        assert torch.equal(frozen.state_dict()[name], value)


def test_version_depends_on_every_weight():
    _, frozen = make_pair()
    version = frozen.version()
    for name, value in frozen.state_dict().items():
        old = value.clone()
        value.flatten()[-1] += 1
        assert frozen.version() != version, name
        value.copy_(old)
    assert frozen.version() == version
    assert FrozenBackbone(*ARGUMENTS).version() != version


@pytest.mark.parametrize(("key", "value"), [("frame_budget", 8), ("region_focus", "motion")])
def test_options_before_stored_features_are_refused(key, value):
    with pytest.raises(
        ValueError, match=rf"freeze_backbone: true cannot go with {key}: {value}: .*; change one of them"
    ):
        ModelConfig.model_validate({"freeze_backbone": True, key: value})
    ModelConfig.model_validate({"freeze_backbone": True, "region_focus": "manifest"})
    with pytest.raises(ValueError, match="cannot go with focus_size: 64"):
        ModelConfig.model_validate({"freeze_backbone": True, "region_focus": "manifest", "focus_size": 64})
    with pytest.raises(ValueError, match="freeze_backbone=True has no effect with network: i3d"):
        ModelConfig.model_validate({"freeze_backbone": True, "network": "i3d"})
