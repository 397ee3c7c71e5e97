"""The GPUs that can be predicted for: their memory, and what is taken before the first tensor. Imports no torch.

``devices/known.json`` holds figures from public sources. ``make calibrate`` on a machine with a GPU writes one more
file beside it, with the context and the workspaces measured there. A measured file wins over the public list.

Beside torch's allocator a process has the CUDA context and the libraries that it loads. They are larger on data-center
cards than on GeForce cards; ``contexts`` in the public list has both, with their sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.grid.workload import AMPERE, Capability
from slr_bench.predict.rates import Rates, data_sheet_rates
from slr_bench.predict.trace_pool import StepProfile
from slr_bench.units import GIB, KIB, MIB, closest, format_bytes, parse_bytes

CPU: Final = "cpu"
SMALL_WORKSPACE_BYTES: Final = MIB
"""Workspaces with a bound up to this size are predicted by rule on every card. They do not show in a peak."""
_HOPPER: Final = (9, 0)
_CUBLAS_BYTES: Final = (2 * 4096 + 8 * 16) * KIB
"""``:4096:2:16:8``, the default of ``CUBLAS_WORKSPACE_CONFIG`` (torch 2.11 to 2.14, ``CublasHandlePool.cpp``)."""
_CUBLAS_HOPPER_BYTES: Final = 32 * MIB
"""The default of Hopper and later generations."""
_TYPICAL_CARD: Final = "rtx3060"
"""Card whose rates stand in for those of a card that is given by its size only, or whose data sheet is not known."""
_SUGGESTIONS: Final = 3
_NOMINAL: Final = 1.05
"""The nominal size of a card is at most this many times what a process can use."""


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


NOTHING: Final = Estimate.exactly(0)
CUDNN: Final = "cudnn"
"""The library of convolutions and recurrent layers, which only some steps load."""


class Context(NamedTuple):
    """Memory outside torch's allocator."""

    cublas: Estimate
    """The CUDA context and its kernels, with cuBLAS loaded."""
    cudnn: Estimate
    """The additional memory of cuDNN."""


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
class Device:
    """One GPU. Sizes are in bytes."""

    name: str
    title: str
    capacity_bytes: int | None
    """Memory that a process can use, its context included; None if no card is meant."""
    cublas: Estimate
    """Workspace per thread that computes products."""
    context: Estimate
    """The CUDA context with cuBLAS loaded; if it was measured, with all libraries."""
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
    cudnn: Estimate = NOTHING
    """Additional context of a step that loads cuDNN."""
    shares_memory: bool = False
    """The processor and the system use the same memory."""

    def context_of(self, step: StepProfile) -> Estimate:
        """Return the memory outside torch's allocator of a process that runs the step."""
        return self.context + self.cudnn if CUDNN in step.libraries else self.context

    def incompatibility(self, step: StepProfile) -> str | None:
        """Why the card cannot compute the step as its setting says; None if it can, or if nothing is known."""
        if self.capability is None or self.capability >= AMPERE or not step.flops_by_dtype.get("bfloat16"):
            return None
        version = ".".join(map(str, self.capability))
        return f"{self.title} (compute capability {version}) does not compute in bf16, which begins with 8.0; use fp16"


def any_device() -> Device:
    """A stand-in for every CUDA GPU: bytes are predicted, whether they fit is not."""
    cublas = Estimate(_CUBLAS_BYTES, _CUBLAS_BYTES, _CUBLAS_HOPPER_BYTES)
    context = _context("other")
    return Device("any", "any CUDA GPU", None, cublas, context.cublas, False, cudnn=context.cudnn)


def choose_device(name: str | None, gpu_memory: str | None) -> Device:
    """Return the card of ``--device`` with the memory of ``--gpu-memory``; without a name, a card of that size.

    Raises:
        ConfigError: the card is unknown, or the size is not one, is 0 or is larger than the card.
    """
    if gpu_memory is None:
        return any_device() if name is None else find_device(name)
    size = _size(gpu_memory, "--gpu-memory")
    if name is None:
        return _device_of_size(size)
    card = find_device(name)
    if card.capacity_bytes is not None and size > card.capacity_bytes:
        raise ConfigError(
            f"--gpu-memory {gpu_memory} is more than the {format_bytes(card.capacity_bytes)} of {card.title}; "
            "leave one of the two out"
        )
    return replace(card, capacity_bytes=size)


def find_device(text: str) -> Device:
    """Find a card by its name (``h200``, ``rtx4090``), or make one of a size (``24GiB``) and any generation.

    Raises:
        ConfigError: neither a known name nor a size with a unit.
    """
    known = known_devices()
    name = _bare_name(text)
    for card in known.values():
        if name in (_bare_name(card.name), _bare_name(card.title)):
            return card
    if text.strip()[:1].isdigit() and (name.replace(".", "", 1).isdigit() or text.strip()[-1:].lower() == "b"):
        return _device_of_size(_size(text, "--device"))
    near = _nearest_cards(text, name, known)
    raise ConfigError(
        f"--device: no device {text!r} is known{near}; known: {', '.join(known)}, {CPU}, or a size like 24GiB"
    )


