"""Peak bytes of forward and backward in closed form: linear in T for chunked and sparse attention, quadratic for dense.

N = B x A, T frame, D feature of a head. fp32; counted beside q, k, v and the gradient of the output.
"""

import pytest
import torch

from models.layers.attention import dense_attention
from models.layers.attention_tiles import Chunks, Window, chunked_attention, sparse_attention
from slr_bench.live_bytes import LiveBytes

CLIPS, HEADS, D = 1, 2, 8
N = CLIPS * HEADS


def peak_bytes(attention, frames):
    q, k, v = (torch.randn(CLIPS, HEADS, frames, D, requires_grad=True) for _ in range(3))
    grad_BATD = torch.randn(CLIPS, HEADS, frames, D)
    with LiveBytes(torch.device("cpu"), {"input": [q, k, v, grad_BATD]}) as tracer:
        before = tracer.live_bytes
        torch.autograd.grad(attention(q, k, v), (q, k, v), grad_BATD)
    return tracer.peak_bytes - before


def tiled_bytes(plan, frames):
    """Return the expected bytes: output and three gradients, denominator and common term per row.

    Two sums over the keys of the largest group of tiles, and the shares of one tile with their gradient, come on top.
    """
    groups = [
        2 * (columns.stop - columns.start) * (D + max(span.stop - span.start for span in spans))
        for columns, spans in plan.by_key(frames, frames)
    ]
    return 4 * N * (frames * (4 * D + 2) + max(groups))


@pytest.mark.parametrize("chunk_size", [1, 4, 16])
def test_chunked_attention_needs_exactly_the_expected_bytes(chunk_size):
    for frames in (64, 96, 128):
        expected = 4 * N * (frames * (4 * D + 2 + 2 * chunk_size) + 2 * chunk_size * D)
        assert peak_bytes(lambda *t: chunked_attention(*t, chunk_size), frames) == expected
        assert tiled_bytes(Chunks(chunk_size), frames) == expected


@pytest.mark.parametrize(
    ("window", "global_frames", "causal"), [(4, 0, False), (4, 0, True), (9, 1, False), (2, 3, False)]
)
def test_sparse_attention_needs_exactly_the_expected_bytes(window, global_frames, causal):
    plan = Window(window, 0 if causal else window, global_frames, block=16)
    for frames in (64, 96, 250, 400):
        got = peak_bytes(lambda *t: sparse_attention(*t, window, global_frames, causal, block=16), frames)
        assert got == tiled_bytes(plan, frames)


def test_sparse_attention_needs_the_same_for_each_further_frame():
    """Each further frame needs 4 D + 2 numbers per head: no T x T, and no more for a wider window."""
    sizes = [peak_bytes(lambda *t: sparse_attention(*t, 4, block=16), frames) for frames in (64, 128, 512)]
    assert sizes[1] - sizes[0] == 64 * 4 * N * (4 * D + 2)
    assert sizes[2] - sizes[1] == 384 * 4 * N * (4 * D + 2)


def test_dense_attention_grows_with_the_square():
    """The weights, their gradient, and that of the scores: three T x T per head."""
    small, middle, large = (peak_bytes(dense_attention, frames) for frames in (128, 256, 384))
    assert large - 2 * middle + small == 3 * 4 * N * 2 * 128**2
