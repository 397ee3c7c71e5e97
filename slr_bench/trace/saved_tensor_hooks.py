"""What autograd saves for backward, as it is saved: by the default hooks, and by whoever pushes hooks of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch.autograd.graph import saved_tensors_hooks

from slr_bench.live_bytes import tensors_in

Note = Callable[[torch.Tensor], None]


class SavedTensors:
    """Calls ``note`` with every tensor that is kept for backward while open.

    Only the innermost pair of hooks is asked by autograd. So what others push meanwhile (checkpoint's recomputation,
    ``save_on_cpu``) is wrapped: whatever tensors their ``pack`` returns are what is kept. Checkpoint's forward returns
    none.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self._base = saved_tensors_hooks(self._packed, lambda tensor: tensor)

    def __enter__(self) -> Self:
        self._base.__enter__()
        self._plain_enter = saved_tensors_hooks.__enter__
        saved_tensors_hooks.__enter__ = self._entering()  # type: ignore[method-assign]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        saved_tensors_hooks.__enter__ = self._plain_enter  # type: ignore[method-assign]
        self._base.__exit__()

    def _packed(self, tensor: torch.Tensor) -> torch.Tensor:
        self._note(tensor)
        return tensor

    def _entering(self) -> Callable[[saved_tensors_hooks], None]:
        note = self._note

        def entering(hooks: saved_tensors_hooks) -> None:
            plain = hooks.pack_hook

            @functools.wraps(plain)  # checkpoint reads attributes of its own hooks
            def pack(tensor: torch.Tensor) -> Any:
                try:
                    kept = plain(tensor)
                except Exception:  # checkpoint stops a recomputation so, having kept the last tensor it needs
                    note(tensor)
                    raise
                for inner in tensors_in(kept):
                    note(inner)
                return kept

            torch._C._autograd._push_saved_tensors_default_hooks(pack, hooks.unpack_hook)

        return entering
