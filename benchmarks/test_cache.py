"""The cache of decoded clips: an epoch that fills it, and one that reads from it.

64 clips of 16 frames of 64 x 64, uint8: 192 KiB each.
"""

from __future__ import annotations

from typing import Any

import torch

from models.data.loading.feature_cache import ClipCache

CLIPS, SHAPE_TCHW = 64, (16, 3, 64, 64)
CLIP_BYTES = 16 * 3 * 64 * 64


def filled(clips: int, room_for: int) -> ClipCache:
    """Return a cache after an attempt to store ``clips`` clips, each a view of a batch, as those of a loader are."""
    cache = ClipCache(room_for * CLIP_BYTES)
    for first in range(0, clips, 8):
        batch_BTCHW = torch.zeros(8, *SHAPE_TCHW, dtype=torch.uint8)
        for number, clip_TCHW in enumerate(batch_BTCHW, first):
            if cache.has_room(CLIP_BYTES):
                cache.put(number, clip_TCHW)
    return cache


def test_first_epoch(memory_benchmark: Any) -> None:
    """The peak is at most the limit of the cache plus the batch that is being stored."""
    cache = memory_benchmark.pedantic(filled, args=(CLIPS, CLIPS // 2), rounds=5, warmup_rounds=1)
    assert cache.stored_bytes == CLIPS // 2 * CLIP_BYTES
    peak_bytes = memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"]
    assert cache.stored_bytes < peak_bytes <= cache.stored_bytes + 2 * 8 * CLIP_BYTES


def test_later_epoch(memory_benchmark: Any) -> None:
    """Stored clips are returned without a copy: a clip is copied once, into the batch."""
    cache = filled(CLIPS, CLIPS)

    def epoch() -> None:
        for first in range(0, CLIPS, 8):
            torch.stack([clip for number in range(first, first + 8) if (clip := cache.get(number)) is not None])

    memory_benchmark.pedantic(epoch, rounds=10, warmup_rounds=1)
    peak_bytes = memory_benchmark.extra_info["metrics"]["peak_tensor_bytes"]["value"]
    assert peak_bytes == cache.stored_bytes + 8 * CLIP_BYTES
