"""Defines workloads, and finds them by the names under which projects and packages register them.

A project names its workloads in its ``pyproject.toml`` (:mod:`slr_bench.grid.project_file`); an installed package may
register them as entry points of the group ``slr_bench.workloads``. A spec is the parent's half of a workload and
must not import torch. The object that ``build`` returns is the child's half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from pydantic import BaseModel, ValidationError

from slr_bench.errors import ConfigError
from slr_bench.grid.description import GENERIC, WorkloadDescription
from slr_bench.grid.project_file import Project, projects
from slr_bench.record import Metric, RunEvent
from slr_bench.units import nearest

if TYPE_CHECKING:
    import torch

GROUP = "slr_bench.workloads"

Phase = Callable[[str], AbstractContextManager[None]]


class BuildContext(Protocol):
    """The device, the phases and the kind of tensors that the worker gives to a workload."""

    device: torch.device
    """Device on which the step computes."""

    @property
    def phase(self) -> Phase:
        """``with phase("forward"): ...`` names a part of the step."""
        ...

    @property
    def is_fake(self) -> bool:
        """True if tensors have shapes and no contents. Inputs are then made up, without reading data."""
        ...

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, or replace its tensors by fake ones. Call it before making the optimizer."""
        ...


class StepWork(Protocol):
    """A step that can be repeated, whose memory and time are measured."""

    samples_per_step: int
    """Units (`WorkloadSpec.unit`) per step, for the throughput."""

    def load(self) -> None:
        """Load the inputs of a step into host memory."""
        ...

    def step(self) -> None:
        """Run one whole step. What it keeps beside its state counts until the next step replaces it."""
        ...

    def tensors(self) -> Mapping[str, Iterable[torch.Tensor]]:
        """Return the tensors that live between steps, by category. Those of ``loader`` are not counted."""
        ...

    def metrics(self) -> Mapping[str, Metric]:
        """Return further metrics after the steps."""
        ...


class WholeWork(Protocol):
    """Work that runs once, whose accuracy is measured."""

    def run(self) -> Mapping[str, Metric]:
        """Run the work and return its metrics."""
        ...


@runtime_checkable
class DetailedWork(Protocol):
    """Work with results beyond its metrics, such as its prediction for every sample."""

    def details(self) -> Mapping[str, Any]:
        """Return JSON values after the work. They are kept beside the time series in ``samples/``."""
        ...


@runtime_checkable
class EventfulWork(Protocol):
    """Work that changes itself while it runs, such as a training that halves its micro-batch."""

    def events(self) -> Sequence[RunEvent]:
        """Return the changes after the work. The record keeps them."""
        ...


Capability = tuple[int, int]
AMPERE: Final[Capability] = (8, 0)
"""The first generation of GPUs that computes in bf16 and tf32."""


class Cards(NamedTuple):
    """A range of GPUs by compute capability."""

    least: Capability = (0, 0)
    below: Capability = (1000, 0)

    def has(self, capability: Capability) -> bool:
        """Return whether GPUs of this compute capability are in the range."""
        return self.least <= capability < self.below


Keeps = Literal["function", "model", "nothing"]


@dataclass(frozen=True)
class Knob:
    """Keys that a plan may change together. A setting that has none of the choices is left as it is."""

    name: str
    choices: tuple[Mapping[str, Any], ...]
    """Dotted keys and their values, per choice. All choices have the same keys."""
    keeps: Keeps = "function"
    """``function``: equal outputs and gradients; ``model``: the same network in another arithmetic; ``nothing``:
    another model, which only ``--allow`` permits."""
    cards: tuple[Cards, ...] = ()
    """The GPUs that each choice is for; if empty, all choices are for all GPUs."""

    @classmethod
    def of_key(cls, key: str, *values: Any, keeps: Keeps = "function", cards: tuple[Cards, ...] = ()) -> Knob:
        """Return the knob of one key, with one choice per value."""
        return cls(key, tuple({key: value} for value in values), keeps, cards)

    def choices_on(self, capability: Capability) -> list[Mapping[str, Any]]:
        """Return the choices for GPUs of this compute capability."""
        cards = self.cards or (Cards(),) * len(self.choices)
        return [choice for choice, usable in zip(self.choices, cards, strict=True) if usable.has(capability)]


