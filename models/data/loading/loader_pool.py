"""The processes of the loader: started once, with one frame budget, running one epoch at a time."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from models.config import Settings
from models.data.loading.batches import Answer, Batch, BatchDataset, Ticket
from models.data.loading.frame_budget import FrameBudget
from models.data.manifest import ClipInfo
from slr_bench.errors import DataError
from slr_bench.units import MIB

Shed = Literal["cache", "prefetch", "workers"]


class ClipLoader:
    """One pool of loader processes for all splits: one frame budget, one cache limit. It runs one epoch at a time.

    The pool starts with the first epoch and stays, its caches with it. An epoch that is left early ends the pool; the
    next one starts another.
    """

    def __init__(self, clips: tuple[ClipInfo, ...], settings: Settings) -> None:
        self.clips, self._settings = clips, settings
        self.padded: dict[str, int] = {}
        """Clips shorter than T that have been loaded: id -> frames that repeat the last one."""
        self.concealed: dict[str, int] = {}
        """Clips with damaged frames that have been loaded: id to frames that the decoder replaced by guesses."""
        self._pool: _Pool | None = None

    def epoch(self, tickets: Sequence[Ticket]) -> Iterator[Batch]:
        """Yield the batch of each ticket, in order. A batch leaves the frame budget when it is handed out.

        Raises:
            DataError: a clip cannot be read, or a loader process died.
            RuntimeError: another epoch was begun, or the loader closed, before this one was through.
        """
        if self._pool and self._pool.batches_left:
            self.close()
        self._pool = pool = self._pool or _Pool(self.clips, self._settings)
        try:
            pool.begin(tickets)
            for _ in tickets:
                if pool is not self._pool:
                    raise RuntimeError("this epoch ended when another one began or the loader was closed")
                yield self._noted(pool.take())  # given no name here: the batch is the step's alone
        finally:
            if pool is self._pool and pool.batches_left:
                self.close()

    def _noted(self, batch: Batch) -> Batch:
        self.padded.update(
            {name: padded for name, padded in zip(batch.video_ids, batch.padded_B, strict=True) if padded}
        )
        if batch.concealed_B:
            named = zip(batch.video_ids, batch.concealed_B, strict=True)
            self.concealed.update({name: frames for name, frames in named if frames})
        return batch

    def close(self) -> None:
        """End the loader's processes and drop its caches. An open epoch is over."""
        if self._pool:
            self._pool.close()
        self._pool = None

    def shed(self, what: Shed) -> str | None:
        """Give memory back for good: drop the cache, prefetch one batch, or halve the processes; says what was done.

        None where nothing is left to give. Batches stay the same. The pool ends, and with it an open epoch; the next
        one starts with what is left.
        """
        section, changes, done = _less(self._settings, what)
        if not changes:
            return None
        changed = getattr(self._settings, section).model_copy(update=changes)
        self._settings = self._settings.model_copy(update={section: changed})
        self.close()
        return done

    @property
    def cache_bytes(self) -> int:
        """The most that the cache can hold: its limit, or all clips if they are smaller; 0 without a cache."""
        model = self._settings.model
        everything = len(self.clips) * self._settings.cached_clip_bytes
        return min(model.cache_size_limit_mb * MIB, everything) if model.enable_feature_caching else 0

    @property
    def num_frames(self) -> int:
        """Frames T of a clip."""
        return self._settings.model.num_frames

    @property
    def high_water_frames(self) -> int:
        """Most frames that the running pool has owned at once; 0 without one."""
        return self._pool.budget.high_water_frames if self._pool else 0


class _Pool:
    """The loader processes (none with ``data.num_workers: 0``) and what they share."""

    def __init__(self, clips: tuple[ClipInfo, ...], settings: Settings) -> None:
        data = settings.data
        context = multiprocessing.get_context(_start_method())
        largest_batch = settings.training.batch_size * settings.model.num_frames
        self.budget = FrameBudget(data.max_frames_in_memory, largest_batch, context)
        self.batches_left = 0
        self._tickets: list[Ticket] = []
        processes = {
            "num_workers": data.num_workers,
            "prefetch_factor": data.prefetch_batches,
            "persistent_workers": True,
            "multiprocessing_context": context,
        }
        with _torchs_warnings_left_out():
            self._loader: DataLoader[Answer] | None = DataLoader(
                BatchDataset(clips, settings, self.budget),
                batch_size=None,
                sampler=self._tickets,
                collate_fn=_unchanged,
                worker_init_fn=_ignore_interrupts,
                # Its own: the global one is the model's, and a resumed run must find it as it was.
                generator=torch.Generator(),
                **(processes if data.num_workers else {}),
            )
        self._answers: Iterator[Answer] = iter(())

    def begin(self, tickets: Sequence[Ticket]) -> None:
        """Hand out the tickets of an epoch, after all tickets of the previous one are answered."""
        self._tickets[:] = tickets
        self.batches_left = len(tickets)
        self.budget.begin()
        with _torchs_warnings_left_out():
            self._answers = iter(self._loader)

    def take(self) -> Batch:
        """Return the next batch and free its permits."""
        try:
            answer = next(self._answers)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                f"a loader process died ({str(error).splitlines()[0].strip()}); if memory ran out, lower "
                "data.num_workers, data.prefetch_batches or data.max_frames_in_memory"
            ) from error
        self.budget.release(answer.frames)
        if isinstance(answer.content, DataError):
            raise answer.content
        assert answer.content is not None, "only a closed pool cancels"
        self.batches_left -= 1
        return answer.content

    def close(self) -> None:
        """End the processes: waiting ones at once, decoding ones after their batch."""
        self.budget.cancel()
        self._answers, self._loader = iter(()), None


def _less(settings: Settings, what: Shed) -> tuple[str, dict[str, Any], str]:
    """Section, the keys of it that change (none where there is nothing to give), and the change in words."""
    model, data = settings.model, settings.data
    if what == "cache":
        limit_mib = model.cache_size_limit_mb
        changes = {"enable_feature_caching": False} if model.enable_feature_caching else {}
        return "model", changes, f"the clip cache of up to {limit_mib} MiB is dropped"
    if what == "prefetch":
        changes = {"prefetch_batches": 1} if data.num_workers and data.prefetch_batches > 1 else {}
        return "data", changes, f"batches prefetched by each process: {data.prefetch_batches} -> 1"
    fewer = data.num_workers // 2
    changes = {"num_workers": fewer} if data.num_workers else {}
    return "data", changes, f"loader processes: {data.num_workers} -> {fewer}"


def _start_method() -> str:
    """``fork`` while CUDA is untouched, else ``forkserver``.

    A fork takes 0.02 s and shares the imports of the parent. A fork server imports torch again, which takes seconds and
    some 200 MiB. But a fork after CUDA began inherits its device handles and can hold GPU memory when the
    parent has ended.
    Threads are no reason against fork here: a loader process uses one torch thread, no CUDA, and prints nothing.
    """
    return "forkserver" if torch.cuda.is_initialized() else "fork"


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the parent: it ends the loader when it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(answer: Answer) -> Answer:
    return answer


@contextmanager
def _torchs_warnings_left_out() -> Iterator[None]:
    """Python 3.12's of every fork beside threads (``_start_method`` says why this one is safe), and torch's of more
    processes than cores, which ``build_loaders`` reports once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield
