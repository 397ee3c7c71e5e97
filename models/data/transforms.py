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

    All three are linear in a frame's pixels, so one 3 x 3 matrix and an offset do it, a frame at a time: measured
    4 ms a clip of 16 x 224 x 224 against 25 ms for the three calls. Rounded and clamped once, at the end.
    """
    gain = brightness * contrast
    grey_C = torch.tensor(_GREY)
    matrix_CC = gain * (saturation * torch.eye(3) + (1 - saturation) * grey_C.expand(3, 3))
    out_TCHW = torch.empty(frames_TCHW.shape, dtype=torch.uint8)
    for out_CHW, frame_CHW in zip(out_TCHW, frames_TCHW, strict=True):
        pixels_CN = frame_CHW.flatten(1).float()
        offset = (1 - contrast) * brightness * (grey_C @ pixels_CN.mean(1)) + 0.5
        out_CHW.copy_(torch.addmm(offset, matrix_CC, pixels_CN).clamp_(0, 255).view(out_CHW.shape))
    return out_TCHW


def centre_crop(frames_TCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The middle ``size`` x ``size`` pixels."""
    return functional.center_crop(frames_TCHW, [size, size])
