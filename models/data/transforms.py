"""What happens to frames between the decoder and the network: one draw a clip, the same for all of its frames.

T frame, C channel, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

FRAMES_PER_SEGMENT = 2
"""Frames of each of the T segments that time jitter picks from: few, so that a cached clip serves every epoch."""

_SMALLEST_CROP = 0.75
_ASPECT_JITTER = 0.1
_COLOUR_JITTER = 0.2
_GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights; no tensor: importing this runs no operator
_PIXELS_TOGETHER = 2**17  # 1.5 MiB of fp32 colours


def working_size(frame_size: int) -> int:
    """Side of the square that crops are cut from, as 256 is to 224."""
    return round(frame_size * 8 / 7)


@dataclass(frozen=True)
class Augmentation:
    """The random choices for one clip. No mirroring: it exchanges the hands, and a mirrored sign can be another sign.

    Fractions are of the working square: crop height and width, then where the crop lies in the room that is left.
    """

    variant_T: NDArray[np.int64]
    """Which of a segment's frames to take."""
    crop_height: float
    crop_width: float
    down: float
    right: float
    brightness: float
    contrast: float
    saturation: float

    @classmethod
    def draw(cls, rng: np.random.Generator, num_frames: int) -> Augmentation:
        """Draw for one clip of ``num_frames``."""
        variant_T = rng.integers(FRAMES_PER_SEGMENT, size=num_frames)
        side = rng.uniform(_SMALLEST_CROP, 1.0)
        aspect = rng.uniform(1 - _ASPECT_JITTER, 1 + _ASPECT_JITTER)
        down, right = rng.uniform(size=2)
        colours = rng.uniform(1 - _COLOUR_JITTER, 1 + _COLOUR_JITTER, size=3)
        return cls(variant_T, min(1.0, side * aspect), min(1.0, side / aspect), down, right, *colours.tolist())

    def apply(self, frames_TCHW: torch.Tensor, frame_size: int) -> torch.Tensor:
        """Random resized crop and colour jitter; a frame's result does not depend on the others of its chunk."""
        full_height, full_width = frames_TCHW.shape[-2:]
        height, width = round(self.crop_height * full_height), round(self.crop_width * full_width)
        top, left = round(self.down * (full_height - height)), round(self.right * (full_width - width))
        frames_TCHW = functional.resized_crop(
            frames_TCHW, top, left, height, width, [frame_size, frame_size], antialias=True
        )
        return jitter_colours(frames_TCHW, self.brightness, self.contrast, self.saturation)


def jitter_colours(frames_TCHW: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """torchvision's ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation``, one after the other.

    All three are linear in a frame's pixels: a multiple of each, plus a multiple of its grey value and an offset.
    Computed on as many frames at once as fit a core's cache: measured 1.0 ms a clip of 16 x 96 x 96, against 2.3 for a
    3 x 3 product a frame. Rounded and clamped once, at the end.
    """
    gain = brightness * contrast
    out_TCHW = torch.empty(frames_TCHW.shape, dtype=torch.uint8)
    together = max(1, _PIXELS_TOGETHER // frames_TCHW[0, 0].numel())
    for out_NCHW, part_NCHW in zip(out_TCHW.split(together), frames_TCHW.split(together), strict=True):
        pixels_NCHW = part_NCHW.to(torch.float32, memory_format=torch.contiguous_format)
        red_NHW, green_NHW, blue_NHW = pixels_NCHW.unbind(1)
        grey_NHW = (red_NHW * _GREY[0]).add_(green_NHW, alpha=_GREY[1]).add_(blue_NHW, alpha=_GREY[2])
        offset_N11 = grey_NHW.mean((1, 2), keepdim=True).mul_((1 - contrast) * brightness).add_(0.5)
        grey_NHW.mul_(gain * (1 - saturation)).add_(offset_N11)
        out_NCHW.copy_(pixels_NCHW.mul_(gain * saturation).add_(grey_NHW.unsqueeze(1)).clamp_(0, 255))
    return out_TCHW


def centre_crop(frames_TCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The middle ``size`` x ``size`` pixels."""
    return functional.center_crop(frames_TCHW, [size, size])
