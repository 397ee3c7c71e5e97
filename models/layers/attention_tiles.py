"""Exact attention that computes its scores tile by tile: in chunks of keys, or only near the diagonal.

B clip, A attention head, N = B x A, T frame (query), S frame (key), D feature of a head
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_FRAMES = 64
"""Queries per block of :func:`sparse_attention`: enough work per tile to hide the cost of starting its operators."""


class Tiling(Protocol):
    """Selects the tiles of the T x S scores that are computed. Every pair lies in at most one tile."""

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        """Yield each query once: rows, and the spans of keys that they attend to."""

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        """Yield each key once: columns, and the spans of queries that attend to them."""

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> Tensor | None:
        """Return the pairs of a tile that count (bool), None for all. Query ``i`` is key frame ``i + shift``."""


class Chunks(NamedTuple):
    """Plan that compares all queries with ``size`` keys at a time."""

    size: int

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        yield slice(0, queries), list(_slices(0, keys, self.size))

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        for columns in _slices(0, keys, self.size):
            yield columns, [slice(0, queries)]

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> None:
        return None


class Window(NamedTuple):
    """Plan that compares ``block`` frames with ``before`` earlier and ``after`` later ones, and the global frames."""

    before: int
    after: int
    global_frames: int
    block: int

    def by_query(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        shift = keys - queries
        return self._tiles(queries, keys, shift - self.before, shift + self.after)

    def by_key(self, queries: int, keys: int) -> Iterator[tuple[slice, list[slice]]]:
        shift = keys - queries
        return self._tiles(keys, queries, -shift - self.after, self.before - shift)

    def _tiles(self, length: int, other: int, low: int, high: int) -> Iterator[tuple[slice, list[slice]]]:
        """Yield tiles in which frame ``i`` meets the ``other`` frames ``i + low`` to ``i + high``.

        The global frames, the first ones of both sides, meet all.
        """
        first = min(self.global_frames, length)
        if first:
            yield slice(0, first), [slice(0, other)]
        for block in _slices(first, length, self.block):
            near = slice(min(other, max(first, block.start + low)), max(0, min(other, block.stop + high)))
            yield block, [span for span in (slice(0, first), near) if span.start < span.stop]

    def mask(self, rows: slice, columns: slice, shift: int, device: torch.device) -> Tensor | None:
        if min(rows.stop, columns.stop) <= self.global_frames:
            return None
        diagonal = rows.start + shift - columns.start
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if diagonal + height - 1 <= self.before and width - 1 - diagonal <= self.after:
            return None
        band = torch.ones(height, width, dtype=torch.bool, device=device)
        return band.triu_(diagonal - self.before).tril_(diagonal + self.after)


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(stop, begin + size))


def chunked_attention(
    q_BATD: Tensor,
    k_BASD: Tensor,
    v_BASD: Tensor,
    chunk_size: int,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return ``softmax(q k^T / sqrt(D) + bias) v`` in memory linear in T, with ``chunk_size`` keys at a time.

    Uses the online softmax (Rabe & Staats, 2021; FlashAttention, Dao et al., 2022). Backward keeps the inputs, the
    output and one number per row, and computes the scores of each tile again. Sums are in fp32 if the inputs are
    narrower. ``keep`` (bool) marks the pairs that may attend. ``bias`` is added to the scores and gets no gradient.
    Both broadcast to BATS and have last dimension S. A row that may attend to nothing is zero.
    """
    return _tiled(q_BATD, k_BASD, v_BASD, keep, bias, Chunks(chunk_size))


