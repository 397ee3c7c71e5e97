"""Attention over the frames of a clip: written plainly, a chunk of keys at a time, or within a window.

B clip, A attention head, T frame (query), S frame (key), D feature of a head, E feature of all heads
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.attention_choice import Attention, Choice, choose
from models.layers.attention_tiles import chunked_attention, sparse_attention

AttentionKind = Literal["dense", "chunked", "sparse", "auto"]


def dense_attention(
    q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``softmax(q k^T / sqrt(D) + bias) v`` as the formula stands: T x S scores and weights a head kept for backward.

    ``keep`` (bool, broadcastable to BATS, last dimension S) marks the pairs that may attend; a row without any is zero.
    ``bias`` (likewise) is added to the scores.
    """
    scores_BATS = q_BATD @ k_BASD.transpose(-2, -1) / math.sqrt(q_BATD.shape[-1])
    if bias is not None:
        scores_BATS = scores_BATS + bias.to(scores_BATS.dtype)
    if keep is None:
        return scores_BATS.softmax(-1).to(v_BASD.dtype) @ v_BASD
    # The lowest number, not -inf: a row of -inf would make NaN here, and in backward even after it is zeroed.
    scores_BATS = scores_BATS.masked_fill(~keep, torch.finfo(scores_BATS.dtype).min)
    return scores_BATS.softmax(-1).masked_fill(~keep, 0.0).to(v_BASD.dtype) @ v_BASD


def torch_attention(
    q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The same function by torch's ``scaled_dot_product_attention``: fused where the device has a kernel for it."""
    mask = keep
    if bias is not None:
        mask = bias.to(q_BATD.dtype) if keep is None else bias.to(q_BATD.dtype).masked_fill(~keep, -math.inf)
    return F.scaled_dot_product_attention(q_BATD, k_BASD, v_BASD, attn_mask=mask)


class TemporalAttention(nn.Module):
    """Pre-norm residual block: ``x + project(attention(norm(x)))`` over the frames of each clip.

    The last projection starts at zero, so that the block starts as the identity and the backbone's features reach
    the classifier undisturbed from the first step. Its three parts are there for a stream, which keeps the last
    ``window`` frames' keys and values between calls: ``finish(x, attend(q, k of cache and x, v likewise))``.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        kind: AttentionKind,
        chunk_size: int = 8,
        window: int = 4,
        global_frames: int = 1,
        causal: bool = False,
    ) -> None:
        """``window``, ``global_frames`` and ``causal`` are those of ``kind="sparse"``; the others see all frames.

        ``kind="auto"`` is ``dense``, ``chunked`` or torch's own: see :func:`models.layers.attention_choice.choose`.
        """
        super().__init__()
        if causal and kind != "sparse":
            raise ValueError(f"causal attention of kind {kind!r} would see later frames; use kind 'sparse'")
        if causal and global_frames:
            raise ValueError(f"global_frames={global_frames} attend to later frames; use 0 with causal attention")
        self.heads, self.kind, self.chunk_size = heads, kind, chunk_size
        self.window, self.global_frames, self.causal = window, global_frames, causal
        self.choice: Choice | None = None
        """What ``kind="auto"`` took in the last call."""
        self.norm = nn.LayerNorm(features)
        self.to_qkv = nn.Linear(features, 3 * features)
        self.project = nn.Linear(features, features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x_BTE: Tensor, keep_BT: Tensor | None = None, size_BT: Tensor | None = None) -> Tensor:
        """``keep_BT`` (bool) marks the frames that may be attended to.

        ``size_BT`` is how many frames each one stands for: it is attended to as that many equal ones would be, by the
        log of its size added to its scores (ToMe, Bolya et al., ICLR 2023).
        """
        keep = None if keep_BT is None else keep_BT[:, None, None, :]
        bias = None if size_BT is None else size_BT.log()[:, None, None, :]
        return self.finish(x_BTE, self.attend(*self.qkv(x_BTE), keep, bias))

    def qkv(self, x_BTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the frames, each BATD."""
        qkv_BT3AD = self.to_qkv(self.norm(x_BTE)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv_BT3AD.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def attend(
        self,
        q_BATD: Tensor,
        k_BASD: Tensor,
        v_BASD: Tensor,
        keep: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """What the queries, the last T of the S frames, see of keys and values; BATD.

        ``keep`` (bool) and ``bias`` broadcast to BATS; with a cache that is not full yet, ``keep`` marks what is in it.
        """
        kind: str = self.kind
        if kind == "auto":
            exact = {name: self._backend(name) for name in ("sdpa", "chunked", "dense")}
            self.choice = choose(exact, q_BATD, k_BASD, v_BASD, keep, bias)
            kind = self.choice.kind
        return self._backend(kind)(q_BATD, k_BASD, v_BASD, keep, bias)

    def _backend(self, kind: str) -> Attention:
        if kind == "chunked":
            return lambda q, k, v, keep, bias: chunked_attention(q, k, v, self.chunk_size, keep, bias)
        if kind == "sparse":
            where = self.window, self.global_frames, self.causal
            return lambda q, k, v, keep, bias: sparse_attention(q, k, v, *where, keep, bias)
        return torch_attention if kind == "sdpa" else dense_attention

    @property
    def splits_work(self) -> bool:
        """Said to the tracer: the operator floor is that of the tiles."""
        return (self.choice.kind if self.choice else self.kind) in ("chunked", "sparse")

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"kind={self.kind}, heads={self.heads}" + (f", chose {self.choice}" if self.choice else "")

    def finish(self, x_BTE: Tensor, out_BATD: Tensor) -> Tensor:
        """The block's output from its input and what its frames saw."""
        return x_BTE + self.project(out_BATD.transpose(1, 2).flatten(2))
