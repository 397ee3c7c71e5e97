"""Compares I3D with what is public: widths of GoogLeNet, names of the published files, padding of TensorFlow."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from models.networks.i3d import InceptionI3d, SamePool, same_padding, window_mean

# B clip, T frame, C channel, H height, W width, K sign class

# Names of the published files, as programs that load them list them, and the layers of GoogLeNet that are inflated.
PLAIN = {"Conv3d_1a_7x7": "conv1", "Conv3d_2b_1x1": "conv2", "Conv3d_2c_3x3": "conv3"}
BLOCKS = dict(zip(
    ["Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "Mixed_5b", "Mixed_5c"],
    ["inception3a", "inception3b", "inception4a", "inception4b", "inception4c", "inception4d", "inception4e",
     "inception5a", "inception5b"],
    strict=True,
))  # fmt: skip
BRANCHES = {
    "b0": "branch1", "b1a": "branch2.0", "b1b": "branch2.1", "b2a": "branch3.0", "b2b": "branch3.1", "b3b": "branch4.1",
}  # fmt: skip
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def published_shapes(classes):
    """Return shapes by name: GoogLeNet's convolutions with kernels inflated in time, each followed by batch norm."""
    with torch.device("meta"):
        flat = torchvision.models.googlenet(init_weights=False, aux_logits=False)
    units = PLAIN | {f"{ours}.{b}": f"{theirs}.{c}" for ours, theirs in BLOCKS.items() for b, c in BRANCHES.items()}
    shapes = {"logits.conv3d.weight": (classes, 1024, 1, 1, 1), "logits.conv3d.bias": (classes,)}
    for ours, theirs in units.items():
        outside, inside, kernel, _ = flat.get_parameter(f"{theirs}.conv.weight").shape
        shapes[f"{ours}.conv3d.weight"] = (outside, inside, kernel, kernel, kernel)
        shapes |= {f"{ours}.bn.{name}": (outside,) for name in STATISTICS}
        shapes[f"{ours}.bn.num_batches_tracked"] = ()
    return shapes


def test_names_and_shapes_equal_the_published_file():
    with torch.device("meta"):
        found = InceptionI3d(400, 0.5)
    assert {name: tuple(value.shape) for name, value in found.state_dict().items()} == published_shapes(400)
    assert sum(parameter.numel() for parameter in found.parameters()) == 12_697_264  # as published for 400 classes


def same(x, kernel, stride):
    """Return TensorFlow's zeros for ceil(n / stride) windows, spread evenly, an odd one at the end."""
    sides = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides)


def naive(state, x):
    """Compute the network from its description: kernels, strides, zero padding everywhere, one line per layer."""

    def unit(name, x, stride=(1, 1, 1)):
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, weight.shape[2:], stride), weight, None, stride)
        scale, shift, mean, var = (state[f"{name}.bn.{key}"].view(-1, 1, 1, 1) for key in STATISTICS)
        return F.relu((x - mean) / (var + 1e-3).sqrt() * scale + shift)

    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    x = pool(unit("Conv3d_1a_7x7", x, (2, 2, 2)), (1, 3, 3), (1, 2, 2))
    x = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x))
    pools = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
    for name in BLOCKS:
        x = pool(x, *pools[name]) if name in pools else x
        x = torch.cat([
            unit(f"{name}.b0", x), unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
            unit(f"{name}.b2b", unit(f"{name}.b2a", x)), unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1))),
        ], 1)  # fmt: skip
    times = x.shape[2]
    pairs = [x[:, :, t : t + 2].mean((2, 3, 4)) for t in range(max(1, times - 1))]
    weight, bias = state["logits.conv3d.weight"].flatten(1), state["logits.conv3d.bias"]
    return torch.stack([F.linear(pair, weight, bias) for pair in pairs]).mean(0)


@pytest.mark.parametrize("shape", [(17, 33, 32), (4, 32, 40)])
def test_network_equals_a_plain_reimplementation(shape):
    """Odd and even sizes pad differently."""
    torch.manual_seed(0)
    net = InceptionI3d(3, 0.5).double().eval()
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.05, 0.15)
    x_BCTHW = torch.rand(1, 3, *shape, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(net(x_BCTHW), naive(net.state_dict(), x_BCTHW), rtol=1e-9, atol=1e-11)


def test_padding_and_pooling_equal_tensorflow_for_every_size():
    for kernel, stride in ((7, 2), (3, 2), (2, 2), (3, 1), (1, 2), (1, 1)):
        for size in range(1, 20):
            x = torch.rand(1, 2, size, size, size)
            padded = same(x, (kernel,) * 3, (stride,) * 3)
            assert padded.shape[2] == size + sum(same_padding(size, kernel, stride))
            pool = SamePool((kernel,) * 3, (stride,) * 3)
            assert torch.equal(pool(x), F.max_pool3d(padded, kernel, stride))


def test_last_mean_equals_the_published_one_if_it_exists():
    for sizes in ((2, 7, 7), (5, 7, 8)):
        x_BCTHW = torch.rand(1, 2, *sizes)
        assert torch.equal(window_mean(x_BCTHW), F.avg_pool3d(x_BCTHW, (2, 7, 7), stride=1))
    small_BCTHW = torch.rand(1, 2, 1, 4, 5)
    torch.testing.assert_close(window_mean(small_BCTHW), small_BCTHW.mean((2, 3, 4), keepdim=True))
