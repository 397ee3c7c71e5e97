"""The GPUs that can be predicted for: their memory, and what is taken before the first tensor. Imports no torch.

``devices/known.json`` holds figures from public sources. ``make calibrate`` on a machine with a GPU writes one more
file beside it, with the context and the workspaces measured there. A measured file wins over the public list.

Without a measurement the rates of a step come from a card's data sheet, at fractions that dense training commonly
reaches. Such times rank settings; they are not seconds that a clock would show. :func:`calibrate_rates` makes rates
from measured steps instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.grid.workload import AMPERE, Capability
from slr_bench.predict.trace_pool import StepProfile, StepWork
from slr_bench.units import GIB, KIB, MIB, did_you_mean, format_bytes, parse_bytes

if TYPE_CHECKING:
    import numpy

CPU: Final = "cpu"
SMALL_WORKSPACE_BYTES: Final = MIB
"""Workspaces with a bound up to this size are predicted by rule on every card. They do not show in a peak."""
_HOPPER: Final = (9, 0)
_CUBLAS_BYTES: Final = (2 * 4096 + 8 * 16) * KIB
"""``:4096:2:16:8``, the default of ``CUBLAS_WORKSPACE_CONFIG`` (torch 2.11 to 2.14, ``CublasHandlePool.cpp``)."""
_CUBLAS_HOPPER_BYTES: Final = 32 * MIB
"""The default of Hopper and later generations."""
_TYPICAL_CARD: Final = "rtx3060"
"""Card whose rates stand in for those of a card that is given by its size only."""
COMPUTE_SHARE: Final = 0.45
"""Fraction of the data sheet's FLOP rate that products and convolutions reach."""
BANDWIDTH_SHARE: Final = 0.75
"""Fraction of the data sheet's memory bandwidth that a step reaches."""
LAUNCH_S: Final = 6e-6
"""Seconds per operator for launch and dispatch, where the host is the bottleneck."""
_TRUST: Final = 0.03
"""Weight that keeps a fitted factor near 1, because a few steps cannot separate four rates."""


class Bound(IntEnum):
    """Which value of an interval is meant. The numbers are positions in ``(low, likely, high)``."""

    LOW = 0
    LIKELY = 1
    HIGH = 2


class Fit(Enum):
    """The judgement on whether a step fits a device."""

    YES = "yes"
    """Even the high end of the interval fits."""
    MAYBE = "maybe"
    """The likely value fits, the high end does not."""
    NO = "no"
    """The likely value does not fit, or the card cannot compute the step at all."""
    NO_CARD = "no card"
    """No card with a known capacity is meant."""

    @property
    def json_value(self) -> bool | None:
        """The value under ``fits``: true, false, or null."""
        return {Fit.YES: True, Fit.NO: False}.get(self)


class Estimate(NamedTuple):
    """An interval of bytes around the most likely value."""

    value: int
    low: int
    high: int

    @classmethod
    def exactly(cls, size: int) -> Estimate:
        """An interval without width."""
        return cls(size, size, size)

    @classmethod
    def around(cls, likely: int, values: Sequence[int]) -> Estimate:
        """The interval of ``values`` around ``likely``."""
        return cls(likely, min(values), max(values))

    def bound(self, bound: Bound) -> int:
        """The value at one bound."""
        return (self.low, self.value, self.high)[bound]

    def to_dict(self) -> dict[str, int]:
        """``{value, low, high}``."""
        return self._asdict()

    def __add__(self, other: Any) -> Estimate:
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)


_CONTEXT: Final = Estimate(450 * MIB, 250 * MIB, 650 * MIB)
"""Context, kernels and libraries outside torch's allocator. 300 to 500 MB is common; this interval is not measured."""


