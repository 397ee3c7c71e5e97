"""Per-frame residual network (He et al., CVPR 2016) with temporal shift. Its state dict is torchvision's, less fc.

B clip, T frame, N = B x T, C channel, H height, W width, D feature
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.pooled_relu import PooledReLU, PoolKind
from models.layers.prepared_conv import conv_of_prepared
from models.layers.recompute import recomputed
from models.layers.temporal_shift import ShiftedConv2d, ShiftKind

Recompute = Literal["none", "stage", "block"]

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut. The first looks at the shifted frames, the shortcut never does.

    In-place ReLU and addition are safe: batch norm keeps its input, the addition keeps nothing.
    """

    def __init__(self, inside: int, outside: int, stride: int, num_frames: int, shift: ShiftKind) -> None:
        super().__init__()
        self.conv1 = ShiftedConv2d(inside, outside, stride, num_frames, shift)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_NCHW)))))
        out_NCHW += x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return self.relu(out_NCHW)


class FrameBackbone(nn.Module):
    """Clips to one feature vector a frame.

    ``recompute`` says what backward computes again: ``stage`` keeps the frames and five stage outputs, ``block`` also
    every block's output. ``block`` usually peaks lower: less is alive at once while one unit is recomputed.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        depth: str,
        base_channels: int,
        num_frames: int,
        shift: ShiftKind = "none",
        recompute: Recompute = "none",
        max_pool: PoolKind = "plain",
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.features = 8 * base_channels
        self.register_buffer("mean_C11", torch.tensor(IMAGENET_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(IMAGENET_STD).view(-1, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, base_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.pool = PooledReLU(max_pool)
        inside = base_channels
        for stage, count in enumerate(BLOCKS[depth]):
            outside = base_channels << stage
            widths = [inside] + [outside] * (count - 1)
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            blocks = [BasicBlock(w, outside, s, num_frames, shift) for w, s in zip(widths, strides, strict=True)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = outside
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """``uint8`` (0..255) or float (0..1) RGB clips to features ``(B, T, D)``."""
        x_NCHW = clips_BTCHW.flatten(0, 1)
        for run, norms_in in self._units():
            x_NCHW = run(x_NCHW) if self.recompute == "none" else recomputed(run, x_NCHW, norms_in)
        return x_NCHW.mean((2, 3)).unflatten(0, clips_BTCHW.shape[:2])

    def _units(self) -> list[tuple[Callable[[Tensor], Tensor], list[nn.Module]]]:
        stages = [self.get_submodule(f"layer{number}") for number in range(1, 5)]
        parts = [block for stage in stages for block in stage.children()] if self.recompute == "block" else stages
        return [(self._stem, [self.bn1]), *((part, [part]) for part in parts)]

    def _stem(self, frames_NCHW: Tensor) -> Tensor:
        return self.pool(self.bn1(self._first_conv(frames_NCHW)))

    def _first_conv(self, frames_NCHW: Tensor) -> Tensor:
        if self.recompute == "none" or frames_NCHW.is_floating_point():
            return self.conv1(self._normalised(frames_NCHW))
        # Backward normalises again: kept are the uint8 frames, a quarter of fp32's bytes.
        return conv_of_prepared(frames_NCHW, self.conv1.weight, 2, 3, prepare=self._normalised, adjoint=None)

    def _normalised(self, frames_NCHW: Tensor) -> Tensor:
        if frames_NCHW.is_floating_point():
            return (frames_NCHW - self.mean_C11) / self.std_C11
        return frames_NCHW.to(self.mean_C11.dtype).div_(255).sub_(self.mean_C11).div_(self.std_C11)
