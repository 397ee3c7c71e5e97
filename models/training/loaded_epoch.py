"""What the trainer asks of a loader, and one epoch of it that can be taken up again at any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Protocol

from models.training.evaluation import ClipBatch


class EpochLoader(Protocol):
    """A split: ``len(indices)`` clips in batches; the order of epoch n is the same every time."""

    @property
    def indices(self) -> Sequence[int]: ...

    def set_epoch(self, epoch: int) -> None: ...

    def batches(self, first: int = 0) -> Iterator[ClipBatch]:
        """The epoch from batch number ``first`` on; draws no random number of the model's."""
        ...

    def shed(self, what: Literal["cache", "prefetch", "workers"]) -> str | None:
        """Give memory back and say what; None if there is nothing to give. It ends the running :meth:`batches`."""
        ...


class LoadedEpoch:
    """The batches of one epoch as the loader makes them, a step's window at a time.

    A step that has to be taken again loads its clips again: nothing holds a whole window, and no clip is lost or seen
    twice, since the order depends on the epoch alone.
    """

    def __init__(self, loader: EpochLoader, accumulation: int, epoch: int, step: int) -> None:
        self.clips = len(loader.indices)
        self._loader, self._accumulation = loader, accumulation
        loader.set_epoch(epoch)
        self.restart(step)

    def restart(self, step: int) -> None:
        """Load from optimizer step ``step`` of the epoch on."""
        self._batches = self._loader.batches(step * self._accumulation)

    def window(self) -> Iterator[ClipBatch]:
        """The next step's batches."""
        return islice(self._batches, self._accumulation)
