"""Residual network per frame (He et al., CVPR 2016) with temporal shift; its state dict is torchvision's without fc.

B clip, T frame, N = B x T, C channel, H height, W width, D feature
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from models.layers.pooled_relu import PooledReLU, PoolKind
from models.layers.recompute import conv_of_prepared, recomputed
from models.layers.recompute_plan import RecomputePlan, Unit, chain_costs, least_bytes, within_budget
from models.layers.split_stem import StemKind, split_stem
from models.layers.temporal import ShiftedConv2d, ShiftKind
from slr_bench.units import MIB

Recompute = str
"""``none``, ``stage``, ``block``, ``lowest`` or ``budget:<MiB>``."""
NormKind = Literal["batch", "group"]

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SelectedFrames(NamedTuple):
    """Frames and pixels that a network selected from the loader's clips, ready for its forward pass."""

    clips_BTCHW: Tensor
    positions_BT: Tensor | None = None
    """Index of each frame in the loader's clip; None if every frame was selected."""


def select_frames(model: nn.Module, clips_BTCHW: Tensor) -> Tensor | SelectedFrames:
    """Return the input of ``model`` that replaces ``clips_BTCHW``, so that the caller can free the clips.

    A model without a ``select`` method takes the clips themselves. At the reference shape with ``focus_size: 112`` the
    selection takes 4.6 MiB per micro-batch instead of 18.4 MiB, until the end of backward.
    """
    select = getattr(model, "select", None)
    return clips_BTCHW if select is None else select(clips_BTCHW)


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """Return batch norm, or group norm that normalises each frame alone (Wu & He, ECCV 2018).

    Group norm has groups of 8 channels, at most 32 groups, torchvision's names of weight and bias, and no running
    statistics.
    """
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(min(32, channels // 8), channels)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut. The first one reads the shifted frames, the shortcut never does.

    ReLU and addition can work in place, because both norms keep their input and the addition keeps nothing.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        stride: int,
        num_frames: int,
        shift: ShiftKind,
        norm: NormKind = "batch",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = ShiftedConv2d(inside, outside, stride, num_frames, shift, causal)
        self.bn1 = make_norm(norm, outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, make_norm(norm, outside))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x_NCHW)))))
        out_NCHW += x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return self.relu(out_NCHW)


class ImageNetColours(nn.Module):
    """Normalisation of frames, ``uint8`` (0..255) or float (0..1), by ImageNet's mean colour and deviation."""

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_C11", torch.tensor(IMAGENET_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(IMAGENET_STD).view(-1, 1, 1), persistent=False)

    def forward(self, frames_NCHW: Tensor) -> Tensor:
        """Return normalised float frames; ``uint8`` frames get the type of the buffers."""
        if frames_NCHW.is_floating_point():
            return (frames_NCHW - self.mean_C11) / self.std_C11
        return frames_NCHW.to(self.mean_C11.dtype).div_(255).sub_(self.mean_C11).div_(self.std_C11)