class Share(NamedTuple):
    """Fraction of an operator's bound that its inner memory takes: likely value and interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """Measured fractions of operators whose bound is above the small workspaces."""

    sure: Share
    """Calls that are expected to need their whole bound: half-precision convolutions with channels-last copies."""
    possible: Share
    """Calls that may need the bound and are expected to need less."""

    def workspace_bytes(self, expected_bytes: int, most_bytes: int, bound: Bound) -> int:
        """Inner memory of one call at a bound of the interval."""
        if most_bytes <= SMALL_WORKSPACE_BYTES:
            return (0, expected_bytes, most_bytes)[bound]
        share = self.sure if expected_bytes == most_bytes else self.possible
        return round(most_bytes * (share.low, share.value, share.high)[bound])


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


@dataclass(frozen=True)
class Device:
    """One GPU. Sizes are in bytes."""

    name: str
    title: str
    capacity_bytes: int | None
    """Memory that a process can use, its context included; None if no card is meant."""
    cublas: Estimate
    """Workspace per thread that computes products."""
    context: Estimate
    is_calibrated: bool
    """Context and workspace were measured on such a card; otherwise they are rules."""
    rates: Rates = field(default_factory=lambda: _sheet_rates(_public_entries()[_TYPICAL_CARD]))
    """Speed of computing and moving data."""
    calibration: str | None = None
    """Card and versions of the measurement; None if there was none."""
    shares: Shares | None = None
    """Measured inner memory of operators; None if rules decide."""
    capability: Capability | None = None
    """Compute capability; None for no card in particular, which is assumed to support all that torch uses."""

    def incompatibility(self, step: StepProfile) -> str | None:
        """Why the card cannot compute the step as its setting says; None if it can, or if nothing is known."""
        if self.capability is None or self.capability >= AMPERE or not step.flops_by_dtype.get("bfloat16"):
            return None
        version = ".".join(map(str, self.capability))
        return f"{self.title} (compute capability {version}) does not compute in bf16, which begins with 8.0; use fp16"


def any_device() -> Device:
    """A stand-in for every CUDA GPU: bytes are predicted, whether they fit is not."""
    cublas = Estimate(_CUBLAS_BYTES, _CUBLAS_BYTES, _CUBLAS_HOPPER_BYTES)
    return Device("any", "any CUDA GPU", None, cublas, _CONTEXT, False)


def find_device(text: str) -> Device:
    """Find a card by its name (``h200``, ``rtx4090``), or make one of a size (``24GiB``) and any generation.

    Raises:
        ConfigError: neither a known name nor a size with a unit.
    """
    known = known_devices()
    name = _without_spacing(text)
    for card in known.values():
        if _without_spacing(card.name) == name:
            return card
    try:
        size = parse_bytes(text)
    except ValueError as error:
        if name.replace(".", "", 1).isdigit():
            raise ConfigError(f"--device: {error}") from error
        near = did_you_mean(text.strip().lower(), known)
        raise ConfigError(
            f"--device: no device {text!r} is known{near}; known: {', '.join(known)}, {CPU}, or a size like 24GiB"
        ) from error
    if not size:
        raise ConfigError("--device: size must be greater than 0 bytes, for example 24GiB")
    return replace(any_device(), name=format_bytes(size), title=f"a GPU of {format_bytes(size)}", capacity_bytes=size)


def means_cpu(text: str | None) -> bool:
    """Return whether ``--device`` names the processor."""
    return text is not None and text.strip().lower() == CPU


def _without_spacing(name: str) -> str:
    """Reduce ``RTX 4090`` and ``a100_80g`` to one spelling."""
    return re.sub(r"[\s_-]", "", name.lower())


def known_devices() -> dict[str, Device]:
    """All known cards by name: the public list, then the measured ones."""
    devices = {name: _listed_device(name, entry) for name, entry in _public_entries().items()}
    for file in sorted((files("slr_bench.predict") / "devices").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json") and file.name != "known.json":
            name = file.name.removesuffix(".json")
            devices[name] = _measured_device(name, json.loads(file.read_text()))
    return devices


def _public_entries() -> Mapping[str, Any]:
    content = json.loads((files("slr_bench.predict") / "devices" / "known.json").read_text())
    entries: Mapping[str, Any] = content["devices"]
    return entries


def _sheet_rates(entry: Mapping[str, Any]) -> Rates:
    has_tf32 = _capability(entry) >= AMPERE
    return data_sheet_rates(
        entry["tflops_fp32"], entry["tflops_half"], entry["bandwidth_gb_s"], entry["title"], has_tf32
    )


def _capability(entry: Mapping[str, Any]) -> Capability:
    major, minor = entry["compute_capability"].split(".")
    return int(major), int(minor)


def _listed_device(name: str, entry: Mapping[str, Any]) -> Device:
    capability = _capability(entry)
    cublas = Estimate.exactly(_CUBLAS_HOPPER_BYTES if capability >= _HOPPER else _CUBLAS_BYTES)
    capacity = round(entry["memory_gib"] * GIB)
    return Device(name, entry["title"], capacity, cublas, _CONTEXT, False, _sheet_rates(entry), capability=capability)


def _measured_device(name: str, entry: Mapping[str, Any]) -> Device:
    """Read a file that ``slr_bench.predict.calibrate`` wrote. What could not be measured keeps its rule."""
    listed = _public_entries().get(name, _public_entries()[_TYPICAL_CARD])
    capability = {"compute_capability": entry["compute_capability"]} if "compute_capability" in entry else {}
    by_rule = _listed_device(name, listed | capability)
    workspace, context, shares = (entry.get(key) for key in ("cublas_workspace_bytes", "context_bytes", "shares"))
    return Device(
        name,
        entry["title"],
        entry["capacity_bytes"],
        by_rule.cublas if workspace is None else Estimate.exactly(workspace),
        _CONTEXT if context is None else Estimate(context["median"], context["low"], context["high"]),
        context is not None and workspace is not None,
        _sheet_rates(listed | entry),
        entry.get("measured_on"),
        None if shares is None else Shares(Share(**shares["sure"]), Share(**shares["possible"])),
        by_rule.capability,
    )
