"""The backbone against torchvision's ResNet: names, shapes, features."""

import copy

import pytest
import torch
import torchvision
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from models.networks.backbone import IMAGENET_MEAN, IMAGENET_STD, FrameBackbone

TORCHVISION = {"resnet18": torchvision.models.resnet18, "resnet34": torchvision.models.resnet34}


def torchvision_state(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.mark.parametrize("depth", ["resnet18", "resnet34"])
@pytest.mark.parametrize("shift", ["none", "memory_efficient"])
def test_state_dict_equals_torchvisions(depth, shift):
    with torch.device("meta"):
        expected = torchvision_state(TORCHVISION[depth]())
    found = FrameBackbone(depth, 64, 4, shift).state_dict()
    assert [(name, value.shape) for name, value in found.items()] == [(n, v.shape) for n, v in expected.items()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("recompute", ["none", "block"])
def test_features_and_gradients_equal_torchvisions(reference, training, recompute):
    torch.manual_seed(0)
    backbone = FrameBackbone("resnet18", 64, 2, "none", recompute).double()
    backbone.normalised.mean_C11.copy_(
        torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(-1, 1, 1)
    )  # undo fp32's rounding
    backbone.normalised.std_C11.copy_(torch.tensor(IMAGENET_STD, dtype=torch.float64).view(-1, 1, 1))
    expected_net = copy.deepcopy(reference).double()
    backbone.load_state_dict(torchvision_state(expected_net))
    expected_net.fc = torch.nn.Identity()
    clips_BTCHW = torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    for net in (backbone, expected_net):
        net.train(training)
    frames_NCHW = normalize(clips_BTCHW.flatten(0, 1).double() / 255, IMAGENET_MEAN, IMAGENET_STD)
    expected = expected_net(frames_NCHW)
    found = backbone(clips_BTCHW).flatten(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for features in (found, expected):
        (features * torch.linspace(-1, 1, 512, dtype=torch.float64)).sum().backward()
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_net.get_parameter(name).grad, rtol=1e-7, atol=1e-9)


def test_float_clips_are_fractions_of_white():
    clips_BTCHW = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    for recompute in ("none", "block"):
        backbone = small(recompute=recompute).eval()
        torch.testing.assert_close(backbone(clips_BTCHW / 255), backbone(clips_BTCHW), rtol=1e-4, atol=1e-5)


def small(shift="memory_efficient", recompute="none"):
    torch.manual_seed(0)
    return FrameBackbone("resnet18", 8, 4, shift, recompute)


def step(backbone, autocast=False):
    torch.manual_seed(1)
    clips_BTCHW = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = backbone(clips_BTCHW)
    out.float().square().sum().backward()
    return [out, *(p.grad for p in backbone.parameters()), *backbone.buffers()]


@pytest.mark.parametrize("recompute", ["stage", "block"])
@pytest.mark.parametrize("shift", ["none", "plain", "memory_efficient"])
@pytest.mark.parametrize("autocast", [False, True])
def test_recomputation_changes_nothing(recompute, shift, autocast):
    expected = step(small(shift), autocast)
    found = step(small(shift, recompute), autocast)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shift_arms_agree_bit_for_bit(dtype):
    plain, efficient = step(small("plain").to(dtype)), step(small("memory_efficient").to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(plain, efficient, strict=True))


def kept_bytes(backbone):
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    clips_BTCHW = torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone(clips_BTCHW)
    known = {p.untyped_storage().data_ptr() for p in [*backbone.parameters(), *backbone.buffers()]}
    return sum(size for address, (_, size) in sizes.items() if address not in known)


def test_memory_efficient_shift_keeps_one_input_less_per_block():
    """The inputs of the 8 blocks at 32 x 32 frames are outputs of ReLUs, which keep them anyway."""
    inputs = [8 * 64, 8 * 64, 8 * 64, 16 * 16, 16 * 16, 32 * 4, 32 * 4, 64]
    assert kept_bytes(small("plain")) - kept_bytes(small("memory_efficient")) == 8 * 4 * sum(inputs)
    assert kept_bytes(small("none")) == kept_bytes(small("memory_efficient"))


def test_recomputation_keeps_the_frames_as_bytes_and_the_units_inputs():
    """Stem to layer 4 at 32 x 32 keep the uint8 frames, then the fp32 input of each unit after the stem."""
    frames = 8 * 3 * 32 * 32
    stage_inputs = [8 * 64, 8 * 64, 16 * 16, 32 * 4]
    block_inputs = [8 * 64, 8 * 64, 8 * 64, 16 * 16, 16 * 16, 32 * 4, 32 * 4, 64]
    assert kept_bytes(small(recompute="stage")) == frames + 8 * 4 * sum(stage_inputs)
    assert kept_bytes(small(recompute="block")) == frames + 8 * 4 * sum(block_inputs)


def test_order_of_frames_reaches_the_features_only_with_the_shift():
    clips_BTCHW = torch.rand(1, 4, 3, 32, 32)
    backwards = clips_BTCHW.flip(1)
    for shift, sees in (("none", False), ("plain", True)):
        backbone = small(shift).eval()
        with torch.no_grad():
            same = torch.allclose(backbone(clips_BTCHW).mean(1), backbone(backwards).mean(1), rtol=1e-4, atol=1e-5)
        assert same is not sees


def test_pooling_is_the_mean_over_the_frame():
    backbone = small().eval()
    clips_BTCHW = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        x = backbone._stem(clips_BTCHW[0])
        for number in range(1, 5):
            x = backbone.get_submodule(f"layer{number}")(x)
        torch.testing.assert_close(backbone(clips_BTCHW)[0], F.adaptive_avg_pool2d(x, 1).flatten(1))
