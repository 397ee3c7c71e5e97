"""A limit on the frames that the loader owns at once, counted over all its processes."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.context import BaseContext

from slr_bench.errors import ConfigError

_POLL_S = 0.005
_NEXT_TICKET, _OWNED, _HIGH_WATER, _CANCELLED = range(4)


class FrameBudget:
    """Permits for decoded frames, from before the first one is decoded until the step takes the batch.

    Permits are taken for a whole batch at once, in the order of the tickets. Batch k therefore never waits for a permit
    that a later batch holds, and the loader cannot deadlock, however many processes share the budget. Waiting polls,
    so a process that is killed while it waits leaves no lock that hangs the others.
    """

    def __init__(self, limit_frames: int | None, largest_batch_frames: int, context: BaseContext) -> None:
        """``limit_frames``: None counts without a limit.

        Raises:
            ConfigError: a whole batch is above the limit.
        """
        if limit_frames is not None and largest_batch_frames > limit_frames:
            raise ConfigError(
                f"a batch holds {largest_batch_frames} frames, above data.max_frames_in_memory={limit_frames}; "
                "lower training.batch_size or raise the limit"
            )
        self._limit = limit_frames
        self._state = context.Array("q", 4)

    @property
    def owned_frames(self) -> int:
        """Frames owned now."""
        return self._state[_OWNED]

    @property
    def high_water_frames(self) -> int:
        """Most frames ever owned at once."""
        return self._state[_HIGH_WATER]

    def begin(self) -> None:
        """Start an epoch: tickets count from 0 again. All batches of the previous epoch have been taken."""
        assert self.owned_frames == 0
        self._state[_NEXT_TICKET] = 0

    def cancel(self) -> None:
        """End all waiting for good: no batch is wanted any more."""
        # Past the lock: whoever held it may have been killed.
        self._state.get_obj()[_CANCELLED] = 1

    def acquire(self, ticket: int, frames: int) -> bool:
        """Wait for permits for batch ``ticket``; False if the epoch was given up or the parent process is gone."""
        while not self._state.get_obj()[_CANCELLED]:
            if self.try_acquire(ticket, frames):
                return True
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                break
            time.sleep(_POLL_S)
        return False

    def try_acquire(self, ticket: int, frames: int) -> bool:
        """Take permits for batch ``ticket`` if it is its turn and they are free."""
        with self._state.get_lock():
            state = self._state.get_obj()
            owned = state[_OWNED] + frames
            if state[_NEXT_TICKET] != ticket or (self._limit is not None and owned > self._limit):
                return False
            state[_NEXT_TICKET] += 1
            state[_OWNED] = owned
            state[_HIGH_WATER] = max(state[_HIGH_WATER], owned)
            return True

    def release(self, frames: int) -> None:
        """Give back the permits of a batch that the step has taken, or that nothing will take."""
        with self._state.get_lock():
            assert frames <= self._state.get_obj()[_OWNED]
            self._state.get_obj()[_OWNED] -= frames
