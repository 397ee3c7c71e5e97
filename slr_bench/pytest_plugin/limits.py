"""How many more bytes are still no regression: ``peak_tensor_bytes:0%``, ``rss_over_start_bytes:10MiB``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from slr_bench.compare.rules import Limit, parse_limit
from slr_bench.errors import ConfigError
from slr_bench.units import plain

EXAMPLE = "write it like peak_tensor_bytes:0% or peak_tensor_bytes:1MiB"


@dataclass(frozen=True)
class ByteLimit:
    """One metric and its limit. Judged as it is, noisy or not: a session has one measurement a benchmark."""

    metric: str
    limit: Limit
    text: str
    """As it was written, without the metric."""

    def allows(self, base: float, head: float) -> bool:
        """Whether ``head`` has not grown over ``base`` by more. At ``0%`` one byte more is too much."""
        growth = Fraction(head) - Fraction(base)
        if self.limit.kind == "percent":
            return 100 * growth <= self.limit.amount * Fraction(base)
        return growth <= self.limit.amount


def parse_byte_limit(text: str) -> ByteLimit:
    """``'peak_tensor_bytes:0%'`` or ``'peak_tensor_bytes:1MiB'``, by the grammar of ``slr-bench gate``.

    Raises:
        ConfigError: no metric, or a limit that is neither a percentage nor a size with its unit.
    """
    metric, colon, amount = (part.strip() for part in text.partition(":"))
    where = repr(plain(text))
    if not colon or not metric.isidentifier():
        raise ConfigError(f"{where} is not METRIC:LIMIT; {EXAMPLE}")
    limit = parse_limit(amount, where)
    if limit.kind not in ("percent", "bytes"):
        raise ConfigError(f"{where}: the limit of bytes is a percentage or a size, not in {limit.kind}; {EXAMPLE}")
    return ByteLimit(metric, limit, amount)
