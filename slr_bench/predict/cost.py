"""How long a step takes, from what it computes, moves and launches. No torch.

Without a measurement the rates are a data sheet's, at fractions that dense training commonly reaches; then the figures
rank settings, they do not tell seconds. Measured steps replace the rates (:func:`calibrated`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy

COMPUTE_SHARE: Final = 0.45
"""Of the data sheet's rate that products and convolutions reach."""
BANDWIDTH_SHARE: Final = 0.75
LAUNCH_S: Final = 6e-6
"""An operator, where the host is what waits: launch and dispatch."""
_HALF: Final = ("float16", "bfloat16")
TF32: Final = "tf32"
"""How ``flops_by_dtype`` names fp32 products whose factors may be rounded to 10 bits."""


@dataclass(frozen=True)
class Rates:
    """Seconds a unit of work."""

    fp32_flop_s: float
    tf32_flop_s: float
    half_flop_s: float
    byte_s: float
    operator_s: float
    source: str

    def seconds(self, traced: Mapping[str, Any]) -> float:
        """Of one optimizer step (``run.foreseen_cell``)."""
        return float(numpy.dot(work_of(traced), self._each))

    @property
    def _each(self) -> tuple[float, ...]:
        """In the order of :func:`work_of`."""
        return self.fp32_flop_s, self.tf32_flop_s, self.half_flop_s, self.byte_s, self.operator_s


def work_of(traced: Mapping[str, Any]) -> tuple[float, ...]:
    """FLOPs in fp32, in tf32, in half precision, bytes touched, operators."""
    flops = traced["flops_by_dtype"]
    half, tf32 = sum(flops.get(name, 0) for name in _HALF), flops.get(TF32, 0)
    return sum(flops.values()) - half - tf32, tf32, half, traced["touched_bytes_per_step"], traced["operators"]


def sheet_rates(tflops_fp32: float, tflops_half: float, bandwidth_gb_s: float, title: str, has_tf32: bool) -> Rates:
    """From a data sheet (10^12 FLOP/s, 10^9 B/s). Where there is tf32, its rate is half that of half precision."""
    return Rates(
        1 / (tflops_fp32 * 1e12 * COMPUTE_SHARE),
        1 / ((tflops_half / 2 if has_tf32 else tflops_fp32) * 1e12 * COMPUTE_SHARE),
        1 / (tflops_half * 1e12 * COMPUTE_SHARE),
        1 / (bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE),
        LAUNCH_S,
        f"estimated from the data sheet of {title}, not measured",
    )


def calibrated(rates: Rates, traced: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> Rates:
    """The rates that measured steps tell, none below zero; those of work that no step does stay as they were.

    One step scales all rates alike; more are fitted in relative terms, with factors near one (:func:`_near_one`).

    Raises:
        ValueError: no steps, or a time that is not positive.
    """
    if not traced or len(traced) != len(seconds) or min(seconds) <= 0:
        raise ValueError("give one positive time for each of at least one step")
    guessed = numpy.array([rates.seconds(one) for one in traced])
    measured = numpy.array(seconds)
    scale = float(numpy.exp(numpy.mean(numpy.log(measured / guessed))))
    scaled = numpy.array(rates._each) * scale
    if len(traced) > 1:
        work = numpy.array([work_of(one) for one in traced]) * scaled / measured[:, None]
        scaled = scaled * _near_one(work)
    fp32, tf32, half, byte, operator = map(float, scaled)
    return Rates(fp32, tf32, half, byte, operator, f"calibrated by {len(seconds)} measured steps")


_TRUST: Final = 0.03
"""Weight of leaving a factor at 1: few steps do not tell four rates apart."""


def _near_one(work: numpy.ndarray) -> numpy.ndarray:
    """Factors >= 0, near 1, with ``work @ factors`` near 1 in every row: projected gradient descent."""
    factors = numpy.ones(work.shape[1])
    step = 1 / (numpy.linalg.norm(work, 2) ** 2 + _TRUST)
    for _ in range(2000):
        slope = work.T @ (work @ factors - 1) + _TRUST * (factors - 1)
        factors = numpy.maximum(0, factors - step * slope)
    return factors
