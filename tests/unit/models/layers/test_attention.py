"""Compares both attentions with torch's scaled_dot_product_attention in fp64, with masks and fully masked rows."""

import pytest
import torch
from attention_proof import assert_same_function, inputs, reference, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models.layers.attention import TemporalAttention, chunked_attention, dense_attention


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 11))
def test_unmasked_equals_torch(queries, keys, chunk_size):
    tensors = inputs(queries, keys)
    assert_same_function(dense_attention, F.scaled_dot_product_attention, tensors)
    assert_same_function(lambda *t: chunked_attention(*t, chunk_size), F.scaled_dot_product_attention, tensors)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 9), st.integers(0, 2**32), st.sampled_from([(2, 1, 1), (1, 3, 0)]))
def test_masked_equals_torch(frames, chunk_size, seed, mask_shape):
    """Key masks (one row per clip) and full T x T masks; every row keeps at least one key."""
    tensors = inputs(frames, frames)
    clips, heads, rows = mask_shape
    keep = torch.rand(clips, heads, rows or frames, frames, generator=torch.Generator().manual_seed(seed)) < 0.5
    keep[..., -1] = True

    assert_same_function(lambda *t: dense_attention(*t, keep), reference(keep), tensors)
    assert_same_function(lambda *t: chunked_attention(*t, chunk_size, keep), reference(keep), tensors)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 8])
def test_fully_masked_rows_are_zero_and_do_not_affect_gradients(chunk_size):
    tensors = inputs(5, 5)
    keep = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    keep[0, :, 2] = False
    keep[1, :, :, :3] = False  # the first chunks of the second clip hold nothing
    chunked = with_gradients(lambda *t: chunked_attention(*t, chunk_size, keep), tensors)
    dense = with_gradients(lambda *t: dense_attention(*t, keep), tensors)
    assert torch.equal(chunked[0][0, :, 2], torch.zeros(3, 4, dtype=torch.float64))
    assert torch.equal(chunked[1][0, :, 2], torch.zeros(3, 4, dtype=torch.float64))
    for got, expected in zip(chunked, dense, strict=True):
        assert expected.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_a_key_with_the_log_of_its_size_as_bias_counts_as_that_many_equal_keys(chunk_size, sizes):
    q, k, v = inputs(3, len(sizes))
    size_S = torch.tensor(sizes)
    bias = size_S.double().log()[None, None, None, :]

    def repeated(q, k, v):
        return F.scaled_dot_product_attention(q, *(t.repeat_interleave(size_S, -2) for t in (k, v)))

    assert_same_function(lambda *t: dense_attention(*t, bias=bias), repeated, [q, k, v])
    assert_same_function(lambda *t: chunked_attention(*t, chunk_size, bias=bias), repeated, [q, k, v])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32))
def test_bias_and_mask_together_equal_torch(chunk_size, seed):
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(2, 1, 1, 6, dtype=torch.float64, generator=generator)
    keep = torch.rand(2, 1, 1, 6, generator=generator) < 0.4
    assert_same_function(lambda *t: dense_attention(*t, keep, bias), reference(keep, bias), inputs(5, 6))
    assert_same_function(lambda *t: chunked_attention(*t, chunk_size, keep, bias), reference(keep, bias), inputs(5, 6))


def test_large_scores_do_not_overflow():
    q, k, v = inputs(6, 6)
    tensors = [q * 100, k * 100, v]
    assert_same_function(lambda *t: chunked_attention(*t, 4), F.scaled_dot_product_attention, tensors)


def saved_bytes(attention, frames):
    q, k, v = (torch.randn(1, 1, frames, 4, requires_grad=True) for _ in range(3))
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = attention(q, k, v)
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_what_is_kept_grows_linearly_when_chunked_and_quadratically_when_dense():
    def chunked(*t):
        return chunked_attention(*t, 8)

    assert saved_bytes(chunked, 64) == 64 * (4 * 4 + 1) * 4  # q, k, v, output and one number a row, fp32
    assert saved_bytes(chunked, 128) == 2 * saved_bytes(chunked, 64)
    assert saved_bytes(dense_attention, 128) > 3 * saved_bytes(dense_attention, 64)


def block(kind, **changes):
    torch.manual_seed(0)
    attention = TemporalAttention(16, 4, kind, chunk_size=3, **changes)
    torch.nn.init.normal_(attention.project.weight, std=0.3)
    return attention


def test_block_starts_as_the_identity():
    x_BTE = torch.randn(2, 5, 16)
    assert torch.equal(TemporalAttention(16, 4, "chunked", 2)(x_BTE), x_BTE)


def test_block_kinds_agree_and_masked_frames_affect_no_output():
    x_BTE = torch.randn(2, 7, 16, dtype=torch.float64)
    keep_BT = torch.arange(7) < torch.tensor([[7], [4]])
    dense, chunked = (block(kind).double()(x_BTE, keep_BT) for kind in ("dense", "chunked"))
    torch.testing.assert_close(dense, chunked)
    alone = block("dense").double()(x_BTE[1:, :4])
    torch.testing.assert_close(chunked[1:, :4], alone)


def test_block_kinds_agree_on_merged_frames():
    x_BTE = torch.randn(2, 7, 16, dtype=torch.float64)
    size_BT = torch.tensor([[1, 1, 2, 1, 3, 1, 1], [1] * 7])
    kinds = {"dense": {}, "chunked": {}, "sparse": {"window": 7}}
    dense, *others = (block(kind, **changes).double()(x_BTE, size_BT=size_BT) for kind, changes in kinds.items())
    plain = block("dense").double()(x_BTE)
    for out in others:
        torch.testing.assert_close(out, dense)
    torch.testing.assert_close(dense[1], plain[1])
    assert not torch.allclose(dense[0], plain[0])


def test_autocast_uses_the_narrow_type_and_stays_close():
    x_BTE = torch.randn(2, 7, 16)
    exact = block("dense")(x_BTE)
    for kind in ("dense", "chunked", "sparse"):
        attention = block(kind, window=7)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = attention(x_BTE)
        out.sum().backward()
        assert attention.to_qkv.weight.grad.dtype == torch.float32
        torch.testing.assert_close(out, exact, rtol=0.02, atol=0.05)


def test_chunked_works_on_fake_tensors():
    with FakeTensorMode():
        q, k, v = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(3))
        chunked_attention(q, k, v, 4).sum().backward()
        assert q.grad.shape == q.shape
