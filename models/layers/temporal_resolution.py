"""Adaptive temporal resolution: frames are selected before the backbone, and similar ones merged after it.

B clip, T frame, K chosen frame, C channel, H height, W width, G cell of a coarse grid, E even token, D feature
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 28
"""Cells per side in which motion is measured: 8 pixels of 224, above compression noise and below a hand."""
UNIFORM_SHARE = 0.5
"""Share of the frames that is spread evenly, whether they move or not: a held handshape is part of a sign too."""


def motion_energy(clips_BTCHW: Tensor) -> Tensor:
    """Return the change of each frame from the previous one, ``(B, T)``: mean absolute change of coarse grey frames.

    The first frame has 0. Only one frame per clip is in float at a time, never the whole clip.
    """
    with torch.autocast(clips_BTCHW.device.type, enabled=False):
        grey = [_coarse_grey(frame_BCHW) for frame_BCHW in clips_BTCHW.unbind(1)]
        change_BT = torch.stack(grey, 1).diff(dim=1).abs().mean((2, 3))
        return F.pad(change_BT, (1, 0))


def _coarse_grey(frame_BCHW: Tensor) -> Tensor:
    values_BCHW = frame_BCHW if frame_BCHW.is_floating_point() else frame_BCHW.float()
    grid = min(GRID, *frame_BCHW.shape[-2:])
    return F.adaptive_avg_pool2d(values_BCHW, grid).mean(1)


def choose_frames(energy_BT: Tensor, count: int) -> Tensor:
    """Return ``count`` frames per clip at equal steps of the cumulative motion: ascending, unique indices ``(B, K)``.

    This is MGSampler (Zhi et al., ICCV 2021) with ``UNIFORM_SHARE`` of the motion spread over all frames. A clip
    without motion is sampled uniformly. All shapes are known in advance, so nothing waits for the device.
    """
    frames = energy_BT.shape[1]
    assert 0 < count <= frames, f"{count} of {frames} frames"
    energy_BT = energy_BT.double()
    total_B1 = energy_BT.sum(1, keepdim=True)
    moving_BT = torch.where(total_B1 > 0, energy_BT / total_B1.clamp_min(torch.finfo(torch.double).tiny), 1 / frames)
    share_BT = UNIFORM_SHARE / frames + (1 - UNIFORM_SHARE) * moving_BT
    order_K = torch.arange(count, device=energy_BT.device)
    # Slightly above the middle of each step, so that rounding decides nothing on any device.
    steps_K = (order_K + 0.5).double() / count + 1e-9
    wanted_BK = torch.searchsorted(share_BT.cumsum(1), steps_K.expand(share_BT.shape[0], -1).contiguous())
    # If several steps fall on one frame, the later ones take the next frames; at the end, those that remain.
    unique_BK = (wanted_BK - order_K).cummax(1).values + order_K
    return torch.minimum(unique_BK, order_K + (frames - count))


def take_frames(clips_BTCHW: Tensor, chosen_BK: Tensor) -> Tensor:
    """Return a copy of the chosen frames of each clip, ``(B, K, C, H, W)``, so that the others can be freed."""
    clip_B1 = torch.arange(chosen_BK.shape[0], device=chosen_BK.device).unsqueeze(1)
    return clips_BTCHW[clip_B1, chosen_BK]


def merge_frames(x_BTD: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Merge the ``pairs`` most similar neighbours; return tokens ``(B, T - pairs, D)`` and the frames per token.

    This is token merging (ToMe, Bolya et al., ICLR 2023) along time. Every even frame may join the more similar
    (cosine) of its two neighbours, and the ``pairs`` most similar ones do. A token is the mean of its frames, which are
    neighbours, so the order is kept. ``pairs=0`` is the identity. The means get a gradient, the choice does not. It
    costs B x T x T multiplications per feature.
    """
    frames = x_BTD.shape[1]
    assert pairs <= frames // 2, f"{pairs} pairs of {frames} frames"
    if pairs == 0:
        return x_BTD, torch.ones(x_BTD.shape[:2], dtype=torch.int64, device=x_BTD.device)
    with torch.autocast(x_BTD.device.type, enabled=False):
        token_BT = _token_of_frame(x_BTD.detach(), pairs)
        member_BKT = token_BT.unsqueeze(1) == torch.arange(frames - pairs, device=x_BTD.device).unsqueeze(1)
        size_BK = member_BKT.sum(2)
        return (member_BKT.double() / size_BK.unsqueeze(2)).to(x_BTD.dtype) @ x_BTD, size_BK


def _token_of_frame(x_BTD: Tensor, pairs: int) -> Tensor:
    """Return the token, of T - ``pairs``, that each frame joins: ``(B, T)``, ascending."""
    frames = x_BTD.shape[1]
    alike_BT = F.cosine_similarity(x_BTD[:, 1:].float(), x_BTD[:, :-1].float(), dim=2)  # frame t + 1 with frame t
    edged_BT = F.pad(alike_BT, (1, 1), value=-2.0)  # below every cosine: no frame there
    left_BE, right_BE = edged_BT[:, :-1][:, ::2], edged_BT[:, 1:][:, ::2]
    joins_BE = torch.zeros_like(left_BE, dtype=torch.bool)
    joins_BE.scatter_(1, torch.maximum(left_BE, right_BE).topk(pairs, dim=1).indices, True)
    # Border t lies before frame t. It is closed if the even one of its two frames joins the other.
    closed_BT = torch.zeros_like(edged_BT, dtype=torch.bool)
    closed_BT[:, :-1][:, ::2] = joins_BE & (left_BE > right_BE)
    closed_BT[:, 1:][:, ::2] |= joins_BE & (left_BE <= right_BE)
    return F.pad((~closed_BT[:, 1:frames]).cumsum(1), (1, 0))
