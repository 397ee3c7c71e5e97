"""The GPUs that can be predicted for: how much memory, and what is taken before the first tensor. No torch.

``devices/known.json`` is from public sources. ``make calibrate`` on a machine with a GPU writes a file of its own
beside it, with the context and the workspaces as measured there; it wins over the list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.grid.workload import AMPERE, Capability
from slr_bench.predict.cost import Rates, sheet_rates
from slr_bench.units import GIB, KIB, MIB, did_you_mean, format_bytes, parse_bytes

CPU: Final = "cpu"
_HOPPER: Final = (9, 0)
_CUBLAS_BYTES: Final = (2 * 4096 + 8 * 16) * KIB
"""``:4096:2:16:8``, the default of ``CUBLAS_WORKSPACE_CONFIG`` (torch 2.11 to 2.14, ``CublasHandlePool.cpp``)."""
_CUBLAS_HOPPER_BYTES: Final = 32 * MIB
"""From Hopper on."""


class Estimate(NamedTuple):
    """Bytes: the most likely, and the ends of the interval."""

    value: int
    low: int
    high: int

    def as_json(self) -> dict[str, int]:
        """``{value, low, high}``."""
        return self._asdict()

    def __add__(self, other: Any) -> Estimate:
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)


class Share(NamedTuple):
    """Part of an operator's bound that its inner memory takes: the most likely, and the ends of the interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """What was measured of operators whose bound is above ``trace.workspaces``'s small buffers."""

    sure: Share
    """Of calls whose whole bound is expected: half-precision convolutions that make channels-last copies."""
    possible: Share
    """Of calls that may want the bound and are expected to want less."""

    def bytes_of(self, expected_bytes: int, most_bytes: int, which: int) -> int:
        """``which``: 0 the least, 1 the likely, 2 the most."""
        if most_bytes <= SMALL_WORKSPACE_BYTES:
            return (0, expected_bytes, most_bytes)[which]
        share = self.sure if expected_bytes == most_bytes else self.possible
        return round(most_bytes * (share.low, share.value, share.high)[which])


SMALL_WORKSPACE_BYTES: Final = MIB
"""Bounds up to here are told by rule on every card: they are no part of a peak that anybody would notice."""
_LIKELY: Final = "rtx3060"
"""Whose rates stand for those of a card of which only the size is known."""
_CONTEXT: Final = Estimate(450 * MIB, 250 * MIB, 650 * MIB)
"""Context, kernels and libraries outside torch's allocator: 300 to 500 MB is what is commonly seen. Not measured."""


@dataclass(frozen=True)
class Device:
    """One GPU, bytes."""

    name: str
    title: str
    capacity_bytes: int | None
    """What a process can have, its context included; None: no card is meant."""
    cublas: Estimate
    """Workspace a thread that computes products."""
    context: Estimate
    is_calibrated: bool
    """Context and workspace were measured on such a card; otherwise they are rules."""
    rates: Rates = field(default_factory=lambda: _rates(_entries()[_LIKELY]))
    """Of what it computes and moves."""
    calibration: str | None = None
    """Where it was measured: card and versions; None: it was not."""
    shares: Shares | None = None
    """Of operators' inner memory; None: by rule."""
    capability: Capability | None = None
    """Compute capability; None: no card in particular, taken for one that has all that torch uses."""

    def lacks(self, foreseen: Mapping[str, Any]) -> str | None:
        """Why the card cannot compute a traced step as the setting says; None: it can, or is not known."""
        if self.capability is None or self.capability >= AMPERE or not foreseen["flops_by_dtype"].get("bfloat16"):
            return None
        own = ".".join(map(str, self.capability))
        return f"{self.title} (compute capability {own}) does not compute in bf16, which begins with 8.0; use fp16"


def any_device() -> Device:
    """No card in particular: bytes without a verdict."""
    cublas = Estimate(_CUBLAS_BYTES, _CUBLAS_BYTES, _CUBLAS_HOPPER_BYTES)
    return Device("any", "any CUDA GPU", None, cublas, _CONTEXT, False)


def find_device(text: str) -> Device:
    """A known name (``h200``, ``rtx4090``), or a size (``24GiB``) for a card of that capacity and any class.

    Raises:
        ConfigError: neither; the names are listed. A size without a unit.
    """
    known = known_devices()
    name = _plain(text)
    for card in known.values():
        if _plain(card.name) == name:
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
        raise ConfigError("--device: a card of 0 bytes holds nothing; give a size like 24GiB")
    return replace(any_device(), name=format_bytes(size), title=f"a GPU of {format_bytes(size)}", capacity_bytes=size)


def _plain(name: str) -> str:
    """However it is spaced: ``RTX 4090``, ``a100_80g``."""
    return re.sub(r"[\s_-]", "", name.lower())


def known_devices() -> Mapping[str, Device]:
    """By name: the public list, then what was measured."""
    place = files("slr_bench.predict") / "devices"
    found = {name: _device(name, entry) for name, entry in _entries().items()}
    for file in sorted(place.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json") and file.name != "known.json":
            name = file.name.removesuffix(".json")
            found[name] = _calibrated(name, json.loads(file.read_text()))
    return found


def _entries() -> Mapping[str, Any]:
    known: Mapping[str, Any] = json.loads((files("slr_bench.predict") / "devices" / "known.json").read_text())
    entries: Mapping[str, Any] = known["devices"]
    return entries


def _rates(entry: Mapping[str, Any]) -> Rates:
    has_tf32 = _capability(entry) >= AMPERE
    return sheet_rates(entry["tflops_fp32"], entry["tflops_half"], entry["bandwidth_gb_s"], entry["title"], has_tf32)


def _capability(entry: Mapping[str, Any]) -> Capability:
    major, minor = entry["compute_capability"].split(".")
    return int(major), int(minor)


def _device(name: str, entry: Mapping[str, Any]) -> Device:
    workspace = _CUBLAS_HOPPER_BYTES if _capability(entry) >= _HOPPER else _CUBLAS_BYTES
    capacity = round(entry["memory_gib"] * GIB)
    cublas = Estimate(workspace, workspace, workspace)
    return Device(name, entry["title"], capacity, cublas, _CONTEXT, False, _rates(entry), capability=_capability(entry))


def _calibrated(name: str, entry: Mapping[str, Any]) -> Device:
    """As ``slr_bench.predict.calibrate`` writes it; what could not be measured stays as it is by rule."""
    listed = _entries().get(name, _entries()[_LIKELY])
    capability = {"compute_capability": entry["compute_capability"]} if "compute_capability" in entry else {}
    by_rule = _device(name, listed | capability)
    workspace, context, shares = (entry.get(key) for key in ("cublas_workspace_bytes", "context_bytes", "shares"))
    return Device(
        name,
        entry["title"],
        entry["capacity_bytes"],
        by_rule.cublas if workspace is None else Estimate(workspace, workspace, workspace),
        _CONTEXT if context is None else Estimate(context["median"], context["low"], context["high"]),
        context is not None and workspace is not None,
        _rates(listed | entry),
        entry.get("measured_on"),
        None if shares is None else Shares(Share(**shares["sure"]), Share(**shares["possible"])),
        by_rule.capability,
    )
