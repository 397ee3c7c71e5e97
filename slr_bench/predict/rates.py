"""The time of a step from its work: rates of a card's data sheet, or rates fitted to measured steps. Imports no torch.

Rates of a data sheet count at the fractions that dense training commonly reaches. Such times rank settings; they are
not seconds that a clock would show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from slr_bench.predict.trace_pool import StepWork
from slr_bench.units import format_seconds

if TYPE_CHECKING:
    import numpy

COMPUTE_SHARE: Final = 0.45
"""Fraction of the data sheet's FLOP rate that products and convolutions reach."""
BANDWIDTH_SHARE: Final = 0.75
"""Fraction of the data sheet's memory bandwidth that a step reaches."""
LAUNCH_S: Final = 6e-6
"""Seconds per operator for launch and dispatch, where the host is the bottleneck."""
_TRUST: Final = 0.03
"""Weight that keeps a fitted factor near 1, because a few steps cannot separate four rates."""


@dataclass(frozen=True)
class Rates:
    """Seconds per unit of work on one card."""

    fp32_flop_s: float
    tf32_flop_s: float
    half_flop_s: float
    byte_s: float
    operator_s: float
    source: str
    """The origin of the rates, in words for the reader of a plan."""
    sheet: str | None = None
    """Short name of the card whose data sheet gave the rates; None if they were measured."""

    def step_seconds(self, work: StepWork) -> float:
        """Estimate the time of one optimizer step."""
        import numpy  # a prediction without times does not wait for it

        return float(numpy.dot(work, self._per_unit))

    def describe_seconds(self, seconds: float) -> str:
        """Return a time in words: ``about 1.2 s per step (data sheet of an RTX 3060)``."""
        if self.sheet is None:
            return f"{format_seconds(seconds)} per step"
        article = "an" if self.sheet[:1] in "AHLR" else "a"  # the letter is spoken: an RTX 3060, a GTX 1660
        return f"{_about(seconds)} per step (data sheet of {article} {self.sheet})"

    @property
    def _per_unit(self) -> tuple[float, ...]:
        return self.fp32_flop_s, self.tf32_flop_s, self.half_flop_s, self.byte_s, self.operator_s


def _about(seconds: float) -> str:
    """Return ``about 1.3 s``: an estimate is shown with two digits."""
    if seconds >= 60:
        return f"about {format_seconds(seconds)}"
    return f"about {seconds:.2g} s" if seconds >= 1 else f"about {float(f'{seconds * 1e3:.2g}'):g} ms"


def data_sheet_rates(
    tflops_fp32: float, tflops_half: float, bandwidth_gb_s: float, title: str, has_tf32: bool
) -> Rates:
    """Derive rates from a data sheet (10^12 FLOP/s, 10^9 B/s). The rate of tf32 is half that of half precision."""
    return Rates(
        1 / (tflops_fp32 * 1e12 * COMPUTE_SHARE),
        1 / ((tflops_half / 2 if has_tf32 else tflops_fp32) * 1e12 * COMPUTE_SHARE),
        1 / (tflops_half * 1e12 * COMPUTE_SHARE),
        1 / (bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE),
        LAUNCH_S,
        f"estimated from the data sheet of {title}, not measured",
        re.sub(r"^(NVIDIA )?(GeForce )?", "", title),
    )


def calibrate_rates(rates: Rates, steps: Sequence[StepWork], seconds: Sequence[float]) -> Rates:
    """Fit the rates to measured steps. No rate falls below zero; a rate that no step exercises keeps its value.

    A single step scales all rates alike. Several steps are fitted in relative terms, with factors near one.

    Raises:
        ValueError: there is no step, or a time is not positive.
    """
    import numpy

    if not steps or len(steps) != len(seconds) or min(seconds) <= 0:
        raise ValueError("give one positive time for each of at least one step")
    estimated = numpy.array([rates.step_seconds(work) for work in steps])
    measured = numpy.array(seconds)
    scale = float(numpy.exp(numpy.mean(numpy.log(measured / estimated))))
    scaled = numpy.array(rates._per_unit) * scale
    if len(steps) > 1:
        shares = numpy.array(steps) * scaled / measured[:, None]
        scaled = scaled * _factors_near_one(shares)
    fp32, tf32, half, byte, operator = map(float, scaled)
    return Rates(fp32, tf32, half, byte, operator, f"calibrated by {len(seconds)} measured steps")


def _factors_near_one(shares: numpy.ndarray) -> numpy.ndarray:
    """Find factors >= 0, near 1, with ``shares @ factors`` near 1 in every row, by projected gradient descent."""
    import numpy

    factors = numpy.ones(shares.shape[1])
    step = 1 / (numpy.linalg.norm(shares, 2) ** 2 + _TRUST)
    for _ in range(2000):
        slope = shares.T @ (shares @ factors - 1) + _TRUST * (factors - 1)
        factors = numpy.maximum(0, factors - step * slope)
    return factors
