"""Describes what can be measured: workloads, by the names under which projects and packages register them.

A project names its workloads in its ``pyproject.toml`` (:mod:`slr_bench.grid.project_file`); an installed package may
register them as entry points of the group ``slr_bench.workloads``. A spec is the parent's half of a workload and
imports no torch; what ``build`` returns is the child's half.
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
from slr_bench.grid.project_file import Project, projects
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


class Registration(NamedTuple):
    """The place of a workload's spec."""

    name: str
    value: str
    """``module:spec``."""
    project: Project | None = None
    """The project whose file names it; None for an entry point of an installed package."""

    @property
    def module(self) -> str:
        """Module that holds the spec."""
        return self.value.partition(":")[0].strip()


def registrations() -> list[Registration]:
    """Return every registered workload, each place once. A name in a project file hides installed ones.

    Raises:
        ConfigError: A project file cannot be read.
    """
    named = [Registration(name, value, found) for found in projects() for name, value in found.workloads.items()]
    first = {one.name: one for one in reversed(named)}
    installed = [Registration(point.name, point.value) for point in entry_points(group=GROUP)]
    others = {(one.name, one.value): one for one in installed if one.name not in first}
    return [*reversed(first.values()), *others.values()]


def find_workload(name: str) -> WorkloadSpec:
    """Return the registered workload with this name.

    Raises:
        ConfigError: None or two are registered under it, it cannot be loaded, or its settings cannot be a cell's.
    """
    known = registrations()
    found = [one for one in known if one.name == name]
    if not found:
        raise ConfigError(
            f"workload: no workload {name!r} is registered{nearest(name, {one.name for one in known})} (or name it in "
            "the [tool.slr-bench.workloads] table of your pyproject.toml, or install the package that registers it)"
        )
    if len(found) > 1:
        places = " and ".join(sorted(one.value for one in found))
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


def _loaded(registration: Registration) -> WorkloadSpec:
    name, value, project = registration
    if project is not None:
        project.go_on_import_path()
    try:
        spec = EntryPoint(name, value, GROUP).load()
    except (ImportError, AttributeError) as error:
        where = "" if project is None else f" (named in {project.root / 'pyproject.toml'})"
        raise ConfigError(f"workload {name!r} does not load from {value}: {error}{where}") from error
    if not isinstance(spec, WorkloadSpec):
        raise ConfigError(f"workload {name!r}: {value} is a {type(spec).__name__}, not a WorkloadSpec")
    problem = _problem(spec.settings)
    if problem:
        raise ConfigError(f"workload {name!r}: {spec.settings.__name__} {problem}")
    return spec if spec.packages else replace(spec, packages=(registration.module.partition(".")[0],))


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
