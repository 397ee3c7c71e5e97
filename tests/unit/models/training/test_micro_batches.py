"""Sizes that shrink and grow, batches split into micro-batches, and the state after an out-of-memory error."""

import random
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyBatch, TinyLoader, TinyNet

from models.training.loaders import SplitBatches
from models.training.micro_batches import MicroBatchSize, StateBeforeStep
from models.training.out_of_memory import OutOfMemory, run_or_catch_oom


def test_sizes_halve_grow_and_wait_longer_after_each_failure():
    """Only 4 clips fit. 8 is tried after 3 good steps, after 6 more, then after 12; steps without room do not count."""
    sizes, micro = [], MicroBatchSize(8, grow_after_steps=3)
    for step in range(24):
        sizes.append(micro.size)
        if micro.size > 4:
            assert micro.shrink()
            sizes.append(micro.size)
        micro.step_done(room=step != 4)
    #        step 0 .. 2             3             4, 5 .. 9 then 6 good          10              12 good
    assert sizes == [8, 4, 4, 4, 8, 4] + 7 * [4] + [8, 4] + 11 * [4] + [8, 4]


def test_a_single_clip_cannot_be_halved():
    micro = MicroBatchSize(3)
    assert [micro.shrink(), micro.size] == [True, 2]
    assert [micro.shrink(), micro.size] == [True, 1]
    assert [micro.shrink(), micro.size] == [False, 1]


@given(st.integers(1, 100), st.lists(st.booleans(), max_size=60))
def test_sizes_are_halvings_and_states_round_trip(largest, shrinks):
    ladder = [largest]
    while ladder[-1] > 1:
        ladder.append((ladder[-1] + 1) // 2)
    micro = MicroBatchSize(largest, grow_after_steps=2)
    for shrink in shrinks:
        before = ladder.index(micro.size)
        moved = micro.shrink() if shrink else micro.step_done(room=True)
        assert ladder.index(micro.size) == before + (1 if shrink else -1) * moved
        again = MicroBatchSize(largest, grow_after_steps=2, **micro.state())
        assert again == micro


def test_size_never_grows_without_room():
    micro = MicroBatchSize(4, grow_after_steps=1)
    micro.shrink()
    assert not any(micro.step_done(room=False) for _ in range(100))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=5), st.integers(1, 10))
def test_pieces_are_the_batches_in_order_evenly_split(sizes, limit):
    first, batches = 0, []
    for size in sizes:
        labels_B = torch.arange(first, first + size)
        batches.append(TinyBatch(labels_B.view(-1, 1, 1, 1, 1), labels_B, tuple(f"v{n}" for n in labels_B.tolist())))
        first += size
    pieces = list(SplitBatches(batches, limit))
    assert [n for piece in pieces for n in piece.labels_B.tolist()] == list(range(first))
    assert all(torch.equal(piece.clips_BTCHW.flatten(), piece.labels_B) for piece in pieces)
    assert [name for piece in pieces for name in piece.video_ids] == [f"v{n}" for n in range(first)]
    assert max((len(piece.labels_B) for piece in pieces), default=0) <= limit
    assert len(pieces) == sum(-(-size // limit) for size in sizes)
    for size in sizes:
        own, pieces = pieces[: -(-size // limit)], pieces[-(-size // limit) :]
        lengths = [len(piece.labels_B) for piece in own]
        assert max(lengths) - min(lengths) <= 1


def test_batch_is_released_with_its_last_piece():
    alive, seen = [], []

    def batches():
        for batch in TinyLoader(12, 4):
            alive.append(sum(ref() is not None for ref in seen))
            seen.append(weakref.ref(batch.clips_BTCHW.untyped_storage()))
            hand_over = [batch]
            del batch
            yield hand_over.pop()

    for piece in SplitBatches(batches(), 2):
        del piece
    assert alive == [0, 0, 0]


def cpu_allocation():
    return torch.empty(2**50, dtype=torch.uint8)


def test_nothing_of_a_failed_attempt_stays_alive():
    seen = []

    def work():
        tensor = torch.zeros(1000)
        seen.append(weakref.ref(tensor))
        loop = [tensor]
        loop.append(loop)
        return cpu_allocation()

    assert isinstance(run_or_catch_oom(work, lambda: True), OutOfMemory)
    assert seen[0]() is None


def test_results_are_returned_and_other_errors_raised():
    assert run_or_catch_oom(lambda: 7, lambda: False) == 7
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run_or_catch_oom(cpu_allocation, lambda: False)
    with pytest.raises(ZeroDivisionError):
        run_or_catch_oom(lambda: 1 / 0, lambda: True)
    with pytest.raises(RuntimeError, match="size"):
        run_or_catch_oom(lambda: torch.zeros(2) @ torch.zeros(3), lambda: True)


def test_state_before_a_step_restores_statistics_and_random_numbers():
    model = TinyNet()
    before = StateBeforeStep(model)
    expected = (torch.rand(2), random.random())
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.train()
    model(next(iter(TinyLoader(4, 4))).clips_BTCHW)
    assert any(not torch.equal(*pair) for pair in zip(buffers, model.buffers(), strict=True))
    before.restore()
    assert all(torch.equal(*pair) for pair in zip(buffers, model.buffers(), strict=True))
    assert (torch.rand(2), random.random())[1] == expected[1]
    before.restore()
    assert torch.equal(torch.rand(2), expected[0])
