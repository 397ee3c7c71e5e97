"""Attention over the frames of a clip: written plainly, or a chunk of keys at a time.

B clip, A attention head, T frame (query), S frame (key), D feature of a head, E feature of all heads
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def dense_attention(q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` as the formula stands: T x S scores and weights a head are kept for backward.

    ``keep`` (bool, broadcastable to BATS, last dimension S) marks the pairs that may attend; a row without any is zero.
    """
    scores_BATS = q_BATD @ k_BASD.transpose(-2, -1) / math.sqrt(q_BATD.shape[-1])
    if keep is None:
        return scores_BATS.softmax(-1).to(v_BASD.dtype) @ v_BASD
    # The lowest number, not -inf: a row of -inf would make NaN here, and in backward even after it is zeroed.
    scores_BATS = scores_BATS.masked_fill(~keep, torch.finfo(scores_BATS.dtype).min)
    return scores_BATS.softmax(-1).masked_fill(~keep, 0.0).to(v_BASD.dtype) @ v_BASD


def chunked_attention(
    q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, chunk_size: int, keep: Tensor | None = None
) -> Tensor:
    """The same function as :func:`dense_attention` in memory linear in T: scores of ``chunk_size`` keys at a time.

    Online softmax (Rabe & Staats, 2021; FlashAttention, Dao et al., 2022). Backward keeps the inputs, the output and
    one number a row, and computes each chunk's scores again. Sums are fp32 where the inputs are narrower.
    """
    with torch.autocast(q_BATD.device.type, enabled=False):
        return _ChunkedAttention.apply(q_BATD, k_BASD, v_BASD, keep, chunk_size)


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None, chunk_size: int
    ) -> Tensor:
        q = _wide(q_BATD)
        sum_BATD = torch.zeros_like(q)
        weight_BAT1 = torch.zeros_like(q[..., :1])
        top_BAT1 = torch.full_like(weight_BAT1, -math.inf)
        for k, v, kept in _chunks(k_BASD, v_BASD, keep, chunk_size):
            scores = _scores(q, k, kept)
            new_top = torch.maximum(top_BAT1, scores.amax(-1, keepdim=True))
            shift = new_top.masked_fill(new_top == -math.inf, 0.0)  # a row with nothing kept so far: exp(-inf - 0) = 0
            rescale = (top_BAT1 - shift).exp()
            share = (scores - shift).exp()
            sum_BATD = sum_BATD * rescale + share @ v
            weight_BAT1 = weight_BAT1 * rescale + share.sum(-1, keepdim=True)
            top_BAT1 = new_top
        empty = weight_BAT1 == 0
        out_BATD = (sum_BATD / weight_BAT1.masked_fill(empty, 1.0)).to(q_BATD.dtype)
        # log of the softmax's denominator; +inf makes every share of an empty row 0 in backward, too
        log_weight_BAT1 = (top_BAT1 + weight_BAT1.log()).masked_fill(empty, math.inf)
        ctx.save_for_backward(q_BATD, k_BASD, v_BASD, keep, out_BATD, log_weight_BAT1)
        ctx.chunk_size = chunk_size
        return out_BATD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BATD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BATD, k_BASD, v_BASD, keep, out_BATD, log_weight_BAT1 = ctx.saved_tensors
        q, grad = _wide(q_BATD), _wide(grad_BATD)
        grad_q = torch.zeros_like(q)
        grads_k, grads_v = [], []
        common_BAT1 = (grad * out_BATD).sum(-1, keepdim=True)
        for k, v, kept in _chunks(k_BASD, v_BASD, keep, ctx.chunk_size):
            share = (_scores(q, k, kept) - log_weight_BAT1).exp()
            grad_scores = share * (grad @ v.transpose(-2, -1) - common_BAT1) / math.sqrt(q.shape[-1])
            grad_q += grad_scores @ k
            grads_k.append((grad_scores.transpose(-2, -1) @ q).to(k_BASD.dtype))
            grads_v.append((share.transpose(-2, -1) @ grad).to(v_BASD.dtype))
        return grad_q.to(q_BATD.dtype), torch.cat(grads_k, -2), torch.cat(grads_v, -2), None, None


def _wide(tensor: Tensor) -> Tensor:
    """At least fp32: sums over many chunks lose too much in 8 or 11 bits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _chunks(k: Tensor, v: Tensor, keep: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for start in range(0, k.shape[-2], size):
        here = slice(start, start + size)
        yield _wide(k[..., here, :]), _wide(v[..., here, :]), None if keep is None else keep[..., here]


def _scores(q: Tensor, k: Tensor, kept: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores if kept is None else scores.masked_fill(~kept, -math.inf)


class TemporalAttention(nn.Module):
    """Pre-norm residual block: ``x + project(attention(norm(x)))`` over the frames of each clip.

    The last projection starts at zero, so that the block starts as the identity and the backbone's features reach
    the classifier undisturbed from the first step.
    """

    def __init__(self, features: int, heads: int, kind: Literal["dense", "chunked"], chunk_size: int) -> None:
        super().__init__()
        self.heads, self.kind, self.chunk_size = heads, kind, chunk_size
        self.splits_work = kind == "chunked"  # said to the tracer: its operator floor is that of the chunks
        self.norm = nn.LayerNorm(features)
        self.to_qkv = nn.Linear(features, 3 * features)
        self.project = nn.Linear(features, features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x_BTE: Tensor, keep_BT: Tensor | None = None) -> Tensor:
        """``keep_BT`` (bool) marks the frames that may be attended to."""
        qkv_BT3AD = self.to_qkv(self.norm(x_BTE)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
        keep = None if keep_BT is None else keep_BT[:, None, None, :]
        if self.kind == "dense":
            out_BATD = dense_attention(q, k, v, keep)
        else:
            out_BATD = chunked_attention(q, k, v, self.chunk_size, keep)
        return x_BTE + self.project(out_BATD.transpose(1, 2).flatten(2))
