"""What can be measured: named workloads, registered as entry points of the group ``slr_bench.workloads``.

A spec is the parent's half and imports no torch; what ``build`` returns is the child's half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import BaseModel, ValidationError

from slr_bench.errors import ConfigError
from slr_bench.grid.description import GENERIC, WorkloadDescription
from slr_bench.record import Metric
from slr_bench.units import nearest

if TYPE_CHECKING:
    import torch

GROUP = "slr_bench.workloads"

Phase = Callable[[str], AbstractContextManager[None]]


class BuildContext(Protocol):
    """What the worker lends to a workload."""

    device: torch.device
    """Where the step computes."""

    @property
    def phase(self) -> Phase:
        """``with phase("forward"): ...`` names a part of the step."""
        ...

    @property
    def is_fake(self) -> bool:
        """True: tensors have shapes and no contents; make inputs up, read no data."""
        ...

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, or swap its tensors for fake ones. Call it before making the optimizer."""
        ...


class StepWork(Protocol):
    """A step that can be repeated: what memory and time are measured on."""

    samples_per_step: int
    """Units (`WorkloadSpec.unit`) per step, for the throughput."""

    def load(self) -> None:
        """Bring the inputs of a step into host memory."""
        ...

    def step(self) -> None:
        """One whole step. Nothing of it may stay alive afterwards but the state."""
        ...

    def tensors(self) -> Mapping[str, Iterable[torch.Tensor]]:
        """Tensors alive between steps by category; ``loader`` holds what the loader still owns (not counted)."""
        ...

    def metrics(self) -> Mapping[str, Metric]:
        """Further readings after the steps."""
        ...


class WholeWork(Protocol):
    """A piece of work done once: what accuracy is measured on."""

    def run(self) -> Mapping[str, Metric]:
        """Do it; the readings."""
        ...


@runtime_checkable
class DetailedWork(Protocol):
    """Work that leaves more than numbers, such as its answer to every sample."""

    def details(self) -> Mapping[str, Any]:
        """JSON values, kept beside the time series in ``samples/``; asked for after the work."""
        ...


Capability = tuple[int, int]
AMPERE: Final[Capability] = (8, 0)
"""From here on GPUs compute in bf16 and tf32."""


class Cards(NamedTuple):
    """GPUs by compute capability."""

    least: Capability = (0, 0)
    below: Capability = (1000, 0)

    def has(self, capability: Capability) -> bool:
        """Whether it is one of them."""
        return self.least <= capability < self.below


@dataclass(frozen=True)
class Knob:
    """What a plan may turn. A setting that is at none of the choices is left as it is."""

    name: str
    choices: tuple[Mapping[str, Any], ...]
    """Each: dotted keys and their values; all name the same keys."""
    keeps: Literal["function", "model", "nothing"] = "function"
    """``function``: equal outputs and gradients; ``model``: the same network in another arithmetic; ``nothing``:
    another model, turned only where the user allows it."""
    cards: tuple[Cards, ...] = ()
    """Of each choice, the GPUs that it is for; none given: all."""

    def choices_on(self, capability: Capability) -> list[Mapping[str, Any]]:
        """Those for a GPU."""
        cards = self.cards or (Cards(),) * len(self.choices)
        return [choice for choice, own in zip(self.choices, cards, strict=True) if own.has(capability)]


@dataclass(frozen=True)
class WorkloadSpec(WorkloadDescription):
    """The parent's half of a registered workload."""

    name: str
    settings: type[BaseModel]
    """Frozen pydantic model of every knob, sections nested; each has a default, unknown keys are refused."""
    build: Callable[[Any, BuildContext], Any]
    """``build(settings, context)`` -> StepWork or WholeWork; imports torch inside, not at the top of its module."""
    kind: Literal["step", "whole"] = "step"
    defaults_version: int = 1
    """Raised when a default of ``settings`` changes its value: the ids of all cells change with it."""
    preload: tuple[str, ...] = ("torch._dynamo",)
    """Modules the fork server imports once for all cells. Torch imports the default (seconds, and megabytes of a cell's
    RAM) with the first optimizer or checkpoint."""
    packages: tuple[str, ...] = ()
    """Top-level packages whose source decides the result (bound to the run directory by their hash); none named: the
    one that registers the workload."""
    monotone: tuple[str, ...] = ()
    """Dotted keys of numbers: a setting that is larger in one and equal in all others needs at least the memory."""
    knobs: tuple[Knob, ...] = ()
    """What else a plan may turn."""
    prepare: Callable[[Any], Mapping[str, str]] = field(default=lambda settings: {})
    """Checked by the parent before any process starts; returns facts bound to the run (``data_fingerprint``)."""


def find_workload(name: str) -> WorkloadSpec:
    """The registered workload of this name.

    Raises:
        ConfigError: none is registered under it, or two are; it does not load, or its settings cannot be a cell's.
    """
    points = list(entry_points(group=GROUP))
    found = list({point.value: point for point in points if point.name == name}.values())
    if not found:
        known = nearest(name, {point.name for point in points})
        raise ConfigError(
            f"workload: no workload {name!r} is registered{known} (or install the package that registers it)"
        )
    if len(found) > 1:
        places = " and ".join(sorted(point.value for point in found))
        raise ConfigError(f"workload {name!r} is registered twice, as {places}; give one of them another name")
    return _loaded(found[0])


def describe_workload(name: str) -> WorkloadDescription:
    """Return the description of a registered workload, or a generic one if no such workload is installed."""
    try:
        return find_workload(name)
    except ConfigError:
        return GENERIC


def units_per_step(work: StepWork, spec: WorkloadDescription) -> tuple[int, str]:
    """Return how many units a step of ``work`` processes, and the name of its throughput metric."""
    old = getattr(work, "clips_per_step", None)  # work written before specs had a unit; its records keep their metric
    if old is not None:
        return int(old), "throughput_clips_per_s"
    return work.samples_per_step, spec.throughput_metric


def _loaded(point: EntryPoint) -> WorkloadSpec:
    try:
        spec = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"workload {point.name!r} does not load from {point.value}: {error}") from error
    if not isinstance(spec, WorkloadSpec):
        raise ConfigError(f"workload {point.name!r}: {point.value} is a {type(spec).__name__}, not a WorkloadSpec")
    problem = _problem(spec.settings)
    if problem:
        raise ConfigError(f"workload {point.name!r}: {spec.settings.__name__} {problem}")
    return spec if spec.packages else replace(spec, packages=(point.module.partition(".")[0],))


def _problem(settings: type[BaseModel]) -> str | None:
    """Why a model cannot hold a workload's settings. A mistake here would be measured as if it were none."""
    for model in _sections(settings):
        if model.model_config.get("extra") != "forbid":
            which = "" if model is settings else f"has the section {model.__name__}, which "
            return f"{which}takes unknown keys in silence; give it ConfigDict(frozen=True, extra='forbid')"
    try:
        settings()
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "a key"
        return f"has no default for {key}; a cell's identity is what differs from the defaults: give every key one"
    return None


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and those nested in it."""
    found = [model]
    for section in model.model_fields.values():
        for kind in (section.annotation, *get_args(section.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += _sections(kind)
    return found