class FrameBackbone(nn.Module):
    """Network that turns clips into one feature vector per frame.

    ``recompute`` selects what backward computes again. ``stage`` keeps the frames and five stage outputs; ``block``
    also keeps the output of every block. ``block`` usually has the lower peak, because less is alive while one unit is
    recomputed. ``budget:<MiB>`` limits all that forward and backward of the backbone allocate, without the gradients of
    parameters. Of the choices within that limit it takes the one that recomputes the least work
    (:mod:`models.layers.recompute_plan`). ``lowest`` is the smallest budget that any choice can keep.
    """

    def __init__(
        self,
        depth: str,
        base_channels: int,
        num_frames: int,
        shift: ShiftKind = "none",
        recompute: Recompute = "none",
        norm: NormKind = "batch",
        max_pool: PoolKind = "plain",
        stem: StemKind = "whole",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.stem = stem
        self.plans: dict[tuple[object, ...], RecomputePlan] = {}
        """The plan that ``budget`` chose for each shape and type of micro-batch."""
        self.features = 8 * base_channels
        self.normalised = ImageNetColours()
        self.conv1 = nn.Conv2d(3, base_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, base_channels)
        self.pool = PooledReLU(max_pool)
        inside = base_channels
        for stage, count in enumerate(BLOCKS[depth]):
            outside = base_channels << stage
            widths = [inside] + [outside] * (count - 1)
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            blocks = [
                BasicBlock(w, outside, s, num_frames, shift, norm, causal) for w, s in zip(widths, strides, strict=True)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = outside
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Return the features ``(B, T, D)`` of RGB clips, ``uint8`` (0..255) or float (0..1)."""
        for conv in self.shifted_convolutions():
            conv.num_frames = clips_BTCHW.shape[1]
        x_NCHW = clips_BTCHW.flatten(0, 1)
        units = self._units()
        recomputed_units = self._recomputed_units(units, x_NCHW)
        for number, (run, modules) in enumerate(units):
            # No unit draws random numbers.
            x_NCHW = recomputed(run, x_NCHW, modules, draws=False) if number in recomputed_units else run(x_NCHW)
        return x_NCHW.mean((2, 3)).unflatten(0, clips_BTCHW.shape[:2])

    def shifted_convolutions(self) -> list[ShiftedConv2d]:
        """Return the convolutions that read other frames, in order."""
        return [module for module in self.modules() if isinstance(module, ShiftedConv2d)]

    def _units(self) -> list[Unit]:
        stages = [self.get_submodule(f"layer{number}") for number in range(1, 5)]
        parts = stages if self.recompute in ("none", "stage") else [block for s in stages for block in s.children()]
        return [(self._stem, [self.normalised, self.conv1, self.bn1]), *((part, [part]) for part in parts)]

    def _recomputed_units(self, units: list[Unit], x_NCHW: Tensor) -> Collection[int]:
        """Return the numbers of the units that backward recomputes.

        Raises:
            UnsupportedSettingError: the budget is smaller than the smallest possible one.
        """
        if self.recompute == "none" or not torch.is_grad_enabled():
            return ()
        if self.recompute in ("stage", "block"):
            return range(1 if self.stem == "split" else 0, len(units))  # a split stem keeps almost nothing
        device = x_NCHW.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        key = (x_NCHW.shape, x_NCHW.dtype, device, autocast, self.training)
        if key not in self.plans:
            costs = chain_costs(units, x_NCHW)
            budget_mib = self.recompute.removeprefix("budget:")
            limit = least_bytes(costs) if budget_mib == "lowest" else int(budget_mib) * MIB
            self.plans[key] = within_budget(costs, limit)
        return [number for number, again in enumerate(self.plans[key].recompute) if again]

    def _stem(self, frames_NCHW: Tensor) -> Tensor:
        if self.stem == "split":
            return split_stem(frames_NCHW, self.conv1, self.bn1, self.pool, self.normalised)
        return self.pool(self.bn1(self._first_conv(frames_NCHW)))

    def _first_conv(self, frames_NCHW: Tensor) -> Tensor:
        if self.recompute == "none" or frames_NCHW.is_floating_point():
            return self.conv1(self.normalised(frames_NCHW))
        # Backward normalises again, so only the uint8 frames are kept: a quarter of the bytes of fp32.
        return conv_of_prepared(frames_NCHW, self.conv1.weight, 2, 3, prepare=self.normalised, adjoint=None)


class FrozenBackbone(FrameBackbone):
    """A :class:`FrameBackbone` that is not trained: no gradients, no batch statistics, nothing kept for backward.

    The features of a clip never change, so a caller that has the features (B, T, D) can pass them instead of the clip.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.recompute = "none"
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Return the features ``(B, T, D)`` of clips; features pass through unchanged."""
        if clips_BTCHW.ndim == 3:
            return clips_BTCHW
        with torch.no_grad():
            return super().forward(clips_BTCHW)

    def version(self) -> str:
        """Return the SHA-256 of the weights; equal versions give equal features. Takes 0.1 s for resnet18."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
