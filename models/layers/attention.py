"""Attention over the frames of a clip, and the choice of the cheapest exact way to compute it on this device.

B clip, A attention head, T frame (query), S frame (key), D feature of a head, E feature of all heads
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from models.layers.attention_tiles import chunked_attention, sparse_attention
from slr_bench.live_bytes import NewBytes

AttentionKind = Literal["dense", "chunked", "sparse", "auto"]
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""``attention(q_BATD, k_BASD, v_BASD, keep, bias)`` -> BATD."""

NEAR_BYTES = 1.125
"""A kind with up to this many times the fewest bytes may be chosen for its time."""
MUCH_FASTER = 2.0
"""A kind must be this much faster than the one with the fewest bytes, so that noise never decides."""
ROUNDS = 5

_LOG = logging.getLogger(__name__)
_known_choices: dict[Any, Choice] = {}


def dense_attention(
    q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return ``softmax(q k^T / sqrt(D) + bias) v`` as the formula is written.

    Backward keeps T x S scores and weights per head. ``keep`` (bool, broadcastable to BATS, last dimension S) marks the
    pairs that may attend; a row without any is zero. ``bias`` (of the same shape) is added to the scores.
    """
    scores_BATS = q_BATD @ k_BASD.transpose(-2, -1) / math.sqrt(q_BATD.shape[-1])
    if bias is not None:
        scores_BATS = scores_BATS + bias.to(scores_BATS.dtype)
    if keep is None:
        return scores_BATS.softmax(-1).to(v_BASD.dtype) @ v_BASD
    # The lowest number instead of -inf: a row of -inf would give NaN here, and in backward even after it is zeroed.
    scores_BATS = scores_BATS.masked_fill(~keep, torch.finfo(scores_BATS.dtype).min)
    return scores_BATS.softmax(-1).masked_fill(~keep, 0.0).to(v_BASD.dtype) @ v_BASD


def torch_attention(
    q_BATD: Tensor, k_BASD: Tensor, v_BASD: Tensor, keep: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Compute the same with torch's ``scaled_dot_product_attention``, which is fused if the device has a kernel."""
    mask = keep
    if bias is not None:
        mask = bias.to(q_BATD.dtype) if keep is None else bias.to(q_BATD.dtype).masked_fill(~keep, -math.inf)
    return F.scaled_dot_product_attention(q_BATD, k_BASD, v_BASD, attn_mask=mask)


class Choice(NamedTuple):
    """The choice for one device, type and shape, and the figures behind it."""

    kind: str
    where: str
    bytes_by_kind: dict[str, int]
    """Most bytes alive at once in forward and backward, without the inputs and what operators allocate internally."""
    seconds_by_kind: dict[str, float]
    """Times of the kinds with few enough bytes, if there were several; empty on fake tensors, which take no time."""

    def __str__(self) -> str:
        seconds = {kind: f" {value * 1e3:.3g} ms" for kind, value in self.seconds_by_kind.items()}
        figures = (f"{kind} {size:,} B{seconds.get(kind, '')}" for kind, size in self.bytes_by_kind.items())
        return f"{self.kind} for {self.where} ({', '.join(figures)})"


def choose(
    kinds: Mapping[str, Attention],
    q_BATD: Tensor,
    k_BASD: Tensor,
    v_BASD: Tensor,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
) -> Choice:
    """Return the kind with the fewest peak bytes in forward and, with gradients on, backward.

    A kind with at most ``NEAR_BYTES`` times as many bytes is chosen instead if it is at least ``MUCH_FASTER`` times as
    fast. Among equals the first one in ``kinds`` wins. Bytes are counted on fake tensors (0.04 s of processor time per
    chunk of keys), so a kind whose scores would not fit is never run. On fake tensors, which take no time, bytes alone
    decide. The process remembers each choice and logs it the first time.
    """
    inputs = (q_BATD, k_BASD, v_BASD, keep, bias)
    is_fake = isinstance(q_BATD, FakeTensor)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs[:3])
    device, autocast = q_BATD.device, torch.is_autocast_enabled(q_BATD.device.type)
    shapes = tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in inputs)
    key = (*kinds, device, autocast, training, is_fake, shapes)
    if key not in _known_choices:
        with _hidden_from_modes(), torch.set_grad_enabled(training):
            sizes = {kind: _peak_bytes(attention, inputs) for kind, attention in kinds.items()}
            few = [kind for kind, size in sizes.items() if size <= NEAR_BYTES * min(sizes.values())]
            seconds = {} if is_fake or len(few) == 1 else _seconds({kind: kinds[kind] for kind in few}, inputs)
        shape = " x ".join(map(str, q_BATD.shape))
        where = (
            f"{device.type} {str(q_BATD.dtype).removeprefix('torch.')} {shape}{'' if training else ', no gradients'}"
        )
        _known_choices[key] = Choice(_cheapest(sizes, seconds), where, sizes, seconds)
        _LOG.info("attention: auto chose %s", _known_choices[key])
    return _known_choices[key]


