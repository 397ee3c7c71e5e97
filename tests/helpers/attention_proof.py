"""The reference for every attention: torch's scaled_dot_product_attention in fp64 under an explicit mask."""

import torch
from torch.nn import functional as F


def inputs(queries, keys, seed=0):
    """q, k, v of 2 clips, 3 heads, 4 features; scores spread enough for weights from 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).mul(3) for shape in shapes]


def reference(keep=None, bias=None):
    """SDPA as a function of q, k, v; rows that may attend to nothing are zero."""

    def attention(q, k, v):
        shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        allowed = torch.ones(shape, dtype=torch.bool) if keep is None else keep.expand(shape)
        some = allowed.any(-1, keepdim=True)
        mask = torch.zeros(shape, dtype=q.dtype).masked_fill(~(allowed | ~some), -torch.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if bias is None else mask + bias)
        return torch.where(some, out, 0.0)

    return attention


def window_mask(queries, keys, window, global_frames, causal):
    """The rule of sparse attention, pair by pair. The queries are the last frames of the keys."""
    keep = torch.zeros(queries, keys, dtype=torch.bool)
    for row in range(queries):
        frame = row + keys - queries
        for key in range(keys):
            near = 0 <= frame - key <= window if causal else abs(frame - key) <= window
            keep[row, key] = near or frame < global_frames or key < global_frames
    return keep


def with_gradients(attention, tensors):
    """The output, and the gradient of each tensor under a fixed gradient of the output."""
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = attention(*tensors)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    return [out.detach(), *(tensor.grad for tensor in tensors)]


def assert_same_function(attention, expected, tensors):
    for got, wanted in zip(with_gradients(attention, tensors), with_gradients(expected, tensors), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)