def _nearest_cards(text: str, name: str, known: Mapping[str, Device]) -> str:
    """Suggest the cards whose name begins with the text, or the most similar one, each with its memory."""
    near = [card for card in known.values() if _bare_name(card.name).startswith(name)] if name else []
    if not 0 < len(near) <= _SUGGESTIONS:
        similar = closest(text.strip().lower(), sorted(known))
        near = [] if similar is None else [known[similar]]
    shown = " or ".join(f"{card.name!r} ({format_bytes(card.capacity_bytes)})" for card in near)
    return f"; did you mean {shown}?" if near else ""


def _size(text: str, option: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
    if not size:
        example = "6GiB" if option == "--gpu-memory" else "24GiB"
        raise ConfigError(f"{option}: size must be greater than 0 bytes, for example {example}")
    return size


def _device_of_size(size: int) -> Device:
    """Return a GPU of a size, with the context of the classes of cards that have about this size."""
    cards = [(entry["memory_gib"] * GIB, entry["context"]) for entry in _public_entries().values()]
    largest_geforce = max(memory for memory, kind in cards if kind == "geforce")
    smallest_other = min(memory for memory, kind in cards if kind == "data-center")
    is_small, is_large = size < smallest_other, size > _NOMINAL * largest_geforce
    context = _context("geforce" if is_small else "data-center" if is_large else "other")
    return replace(
        any_device(),
        name=format_bytes(size),
        title=f"a GPU of {format_bytes(size)}",
        capacity_bytes=size,
        context=context.cublas,
        cudnn=context.cudnn,
    )


def means_cpu(text: str | None) -> bool:
    """Return whether ``--device`` names the processor."""
    return text is not None and text.strip().lower() == CPU


def _bare_name(name: str) -> str:
    """Reduce ``RTX 4090``, ``a100_80g`` and ``NVIDIA GeForce RTX 4060 Ti 8 GB`` to the form of a listed name."""
    return re.sub(r"nvidia|geforce|tesla|jetson|gpu|sxm\d|pcie|[\s_-]|(?<=g)i?b$", "", name.lower())


def known_devices() -> dict[str, Device]:
    """All known cards by name: the public list, then the measured ones."""
    devices = {name: _listed_device(name, entry) for name, entry in _public_entries().items()}
    for file in sorted((files("slr_bench.predict") / "devices").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json") and file.name != "known.json":
            name = file.name.removesuffix(".json")
            devices[name] = _measured_device(name, json.loads(file.read_text()))
    return devices


@cache
def _public_list() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads((files("slr_bench.predict") / "devices" / "known.json").read_text())
    return content


def _public_entries() -> Mapping[str, Any]:
    entries: Mapping[str, Any] = _public_list()["devices"]
    return entries


def _context(kind: str) -> Context:
    entry = _public_list()["contexts"][kind]
    cublas, cudnn = (Estimate(*(size * MIB for size in entry[name])) for name in ("cublas_mib", "cudnn_mib"))
    return Context(cublas, cudnn)


def _sheet_rates(entry: Mapping[str, Any]) -> Rates:
    """Return the rates of a card's data sheet; if a figure is unknown, those of a typical card."""
    fp32, half, bandwidth = (entry[name] for name in ("tflops_fp32", "tflops_half", "bandwidth_gb_s"))
    if None in (fp32, half, bandwidth):
        return _sheet_rates(_public_entries()[_TYPICAL_CARD])
    return data_sheet_rates(fp32, half, bandwidth, entry["title"], _capability(entry) >= AMPERE)


def _capability(entry: Mapping[str, Any]) -> Capability:
    major, minor = entry["compute_capability"].split(".")
    return int(major), int(minor)


def _listed_device(name: str, entry: Mapping[str, Any]) -> Device:
    capability = _capability(entry)
    cublas = Estimate.exactly(_CUBLAS_HOPPER_BYTES if capability >= _HOPPER else _CUBLAS_BYTES)
    context = _context(entry["context"])
    return Device(
        name,
        entry["title"],
        round(entry["memory_gib"] * GIB),
        cublas,
        context.cublas,
        False,
        _sheet_rates(entry),
        capability=capability,
        cudnn=context.cudnn,
        shares_memory=entry.get("shared_memory", False),
    )


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
        by_rule.context if context is None else Estimate(context["median"], context["low"], context["high"]),
        context is not None and workspace is not None,
        _sheet_rates(listed | entry),
        entry.get("measured_on"),
        None if shares is None else Shares(Share(**shares["sure"]), Share(**shares["possible"])),
        by_rule.capability,
        by_rule.cudnn if context is None else NOTHING,
    )
