"""The traced step that a prediction starts from, and how long such a step takes. Imports no torch.

Without a measurement the rates come from a card's data sheet, at fractions that dense training commonly reaches. Such
times rank settings; they are not seconds that a clock would show. :func:`calibrate_rates` makes rates from measured
steps instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from slr_bench.trace.requests import Requests

if TYPE_CHECKING:
    import numpy

COMPUTE_SHARE: Final = 0.45
"""Fraction of the data sheet's FLOP rate that products and convolutions reach."""
BANDWIDTH_SHARE: Final = 0.75
"""Fraction of the data sheet's memory bandwidth that a step reaches."""
LAUNCH_S: Final = 6e-6
"""Seconds per operator for launch and dispatch, where the host is the bottleneck."""
TF32: Final = "tf32"
"""Name in ``flops_by_dtype`` of fp32 products whose factors may be rounded to 10 bits."""
_HALF: Final = ("float16", "bfloat16")
_TRUST: Final = 0.03
"""Weight that keeps a fitted factor near 1, because a few steps cannot separate four rates."""


class Refusal(NamedTuple):
    """A setting that cannot be traced or predicted."""

    reason: str


class ModuleBytes(NamedTuple):
    """Bytes of one module's tensors at the peak."""

    module: str
    bytes: int
    by_category: Mapping[str, int]


class UnmodelledOperator(NamedTuple):
    """An operator whose inner memory no rule describes."""

    operator: str
    calls: int
    most_bytes: int
    """Upper bound of what one call may need."""


class StepWork(NamedTuple):
    """Work of one optimizer step, in the order of the rates."""

    fp32_flops: float
    tf32_flops: float
    half_flops: float
    touched_bytes: float
    operators: int


@dataclass(frozen=True)
class StepProfile:
    """A steady step traced on fake tensors (``worker.trace_for_prediction``)."""

    source: str
    peak_tensor_bytes: int
    floor_bytes: int
    """Operator floor: the least memory that the step's operators need."""
    by_category: Mapping[str, int]
    by_module: Sequence[ModuleBytes]
    requests: Requests
    """Requests of the first step and of a steady one to an allocator (``trace.requests``)."""
    flops_by_dtype: Mapping[str, int]
    touched_bytes_per_step: int
    operators: int
    samples_per_step: int
    """Units of data (clips, images, tokens) per step."""
    cuda_rules: int | None = None
    """Version of the CUDA rules; None for a step on the CPU."""
    unmodelled: Sequence[UnmodelledOperator] = ()
    interpolated_from: Sequence[int] | None = None
    """The smaller and the larger micro-batch that were traced in its place; None if the step itself was traced."""

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Self:
        """Read what the tracing process sends about one step."""
        return cls(
            source=message["source"],
            peak_tensor_bytes=message["peak_tensor_bytes"],
            floor_bytes=message["floor_bytes"],
            by_category=message["by_category"],
            by_module=[ModuleBytes(**entry) for entry in message["by_module"]],
            requests=message["requests"],
            flops_by_dtype=message["flops_by_dtype"],
            touched_bytes_per_step=message["touched_bytes_per_step"],
            operators=message["operators"],
            samples_per_step=message["samples_per_step"],
            cuda_rules=message.get("cuda_rules"),
            unmodelled=[UnmodelledOperator(**entry) for entry in message.get("unmodelled", ())],
            interpolated_from=message.get("told_from_samples"),
        )

    @property
    def work(self) -> StepWork:
        """The amounts that the step computes, moves and launches."""
        flops = self.flops_by_dtype
        half, tf32 = sum(flops.get(name, 0) for name in _HALF), flops.get(TF32, 0)
        return StepWork(sum(flops.values()) - half - tf32, tf32, half, self.touched_bytes_per_step, self.operators)


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

    def step_seconds(self, work: StepWork) -> float:
        """Estimate the time of one optimizer step."""
        import numpy  # a prediction without times does not wait for it

        return float(numpy.dot(work, self._per_unit))

    @property
    def _per_unit(self) -> tuple[float, ...]:
        return self.fp32_flop_s, self.tf32_flop_s, self.half_flop_s, self.byte_s, self.operator_s


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