def sparse_attention(
    q_BATD: Tensor,
    k_BASD: Tensor,
    v_BASD: Tensor,
    window: int,
    global_frames: int = 0,
    causal: bool = False,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Let each frame attend to itself and to ``window`` frames on each side (``causal``: only to earlier frames).

    The first ``global_frames`` attend to all frames and all frames attend to them (Longformer, Beltagy et al., 2020).
    Only tiles with such pairs are computed, ``block`` queries at a time, so time and memory are linear in T. Beside
    inputs, outputs and gradients, only B x A x T x ``global_frames`` scores grow with T. :func:`chunked_attention`
    describes what backward keeps, ``keep`` and ``bias``. The queries are the last T of the S frames: with S > T the
    first S - T keys come from a cache.
    """
    if global_frames and q_BATD.shape[-2] != k_BASD.shape[-2]:
        raise ValueError(
            f"global_frames={global_frames} with {q_BATD.shape[-2]} queries and {k_BASD.shape[-2]} keys: "
            "with keys from a cache the first frames are gone; use global_frames=0"
        )
    after = 0 if causal else window
    plan = Window(window, after, global_frames, block or max(BLOCK_FRAMES, 2 * window))
    return _tiled(q_BATD, k_BASD, v_BASD, keep, bias, plan)


def _tiled(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, bias: Tensor | None, plan: Tiling) -> Tensor:
    assert bias is None or not bias.requires_grad, "the bias gets no gradient"
    q, k, v = (tensor.contiguous() for tensor in (q, k, v))  # one copy here saves a copy of each tile in every product
    with torch.autocast(q.device.type, enabled=False):
        return _TiledAttention.apply(q, k, v, keep, bias, plan)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BATD: Tensor,
        k_BASD: Tensor,
        v_BASD: Tensor,
        keep: Tensor | None,
        bias: Tensor | None,
        plan: Tiling,
    ) -> Tensor:
        clips, heads, queries, _ = q_BATD.shape
        # Frames come before heads in memory, so that the caller can join the heads with a view instead of a copy.
        out_BATD = v_BASD.new_empty(clips, queries, heads, v_BASD.shape[-1]).transpose(1, 2)
        tiles = _Tiles(_flat(q_BATD), k_BASD, v_BASD, keep, bias, plan)
        log_weight_NT1 = torch.empty_like(tiles.q_NTD[..., :1])
        for rows, spans in plan.by_query(queries, k_BASD.shape[-2]):
            sums, log_weight = tiles.attend(rows, spans)
            out_BATD[..., rows, :] = sums.unflatten(0, (clips, heads))
            log_weight_NT1[:, rows] = log_weight
        ctx.save_for_backward(q_BATD, k_BASD, v_BASD, keep, bias, out_BATD, log_weight_NT1)
        ctx.plan = plan
        return out_BATD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BATD: Tensor) -> tuple[Tensor | None, ...]:
        q_BATD, k_BASD, v_BASD, keep, bias, out_BATD, log_weight_NT1 = ctx.saved_tensors
        tiles = _Tiles(_flat(q_BATD), k_BASD, v_BASD, keep, bias, ctx.plan)
        with torch.autocast(grad_BATD.device.type, enabled=False):
            grads = tiles.gradients(grad_BATD, out_BATD, log_weight_NT1)
        return *grads, None, None, None


class _Tiles(NamedTuple):
    """The inputs of one call; computes their scores tile by tile."""

    q_NTD: Tensor
    k_BASD: Tensor
    v_BASD: Tensor
    keep: Tensor | None
    bias: Tensor | None
    plan: Tiling

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.q_NTD.shape[-1])

    def keys(self, columns: slice) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a span, in at least fp32 and with batch and heads joined."""
        return _flat(self.k_BASD[..., columns, :]), _flat(self.v_BASD[..., columns, :])

    def scores(self, rows: slice, columns: slice, k: Tensor) -> Tensor:
        """Return the scores of one tile, -inf for pairs that may not attend; the caller may overwrite them."""
        scores_NTS = (self.q_NTD[:, rows] @ k.mT).mul_(self.scale)
        scores_BATS = scores_NTS.unflatten(0, self.k_BASD.shape[:2])
        if self.bias is not None:
            scores_BATS += _part(self.bias, rows, columns)
        shift = self.k_BASD.shape[-2] - self.q_NTD.shape[-2]
        for kept in (self.plan.mask(rows, columns, shift, k.device), _part(self.keep, rows, columns)):
            if kept is not None:
                scores_BATS.masked_fill_(~kept, -math.inf)
        return scores_NTS

    def attend(self, rows: slice, spans: list[slice]) -> tuple[Tensor, Tensor]:
        """Return the weighted means of the values for some queries, and the log of each row's softmax denominator."""
        shape = (self.q_NTD.shape[0], rows.stop - rows.start)
        sums = self.q_NTD.new_zeros(*shape, self.v_BASD.shape[-1])
        weight = self.q_NTD.new_zeros(*shape, 1)
        top = self.q_NTD.new_full((*shape, 1), -math.inf)
        for columns in spans:
            k, v = self.keys(columns)
            scores = self.scores(rows, columns, k)
            new_top = torch.maximum(top, scores.amax(-1, keepdim=True))
            base = new_top.masked_fill(new_top == -math.inf, 0.0)  # no pair so far: exp(-inf - 0) = 0
            rescale = top.sub_(base).exp_()
            share = scores.sub_(base).exp_()
            sums.mul_(rescale).baddbmm_(share, v)
            weight.mul_(rescale).add_(share.sum(-1, keepdim=True))
            top = new_top
            del scores, share  # before the next tile is made
        empty = weight == 0
        sums.div_(weight.masked_fill(empty, 1.0))
        # +inf makes every share of an empty row 0 in backward as well
        return sums, top.add_(weight.log_()).masked_fill_(empty, math.inf)

    def gradients(self, grad_BATD: Tensor, out_BATD: Tensor, log_weight_NT1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values from the gradient of the output."""
        q, grad, heads = self.q_NTD, _flat(grad_BATD), self.k_BASD.shape[:2]
        common_NT1 = (grad.unflatten(0, heads) * out_BATD).sum(-1, keepdim=True).reshape_as(log_weight_NT1)
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.empty_like(self.k_BASD), torch.empty_like(self.v_BASD)
        for columns, spans in self.plan.by_key(q.shape[-2], self.k_BASD.shape[-2]):
            k, v = self.keys(columns)
            sum_k, sum_v = torch.zeros_like(k), torch.zeros_like(v)
            for rows in spans:
                share = self.scores(rows, columns, k).sub_(log_weight_NT1[:, rows]).exp_()
                sum_v.baddbmm_(share.mT, grad[:, rows])
                grad_scores = share.mul_((grad[:, rows] @ v.mT).sub_(common_NT1[:, rows])).mul_(self.scale)
                grad_q[:, rows].baddbmm_(grad_scores, k)
                sum_k.baddbmm_(grad_scores.mT, q[:, rows])
                del share, grad_scores  # before the next tile is made
            grad_k[..., columns, :], grad_v[..., columns, :] = sum_k.unflatten(0, heads), sum_v.unflatten(0, heads)
        return grad_q.to(self.k_BASD.dtype).unflatten(0, heads), grad_k, grad_v


def _part(whole: Any, rows: slice, columns: slice) -> Any:
    """Return the tile of a tensor that broadcasts to BATS; it may have one row for all queries."""
    if whole is None:
        return None
    return whole[..., rows if whole.shape[-2] > 1 else slice(None), columns]


def _flat(tensor_BATD: Tensor) -> Tensor:
    """Return the tensor as NTD in at least fp32, as a view if possible: sums over many tiles need the precision."""
    return tensor_BATD.to(torch.promote_types(tensor_BATD.dtype, torch.float32)).flatten(0, 1)
