"""What a stream remembers: the last few frames of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


class Recent:
    """The last ``length`` frames along ``dim``, zeros before there are so many.

    They lie in one tensor for as long as the stream runs: memory does not depend on how many frames have passed.
    """

    def __init__(self, length: int, dim: int) -> None:
        self.length = length
        self.dim = dim
        self.frames: Tensor | None = None
        """None before the first frame, whose shape and type tell what to allocate."""

    def followed_by(self, new: Tensor) -> Tensor:
        """The remembered frames with ``new`` behind them; of these the last ``length`` are remembered from now on."""
        if self.frames is None:
            shape = list(new.shape)
            shape[self.dim] = self.length
            self.frames = new.new_zeros(shape)
        frames = torch.cat([self.frames, new], self.dim)
        self.frames.copy_(frames.narrow(self.dim, new.shape[self.dim], self.length))
        return frames

    def forget(self) -> None:
        """As before the first frame, in the same storage."""
        if self.frames is not None:
            self.frames.zero_()
