import multiprocessing
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.loading.frame_budget import FrameBudget
from slr_bench.errors import ConfigError

FORK = multiprocessing.get_context("fork")


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 8), min_size=1, max_size=20), st.integers(8, 20), st.integers(1, 4))
def test_any_schedule_keeps_the_limit_and_gets_through(data, batches, limit, workers):
    """Workers have tickets in turn, as a DataLoader deals them; the consumer takes batches in order."""
    budget = FrameBudget(limit, 8, FORK)
    queues = [list(range(worker, len(batches), workers)) for worker in range(workers)]
    made, blocked, taken, high_water = set(), set(), 0, 0
    while taken < len(batches):
        able = [worker for worker in range(workers) if queues[worker] and worker not in blocked]
        actor = data.draw(st.sampled_from([*able, "consumer"] if taken in made else able))
        if actor == "consumer":
            made.remove(taken)
            budget.release(batches[taken])
            taken += 1
            blocked.clear()
        elif budget.try_acquire(queues[actor][0], batches[queues[actor][0]]):
            made.add(queues[actor].pop(0))
            blocked.clear()
        else:
            assert queues[actor][0] > taken, "the batch that the consumer waits for must get its permits"
            blocked.add(actor)
        high_water = max(high_water, sum(batches[number] for number in made))
        assert budget.owned_frames == sum(batches[number] for number in made) <= limit
    assert budget.owned_frames == 0
    assert budget.high_water_frames == high_water <= limit


def test_permits_go_in_the_order_of_the_tickets():
    budget = FrameBudget(20, 8, FORK)
    assert not budget.try_acquire(1, 8)
    assert budget.try_acquire(0, 8)
    assert budget.try_acquire(1, 8)
    assert not budget.try_acquire(2, 8)
    budget.release(8)
    assert budget.try_acquire(2, 8)
    assert budget.high_water_frames == 16


def test_the_next_epoch_counts_tickets_from_0():
    budget = FrameBudget(8, 8, FORK)
    assert budget.try_acquire(0, 8)
    budget.release(8)
    budget.begin()
    assert budget.try_acquire(0, 8)


def test_no_limit_still_counts():
    budget = FrameBudget(None, 10_000, FORK)
    for ticket in range(3):
        assert budget.try_acquire(ticket, 10_000)
    assert budget.high_water_frames == 30_000


def test_a_batch_above_the_limit_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match=r"128 frames, above data.max_frames_in_memory=100; lower training.batch"):
        FrameBudget(100, 128, FORK)


def test_cancel_ends_waiting_even_if_the_lock_is_never_given_back():
    budget = FrameBudget(8, 8, FORK)
    assert budget.try_acquire(0, 8)
    budget._state.get_lock().acquire()
    budget.cancel()
    assert budget.acquire(1, 8) is False


def _wait_for_permits(budget, pipe):
    pipe.send("waiting")
    pipe.send(budget.acquire(1, 8))


def _start_one_and_die(budget, inner, outer):
    FORK.Process(target=_wait_for_permits, args=(budget, inner)).start()
    outer.recv()
    os._exit(0)


def test_waiting_ends_when_the_parent_is_gone():
    budget = FrameBudget(8, 8, FORK)
    assert budget.try_acquire(0, 8)
    ours, inner = FORK.Pipe()
    control, outer = FORK.Pipe()
    parent = FORK.Process(target=_start_one_and_die, args=(budget, inner, outer))
    parent.start()
    assert ours.recv() == "waiting"
    control.send("die")
    parent.join()
    assert ours.poll(20), "the waiting process outlived its parent"
    assert ours.recv() is False
