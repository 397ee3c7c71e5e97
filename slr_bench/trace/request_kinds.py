"""What a traced step asks an allocator for, one request a list of three numbers. No torch."""

from __future__ import annotations

from collections.abc import Sequence

Requests = Sequence[Sequence[int]]

ALLOCATE, FREE, TRANSIENT, LIBRARY, STEADY, UNMODELLED = range(6)
"""``[ALLOCATE, id, bytes]``, ``[FREE, id, 0]``, ``[TRANSIENT, expected bytes, most bytes]``: lives within an operator;
``[LIBRARY, thread, 0]``: a product on thread 0 (forward) or 1 (backward); ``[STEADY, 0, 0]``: the last step begins;
``[UNMODELLED, expected bytes, most bytes]``: as TRANSIENT, of an operator that no rule knows."""
