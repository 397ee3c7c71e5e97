"""Region focus: finds the region with the signer and resamples its pixels for the backbone.

B clip, T frame, C channel, H height, W width, S side of the result, G cells of a coarse grid
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GRID = 32
"""Cells per side in which motion is measured: 7 pixels of 224, a quarter of a hand."""
_STILL = 0.03
"""Largest change of a cell between frames, of 1, that counts as noise or compression."""
_SPREADS = 1.75
"""Half the box in standard deviations of the weight: 1.73 just contains motion that is spread evenly."""
_MARGIN = 0.05
"""Fraction of the frame that is added to each side of the box."""
_HEADROOM = 0.05
"""Fraction of the frame by which the box is raised: the face is above the hands and moves least."""
_SMALLEST = 0.5
"""Smallest side of a box, as a fraction of the frame, so that a single moving hand never fills the picture."""


class RegionFocus(nn.Module):
    """Module without parameters that resamples one square box per clip to ``size`` x ``size`` pixels.

    ``motion`` finds the box (:func:`motion_box`). With ``manifest`` the loader has already cut out the region, and the
    frames are only scaled. The box depends on the clip alone, so training and evaluation use the same one. uint8 clips
    stay uint8 and are resampled one frame at a time, so only B frames in float32 are alive beside the result.
    """

    def __init__(self, kind: Literal["motion", "manifest"], size: int | None) -> None:
        super().__init__()
        self.kind = kind
        self.size = size

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Return the focused clips of clips with square frames, ``uint8`` (0..255) or float (0..1)."""
        size = self.size or clips_BTCHW.shape[-1]
        if self.kind == "motion":
            return resample(clips_BTCHW, motion_box(clips_BTCHW), size)
        return clips_BTCHW if clips_BTCHW.shape[-1] == size else resample(clips_BTCHW, full_frame(clips_BTCHW), size)


def full_frame(clips_BTCHW: Tensor) -> Tensor:
    """Return a box for each clip that covers the whole frame."""
    kind = clips_BTCHW.dtype if clips_BTCHW.is_floating_point() else torch.float32
    return torch.tensor([0.5, 0.5, 1.0], dtype=kind, device=clips_BTCHW.device).expand(clips_BTCHW.shape[0], 3)


def motion_box(clips_BTCHW: Tensor) -> Tensor:
    """Return a square box around each clip's signer, ``(B, 3)``: centre across, centre down and side.

    All three are fractions of the frame, and the box lies within it. Weight comes from the change between frames
    (motion) and, at half weight, from the difference to the usual colour of the frame's border (saliency). On a plain
    background the salient part is the signer, so the face stays inside although it hardly moves. A border that varies
    means a busy background, and saliency then counts less. The box is centred on the weighted mean and extends
    ``_SPREADS`` standard deviations to each side. A clip without motion gets the full frame. Each pixel is read once;
    alive are coarse frames (T x 3 x 32 x 32 floats per clip) and one frame in float32.
    """
    with torch.autocast(clips_BTCHW.device.type, enabled=False):
        coarse_BTCGG = torch.stack([_coarse(frame_BCHW) for frame_BCHW in clips_BTCHW.unbind(1)], 1)
        motion_BGG = _above_noise(coarse_BTCGG.diff(dim=1).abs().amax(2)).sum(1)
        usual_BC = _border(coarse_BTCGG).transpose(1, 2).flatten(2).median(-1).values
        salient_BTGG = _above_noise((coarse_BTCGG - usual_BC[:, None, :, None, None]).abs().amax(2))
        plain_B11 = 1 - (_border(salient_BTGG) > 0).to(salient_BTGG.dtype).mean((1, 2)).view(-1, 1, 1)
        weight_BGG = _share(motion_BGG) + _share(salient_BTGG.sum(1)) * plain_B11.square() / 2
        moves_B1 = motion_BGG.sum((1, 2)).unsqueeze(1) > 0
        return torch.where(moves_B1, _box_around(weight_BGG), full_frame(clips_BTCHW))


def _coarse(frame_BCHW: Tensor) -> Tensor:
    grid = min(_GRID, frame_BCHW.shape[-1])
    return F.adaptive_avg_pool2d(_unit(frame_BCHW), grid)


def _unit(pixels: Tensor) -> Tensor:
    return pixels if pixels.is_floating_point() else pixels.to(torch.float32).div_(255)


