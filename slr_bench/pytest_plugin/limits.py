"""How much a metric may grow: ``peak_tensor_bytes:0%``, ``rss_over_start_bytes:10MiB``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slr_bench.units import parse_bytes

_FORM = re.compile(r"^(?P<metric>[A-Za-z_]\w*):(?P<growth>.+)$")
_PERCENT = re.compile(r"^(?P<number>\d+(\.\d+)?)\s*%$")


@dataclass(frozen=True)
class Limit:
    """The growth that is still no regression, in percent of the base or in bytes."""

    metric: str
    percent: float | None
    growth_bytes: int | None
    text: str
    """As it was written, without the metric."""

    def allows(self, base: float, head: float) -> bool:
        """Whether ``head`` has not grown over ``base`` by more. At ``0%`` one byte more is too much."""
        if self.percent is not None:
            return (head - base) * 100 <= base * self.percent
        assert self.growth_bytes is not None
        return head - base <= self.growth_bytes


def parse_limit(text: str) -> Limit:
    """``'peak_tensor_bytes:0%'`` or ``'peak_tensor_bytes:1MiB'``.

    Raises:
        ValueError: no metric, or a growth that is neither a percentage nor a size with its unit.
    """
    form = _FORM.match(text.strip())
    if form is None:
        raise ValueError(f"{text!r} is not METRIC:LIMIT; write it like peak_tensor_bytes:0% or peak_tensor_bytes:1MiB")
    metric, growth = form["metric"], form["growth"].strip()
    percent = _PERCENT.match(growth)
    if percent is not None:
        return Limit(metric, float(percent["number"]), None, growth)
    try:
        return Limit(metric, None, parse_bytes(growth), growth)
    except ValueError:
        raise ValueError(
            f"{text!r}: the limit {growth!r} is neither a percentage nor a size; write it like 0%, 2.5% or 1MiB"
        ) from None