def _cheapest(sizes: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    leanest = min(sizes, key=sizes.__getitem__)
    if not seconds:
        return leanest
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[leanest] >= MUCH_FASTER * seconds[fastest] else leanest


@contextmanager
def _hidden_from_modes() -> Iterator[None]:
    """Hide the measurement from what surrounds the step: a tracer, recomputation, saving to host memory."""
    with _disable_current_modes(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        yield


def _peak_bytes(attention: Attention, inputs: tuple[Tensor | None, ...]) -> int:
    with FakeTensorMode():
        twins = tuple(None if tensor is None else _twin(tensor) for tensor in inputs)
        grad_BTE = _gradient(twins)
        with NewBytes(grad_BTE.device) as counter:
            _run(attention, twins, grad_BTE)
    return counter.peak_bytes


def _seconds(kinds: Mapping[str, Attention], inputs: tuple[Tensor | None, ...]) -> dict[str, float]:
    """Return the median wall time of each kind; the kinds run alternately, after one warm-up run each."""
    leaves = tuple(None if x is None else x.detach().requires_grad_(x.requires_grad) for x in inputs)
    grad_BTE = _gradient(leaves)
    device = grad_BTE.device
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(1 + ROUNDS):
        for kind, attention in kinds.items():
            _wait(device)
            start_s = time.perf_counter()
            _run(attention, leaves, grad_BTE)
            _wait(device)
            times[kind].append(time.perf_counter() - start_s)
    return {kind: statistics.median(values[1:]) for kind, values in times.items()}


def _run(attention: Attention, inputs: tuple[Any, ...], grad_BTE: Tensor) -> None:
    """Run forward and backward, up to the joined heads that the projection takes."""
    out_BTE = attention(*inputs).transpose(1, 2).flatten(2)
    if out_BTE.requires_grad:
        with torch.autocast(out_BTE.device.type, enabled=False):  # as in a trainer's backward
            torch.autograd.grad(out_BTE, [tensor for tensor in inputs[:3] if tensor.requires_grad], grad_BTE)


def _twin(tensor: Tensor) -> Tensor:
    """Return a leaf with the same shape, strides and type in the open fake mode."""
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return twin.requires_grad_(tensor.requires_grad)


def _gradient(inputs: tuple[Any, ...]) -> Tensor:
    q_BATD, v_BASD = inputs[0], inputs[2]
    return v_BASD.new_zeros(q_BATD.shape[0], q_BATD.shape[2], q_BATD.shape[1] * v_BASD.shape[-1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TemporalAttention(nn.Module):
    """Pre-norm residual block: ``x + project(attention(norm(x)))`` over the frames of each clip.

    The last projection starts at zero, so that the block starts as the identity and the backbone's features reach the
    classifier unchanged in the first step. A stream keeps the keys and values of the last ``window`` frames between
    calls and therefore uses its three parts: ``finish(x, attend(q, cached and new k, cached and new v))``.
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
        """``window``, ``global_frames`` and ``causal`` apply to ``kind="sparse"``; the other kinds use all frames.

        ``kind="auto"`` takes ``dense``, ``chunked`` or torch's own attention; see :func:`choose`.
        """
        super().__init__()
        if causal and kind != "sparse":
            raise ValueError(f"causal attention of kind {kind!r} would use later frames; use kind 'sparse'")
        if causal and global_frames:
            raise ValueError(f"global_frames={global_frames} attend to later frames; use 0 with causal attention")
        self.heads, self.kind, self.chunk_size = heads, kind, chunk_size
        self.window, self.global_frames, self.causal = window, global_frames, causal
        self.choice: Choice | None = None
        """The choice of ``kind="auto"`` in the last call."""
        self.norm = nn.LayerNorm(features)
        self.to_qkv = nn.Linear(features, 3 * features)
        self.project = nn.Linear(features, features)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x_BTE: Tensor, keep_BT: Tensor | None = None, size_BT: Tensor | None = None) -> Tensor:
        """Return the block's output. ``keep_BT`` (bool) marks the frames that others may attend to.

        ``size_BT`` is the number of frames that each token stands for. The log of the size is added to its scores, so
        that it counts as that many equal frames (ToMe, Bolya et al., ICLR 2023).
        """
        keep = None if keep_BT is None else keep_BT[:, None, None, :]
        bias = None if size_BT is None else size_BT.log()[:, None, None, :]
        return self.finish(x_BTE, self.attend(*self.qkv(x_BTE), keep, bias))

    def qkv(self, x_BTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the frames, each BATD."""
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
        """Return the attention BATD of the queries, which are the last T of the S frames.

        ``keep`` (bool) and ``bias`` broadcast to BATS. With a cache that is not full yet, ``keep`` marks its contents.
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
        """True if the work is split into tiles, which lowers the operator floor; the tracer reads this."""
        return (self.choice.kind if self.choice else self.kind) in ("chunked", "sparse")

    def extra_repr(self) -> str:
        """Describe the attention in the printed network."""
        return f"kind={self.kind}, heads={self.heads}" + (f", chose {self.choice}" if self.choice else "")

    def finish(self, x_BTE: Tensor, out_BATD: Tensor) -> Tensor:
        """Return the block's output from its input and the attention of its frames."""
        return x_BTE + self.project(out_BATD.transpose(1, 2).flatten(2))
