"""Attention within a window equals SDPA under the same mask, and one pass if keys come from a cache."""

import pytest
import torch
from attention_proof import assert_same_function, inputs, reference, window_mask, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from models.layers.attention import TemporalAttention
from models.layers.attention_tiles import Window, sparse_attention


@st.composite
def problems(draw):
    """Draw lengths around the window and the block, global frames up to more than exist, masks and biases."""
    frames = draw(st.integers(1, 24))
    causal = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kept_rows = draw(st.sampled_from([None, 1, frames]))
    return {
        "frames": frames,
        "window": draw(st.integers(1, 9)),
        "global_frames": draw(st.integers(0, 3) | st.just(30)),
        "causal": causal,
        "block": draw(st.integers(1, 9)),
        "keep": None if kept_rows is None else torch.rand(2, 1, kept_rows, frames, generator=generator) < 0.6,
        "bias": torch.randn(2, 1, 1, frames, generator=generator).double() if draw(st.booleans()) else None,
    }


@settings(max_examples=120, deadline=None)
@given(problems())
def test_equals_torch_under_the_same_mask(problem):
    frames, keep = problem.pop("frames"), problem["keep"]
    mask = window_mask(frames, frames, problem["window"], problem["global_frames"], problem["causal"])
    whole = mask if keep is None else mask & keep
    tensors = inputs(frames, frames)
    assert_same_function(lambda *t: sparse_attention(*t, **problem), reference(whole, problem["bias"]), tensors)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 12), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_queries_are_the_last_frames_of_longer_keys(queries, cached, window, block, causal):
    tensors = inputs(queries, cached + queries)
    mask = window_mask(queries, cached + queries, window, 0, causal)
    assert_same_function(lambda *t: sparse_attention(*t, window, causal=causal, block=block), reference(mask), tensors)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 7), st.integers(0, 4), st.booleans(), st.integers(1, 7))
def test_tiles_by_query_and_by_key_cover_every_pair_of_the_mask_once(
    queries, cached, window, global_frames, causal, block
):
    """No span is longer than needed: its first and its last frame belong to a pair."""
    global_frames = 0 if cached else global_frames
    keys = queries + cached
    plan = Window(window, 0 if causal else window, global_frames, block)
    wanted = window_mask(queries, keys, window, global_frames, causal)
    by_query = [(rows, columns) for rows, spans in plan.by_query(queries, keys) for columns in spans]
    by_key = [(rows, columns) for columns, spans in plan.by_key(queries, keys) for rows in spans]
    for tiles, span_of in ((by_query, -1), (by_key, 0)):
        count = torch.zeros(queries, keys, dtype=torch.int64)
        for rows, columns in tiles:
            mask = plan.mask(rows, columns, keys - queries, torch.device("cpu"))
            inside = torch.ones_like(count[rows, columns]) if mask is None else mask.long()
            assert inside.movedim(span_of, 0)[[0, -1]].any(1).all()
            count[rows, columns] += inside
        assert torch.equal(count, wanted.long())


def test_rows_without_a_key_are_zero_and_do_not_affect_gradients():
    keep = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    keep[1, ..., 3:] = False  # frames 6 to 8 of the second clip see none of their window
    got = with_gradients(lambda *t: sparse_attention(*t, 2, block=3, keep=keep), inputs(9, 9))
    assert torch.equal(got[0][1, :, 6:], torch.zeros(3, 3, 4, dtype=torch.float64))
    assert torch.equal(got[1][1, :, 6:], torch.zeros(3, 3, 4, dtype=torch.float64))
    assert all(tensor.isfinite().all() for tensor in got)
    assert got[0][1, :, :3].abs().min() > 0


def test_global_frames_require_whole_clips():
    with pytest.raises(ValueError, match="use global_frames=0"):
        sparse_attention(*inputs(2, 5), window=2, global_frames=1)


def block(**changes):
    torch.manual_seed(0)
    attention = TemporalAttention(
        16, 4, **{"kind": "sparse", "window": 3, "global_frames": 0, "causal": True, **changes}
    )
    torch.nn.init.normal_(attention.project.weight, std=0.3)
    return attention.double()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_stream_in_chunks_of_any_size_equals_one_pass(sizes):
    attention, x_BTE = block(), torch.randn(2, sum(sizes), 16, dtype=torch.float64)
    keys = values = torch.zeros(2, 4, 0, 4, dtype=torch.float64)
    parts = []
    for x in x_BTE.split(sizes, 1):
        q, k, v = attention.qkv(x)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        parts.append(attention.finish(x, attention.attend(q, keys, values)))
        keys, values = keys[:, :, -attention.window :], values[:, :, -attention.window :]
    torch.testing.assert_close(torch.cat(parts, 1), attention(x_BTE))


def test_cache_that_is_not_full_yet_is_masked():
    attention, x_BTE = block(), torch.randn(2, 1, 16, dtype=torch.float64)
    q, k, v = attention.qkv(x_BTE)
    rest = torch.full((2, 4, 3, 4), 7.0, dtype=torch.float64)
    keep = torch.tensor([False, False, False, True])
    out = attention.attend(q, torch.cat([rest, k], 2), torch.cat([rest, v], 2), keep[None, None, None])
    torch.testing.assert_close(attention.finish(x_BTE, out), attention(x_BTE))


def test_causal_frames_do_not_depend_on_later_ones():
    x_BTE = torch.randn(1, 9, 16, dtype=torch.float64, requires_grad=True)
    block()(x_BTE)[:, 5].sum().backward()
    seen = x_BTE.grad[0].abs().amax(-1) > 0
    assert seen.tolist() == [False, False, True, True, True, True, False, False, False]


def test_wide_window_equals_dense_attention():
    x_BTE, keep_BT = torch.randn(2, 7, 16, dtype=torch.float64), torch.arange(7) < torch.tensor([[7], [4]])
    sparse, dense = block(window=6, causal=False), block(kind="dense", causal=False)
    torch.testing.assert_close(sparse(x_BTE, keep_BT), dense(x_BTE, keep_BT))


@pytest.mark.parametrize(
    ("changes", "cure"), [({"kind": "dense"}, "use kind 'sparse'"), ({"global_frames": 1}, "use 0 with causal")]
)
def test_causal_options_that_use_later_frames_are_refused(changes, cure):
    with pytest.raises(ValueError, match=cure):
        block(**changes)


def test_works_on_fake_tensors():
    with FakeTensorMode():
        q, k, v = (torch.randn(2, 3, 70, 4, requires_grad=True) for _ in range(3))
        sparse_attention(q, k, v, 2, 1).sum().backward()
        assert v.grad.shape == v.shape
