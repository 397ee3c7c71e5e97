"""Which way a metric gets worse."""

from __future__ import annotations


def is_bigger_better(metric: str, unit: str) -> bool:
    """Whether more of it is better: speeds and accuracies; of everything else (bytes, times, energy) less is."""
    return unit == "1/s" or metric.startswith("accuracy_")