@dataclass(frozen=True)
class WorkloadSpec(WorkloadDescription):
    """The parent's half of a registered workload."""

    name: str
    settings: type[BaseModel]
    """Frozen pydantic model of every key, with nested sections. Every key has a default; unknown keys are refused."""
    build: Callable[[Any, BuildContext], Any]
    """``build(settings, context)`` returns a StepWork or a WholeWork. It imports torch itself, not with its module."""
    kind: Literal["step", "whole"] = "step"
    defaults_version: int = 1
    """Increase it if a default of ``settings`` changes its value, because the ids of all cells then change, too."""
    preload: tuple[str, ...] = ("torch._dynamo",)
    """Modules that the fork server imports once for all cells. Torch imports the default with the first optimizer or
    checkpoint, which costs seconds, and megabytes of a cell's RAM."""
    packages: tuple[str, ...] = ()
    """Top-level packages whose source decides the result. Their hash is bound to the run directory. Default: the
    package that registers the workload."""
    monotone: tuple[str, ...] = ()
    """Dotted keys of numbers. A setting that is larger in one of them and equal otherwise needs no less memory."""
    loader_limits: tuple[str, ...] = ()
    """Dotted keys that limit the host memory of the loader; null is no limit. They refuse no setting of a prediction
    for a GPU."""
    knobs: tuple[Knob, ...] = ()
    """Keys that a plan may change, besides the micro-batch."""
    prepare: Callable[[Any], Mapping[str, str]] = field(default=lambda settings: {})
    """Checks a setting in the parent before any process starts. Returns facts such as ``data_fingerprint``."""


class Registration(NamedTuple):
    """A name and the spec that is registered under it."""

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
    """Return every registered workload once. A name in a project file hides installed ones.

    Raises:
        ConfigError: A project file cannot be read.
    """
    named = [Registration(name, value, project) for project in projects() for name, value in project.workloads.items()]
    nearest_first = {registration.name: registration for registration in reversed(named)}
    installed = {
        (point.name, point.value): Registration(point.name, point.value) for point in entry_points(group=GROUP)
    }
    others = [registration for registration in installed.values() if registration.name not in nearest_first]
    return [*reversed(nearest_first.values()), *others]


def find_workload(name: str) -> WorkloadSpec:
    """Return the registered workload with this name.

    Raises:
        ConfigError: No workload or two are registered under the name, the spec cannot be loaded, or its settings model
            cannot hold the setting of a cell.
    """
    spec = _load(_registration(name))
    problem = _problem(spec.settings)
    if problem:
        raise ConfigError(f"workload {name!r}: {spec.settings.__name__} {problem}")
    return spec


def _registration(name: str) -> Registration:
    known = registrations()
    matches = [registration for registration in known if registration.name == name]
    if not matches:
        raise ConfigError(
            f"workload: no workload {name!r} is registered{nearest(name, {entry.name for entry in known})} (or name it "
            "in the [tool.slr-bench.workloads] table of your pyproject.toml, or install the package that registers it)"
        )
    if len(matches) > 1:
        places = " and ".join(sorted(match.value for match in matches))
        raise ConfigError(f"workload {name!r} is registered twice, as {places}; give one of them another name")
    return matches[0]


def describe_workload(name: str) -> WorkloadDescription:
    """Return the description of a registered workload, or a generic one if no such workload is installed."""
    try:
        return _load(_registration(name))  # a description needs no settings, so they are not checked
    except ConfigError:
        return GENERIC


def units_per_step(work: StepWork) -> int:
    """Return how many units a step of ``work`` processes. A workload of an older tree counts ``clips_per_step``."""
    return int(getattr(work, "clips_per_step", None) or work.samples_per_step)


def throughput_metric(work: StepWork, spec: WorkloadDescription) -> str:
    """Return the name of the throughput metric. Records of a workload of an older tree keep theirs."""
    return "throughput_clips_per_s" if hasattr(work, "clips_per_step") else spec.throughput_metric


def _load(registration: Registration) -> WorkloadSpec:
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
    return spec if spec.packages else replace(spec, packages=(registration.module.partition(".")[0],))


def _problem(settings: type[BaseModel]) -> str | None:
    """Return why a model cannot hold settings, in which it would hide mistakes; None if it can."""
    for model in _sections(settings):
        if model.model_config.get("extra") != "forbid":
            section = "" if model is settings else f"has the section {model.__name__}, which "
            return f"{section}ignores unknown keys; give it ConfigDict(frozen=True, extra='forbid')"
    try:
        settings()
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "a key"
        return f"has no default for {key}; a cell's identity is what differs from the defaults: give every key one"
    return None


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the model and the models nested in it."""
    found = [model]
    for section in model.model_fields.values():
        for kind in (section.annotation, *get_args(section.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += _sections(kind)
    return found