def _border(coarse_GG: Tensor) -> Tensor:
    """Return the outermost cells of ``(..., G, G)`` in one row, corners twice."""
    rows = [coarse_GG[..., edge, :] for edge in (0, -1)]
    return torch.cat([*rows, *(coarse_GG[..., edge] for edge in (0, -1))], -1)


def _above_noise(change: Tensor) -> Tensor:
    return (change - _STILL).relu()


def _share(amount_BGG: Tensor) -> Tensor:
    """Scale the amounts to a sum of 1 per clip; all zeros stay zeros."""
    return amount_BGG / amount_BGG.sum((1, 2), keepdim=True).clamp_min(1e-9)


def _box_around(weight_BGG: Tensor) -> Tensor:
    cells = weight_BGG.shape[-1]
    places_G = (torch.arange(cells, device=weight_BGG.device, dtype=weight_BGG.dtype) + 0.5) / cells
    mass_B2G = torch.stack([weight_BGG.sum(1), weight_BGG.sum(2)], 1)  # across, down
    mass_B2G = mass_B2G / mass_B2G.sum(-1, keepdim=True).clamp_min(1e-9)
    centre_B2 = (mass_B2G * places_G).sum(-1)
    variance_B2 = (mass_B2G * (places_G - centre_B2.unsqueeze(-1)).square()).sum(-1)
    centre_B2 = centre_B2 - centre_B2.new_tensor([0.0, _HEADROOM])
    side_B1 = 2 * (_SPREADS * variance_B2.sqrt() + _MARGIN).amax(-1, keepdim=True).clamp(_SMALLEST / 2, 0.5)
    half_B1 = side_B1 / 2
    return torch.cat([torch.minimum(torch.maximum(centre_B2, half_B1), 1 - half_B1), side_B1], 1)


def resample(clips_BTCHW: Tensor, box_B3: Tensor, size: int) -> Tensor:
    """Return the pixels of each clip's box on a ``size`` x ``size`` grid, ``(B, T, C, S, S)`` in the clips' type.

    The resampling is bilinear. A box that shrinks uses a triangle as wide as a new pixel, which avoids aliasing
    (Heckbert, 1989; ``F.interpolate(antialias=True)`` for the full frame). The full frame at its own size is the
    identity, bit for bit. It is differentiable almost everywhere in float clips and in the box (spatial transformer,
    Jaderberg et al., NeurIPS 2015). Both axes are products with a ``size`` x W matrix: C S W (H + S) multiplications
    per frame.
    """
    with torch.autocast(clips_BTCHW.device.type, enabled=False):
        down_BSH = _weights(box_B3[:, 1], box_B3[:, 2], clips_BTCHW.shape[-2], size)
        across_BWS = _weights(box_B3[:, 0], box_B3[:, 2], clips_BTCHW.shape[-1], size).transpose(1, 2)
        frames = [_resampled(frame_BCHW, down_BSH, across_BWS) for frame_BCHW in clips_BTCHW.unbind(1)]
        return torch.stack(frames, 1)


def _resampled(frame_BCHW: Tensor, down_BSH: Tensor, across_BWS: Tensor) -> Tensor:
    pixels_BCHW = frame_BCHW.to(down_BSH.dtype)
    out_BCSS = down_BSH.unsqueeze(1) @ (pixels_BCHW.flatten(1, 2) @ across_BWS).unflatten(1, frame_BCHW.shape[1:3])
    return out_BCSS if frame_BCHW.is_floating_point() else out_BCSS.round_().to(frame_BCHW.dtype)


def _weights(centre_B: Tensor, side_B: Tensor, length: int, size: int) -> Tensor:
    """Return the weights of ``length`` old pixels in each of ``size`` new ones: rows that each sum to 1.

    Outside the frame its outermost pixel is repeated.
    """
    step_B11 = (side_B * (length / size)).view(-1, 1, 1)
    start_B11 = ((centre_B - side_B / 2) * length).view(-1, 1, 1)
    news_S1 = torch.arange(size, device=centre_B.device, dtype=centre_B.dtype).unsqueeze(1) + 0.5
    olds_W = torch.arange(length, device=centre_B.device, dtype=centre_B.dtype) + 0.5
    place_BS1 = (start_B11 + news_S1 * step_B11).clamp(0.5, length - 0.5)
    weight_BSW = (1 - (place_BS1 - olds_W).abs() / step_B11.clamp_min(1.0)).relu()
    return weight_BSW / weight_BSW.sum(-1, keepdim=True)
