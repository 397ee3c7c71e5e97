"""Random crops and colours between the decoder and the network, drawn once per clip for all of its frames.

T frame, C channel, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from torchvision.transforms.v2 import functional

from models.config import DataConfig

_SMALLEST_CROP = 0.75
_ASPECT_JITTER = 0.1
_COLOUR_JITTER = 0.2
_GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights; no tensor: importing this runs no operator
_PIXELS_TOGETHER = 2**17  # 1.5 MiB of fp32 colours


@dataclass(frozen=True)
class Augmentation:
    """The random choices for one clip. No mirroring: it exchanges the hands, and a mirrored sign can be another sign.

    Fractions are of the working square: crop height and width, then where the crop lies in the room that is left.
    """

    place_T: NDArray[np.int64]
    """Indices of the candidate frames (``frames_per_segment`` x T) to take; ascending, repeats allowed."""
    crop_height: float
    crop_width: float
    down: float
    right: float
    brightness: float
    contrast: float
    saturation: float
    rotation_degrees: float = 0.0
    channels: tuple[int, ...] = (0, 1, 2)
    """The order in which red, green and blue are taken."""

    @classmethod
    def draw(cls, rng: np.random.Generator, num_frames: int, data: DataConfig) -> Augmentation:
        """Draw for one clip of ``num_frames``."""
        variants = data.frames_per_segment
        variant_T = rng.integers(variants, size=num_frames)
        side = rng.uniform(_SMALLEST_CROP, 1.0)
        aspect = rng.uniform(1 - _ASPECT_JITTER, 1 + _ASPECT_JITTER)
        down, right = rng.uniform(size=2)
        brightness, contrast, saturation = rng.uniform(1 - _COLOUR_JITTER, 1 + _COLOUR_JITTER, size=3).tolist()
        cut_before, cut_after = rng.uniform(0, data.time_crop, size=2)
        return cls(
            place_T=_frame_places(variant_T, variants, cut_before, cut_after),
            crop_height=min(1.0, side * aspect),
            crop_width=min(1.0, side / aspect),
            down=down,
            right=right,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            rotation_degrees=rng.uniform(-1, 1) * data.rotation_degrees,
            channels=tuple(rng.permutation(3).tolist()) if rng.uniform() < data.channel_shuffle else (0, 1, 2),
        )

    def apply(self, frames_TCHW: torch.Tensor, frame_size: int) -> torch.Tensor:
        """Random rotated crop and colours; a frame's result does not depend on the others of its chunk."""
        full_height, full_width = frames_TCHW.shape[-2:]
        height, width = round(self.crop_height * full_height), round(self.crop_width * full_width)
        top, left = round(self.down * (full_height - height)), round(self.right * (full_width - width))
        if self.rotation_degrees:
            frames_TCHW = rotated_crop(frames_TCHW, (top, left, height, width), self.rotation_degrees, frame_size)
        else:
            frames_TCHW = functional.resized_crop(
                frames_TCHW, top, left, height, width, [frame_size, frame_size], antialias=True
            )
        if self.channels != (0, 1, 2):
            frames_TCHW = frames_TCHW[:, list(self.channels)]
        return jitter_colours(frames_TCHW, self.brightness, self.contrast, self.saturation)


def _frame_places(
    variant_T: NDArray[np.int64], variants: int, cut_before: float, cut_after: float
) -> NDArray[np.int64]:
    """Pick one candidate from each of T equal segments of what the cuts leave; cuts are fractions of the whole clip."""
    count = len(variant_T)
    inside_T = (np.arange(count) + (variant_T + 0.5) / variants) / count  # 0..1 of what is left
    places_T = (cut_before + inside_T * (1 - cut_before - cut_after)) * count * variants
    return places_T.astype(np.int64)


def rotated_crop(
    frames_TCHW: torch.Tensor, box: tuple[int, int, int, int], degrees: float, frame_size: int
) -> torch.Tensor:
    """Crop ``box`` (top, left, height, width, pixels) turned about its middle by ``degrees``, counter-clockwise.

    One bilinear resampling of uint8 frames; what lies outside takes the colour of the nearest border pixel. Without
    anti-aliasing: crops are at most 8/7 as large as what is made of them. Costs 2 fp32 copies of the crop.
    """
    top, left, height, width = box
    full_height, full_width = frames_TCHW.shape[-2:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # grid_sample's coordinates run from -1 to 1 over the full frame: pixel distances are turned, then divided by it.
    to_x = [cosine * width / full_width, -sine * height / full_width, (2 * left + width) / full_width - 1]
    to_y = [sine * width / full_height, cosine * height / full_height, (2 * top + height) / full_height - 1]
    grid_1HW2 = F.affine_grid(torch.tensor([[to_x, to_y]]), [1, 1, frame_size, frame_size], align_corners=False)
    # One frame of T x C channels: the grid is looked up once.
    pixels_1NHW = frames_TCHW.flatten(0, 1).unsqueeze(0).float()
    out_1NHW = F.grid_sample(pixels_1NHW, grid_1HW2, padding_mode="border", align_corners=False)
    return out_1NHW.add_(0.5).to(torch.uint8).view(*frames_TCHW.shape[:2], frame_size, frame_size)


def jitter_colours(frames_TCHW: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """torchvision's ``adjust_brightness``, ``adjust_contrast`` and ``adjust_saturation``, one after the other.

    All three are linear in a frame's pixels: a multiple of each, plus a multiple of its grey value and an offset.
    As many frames are computed at once as fit the cache of a core. Measured: 1.0 ms per clip of 16 x 96 x 96, against
    2.3 ms for a 3 x 3 product per frame. Values are rounded and clamped once, at the end.
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
