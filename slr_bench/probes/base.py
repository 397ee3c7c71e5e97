"""What every meter is: enter, work, exit, read."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from slr_bench.record import Metric


class Probe(Protocol):
    """A context manager around the work; ``readings`` is asked after it has closed.

    A probe that cannot read its quantity gives a null metric with the reason; it never raises for that, and one
    failing probe silences no other.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def readings(self) -> dict[str, Metric]:
        """Metric name -> reading."""
        ...
