"""Batches of features of a frozen backbone. A clip whose features are stored is neither decoded nor run through it.

B clip, T frame, C channel, H height, W width, D feature
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from models.config import Settings
from models.data.loading.batches import Batch, Ticket
from models.data.loading.feature_cache import ClipCache
from models.data.loading.loader_pool import ClipLoader
from models.data.manifest import ClipInfo
from slr_bench.units import MIB


class FeatureLoader(ClipLoader):
    """A ``ClipLoader`` whose batches hold features (B, T, D) on the CPU in place of frames.

    Features may use the whole cache limit: T x D numbers per clip are a hundredth of its frames. Clips without room
    are decoded and extracted in every epoch. Each clip is extracted alone, so a hit equals recomputation to the bit,
    whatever batch it was first in. Tickets must not augment: such features would differ from epoch to epoch.
    """

    def __init__(
        self,
        clips: tuple[ClipInfo, ...],
        settings: Settings,
        extract: Callable[[Tensor], Tensor],
        version: Callable[[], str],
    ) -> None:
        """``extract`` turns clips into features on the CPU. ``version`` names its weights, once per epoch."""
        super().__init__(clips, settings)
        self._extract, self._version = extract, version
        self._features = ClipCache(settings.model.cache_size_limit_mb * MIB)
        self._kept_version = ""

    def epoch(self, tickets: Sequence[Ticket]) -> Iterator[Batch]:
        """Yield batches like ``ClipLoader.epoch``. Only clips without stored features reach the loader processes."""
        assert not any(ticket.augment for ticket in tickets)
        version = self._version()
        if version != self._kept_version:
            self._features.clear()
        self._kept_version = version
        lacking = [[i for i in ticket.clips if self._key(i, version) not in self._features] for ticket in tickets]
        wanted = [replace(ticket, clips=tuple(clips)) for ticket, clips in zip(tickets, lacking, strict=True) if clips]
        wanted = [replace(ticket, number=number) for number, ticket in enumerate(wanted)]
        with closing(super().epoch(wanted)) as decoded:
            for ticket, clips in zip(tickets, lacking, strict=True):
                fresh = self._extracted(next(decoded), clips, version) if clips else {}
                yield self._assembled(ticket, fresh, version)

    def close(self) -> None:
        """End the loader's processes. Features stay, unless the cache has been switched off."""
        super().close()
        if not self._settings.model.enable_feature_caching:
            self._features.clear()

    def _extracted(self, batch: Batch, clips: Sequence[int], version: str) -> dict[int, Tensor]:
        found = {}
        for place, index in enumerate(clips):
            found[index] = features_TD = self._extract(batch.clips_BTCHW[place : place + 1])[0]
            if self._settings.model.enable_feature_caching and self._features.has_room(features_TD.nbytes):
                self._features.put(self._key(index, version), features_TD)
        return found

    def _assembled(self, ticket: Ticket, fresh: dict[int, Tensor], version: str) -> Batch:
        rows = []
        for index in ticket.clips:
            features_TD = fresh[index] if index in fresh else self._features.get(self._key(index, version))
            assert features_TD is not None, "nothing is dropped while an epoch runs"
            rows.append(features_TD)
        clips = [self.clips[index] for index in ticket.clips]
        return Batch(
            torch.stack(rows),
            torch.tensor([clip.label for clip in clips]),
            tuple(clip.video_id for clip in clips),
            tuple(self.padded.get(clip.video_id, 0) for clip in clips),
        )

    def _key(self, index: int, version: str) -> Hashable:
        settings = self._settings
        return self.clips[index].video_id, settings.model.num_frames, settings.data.frame_size, version
