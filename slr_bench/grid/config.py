"""Reads and checks a grid file. Every mistake in it is reported before any process starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slr_bench.errors import ConfigError
from slr_bench.files import Overrides
from slr_bench.grid.project_file import use_projects_of
from slr_bench.grid.yaml_files import read_yaml, validate
from slr_bench.units import nearest, parse_bytes

TRAINING_STEP: Final = "train_step"
"""The workload of a plain training file."""


Same = Literal["function", "accuracy"]


class Technique(BaseModel):
    """A named group of keys in which the second arm differs from the first."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    """Dotted keys, which have the values of the two arms."""
    same: Same
    """``function``: equal outputs and gradients at the same micro-batch. ``accuracy``: judged by accuracy alone."""


class AblationChain(BaseModel):
    """Two arms and the techniques that lead from the first to the second, added and left out one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str
    end: str
    techniques: dict[str, Technique]

    def arm_with(self, name: str) -> str:
        """Return the name of the arm that has this technique and those before it."""
        return self.end if name == list(self.techniques)[-1] else f"+ {name}"

    def arm_without(self, name: str) -> str:
        """Return the name of the arm that has all techniques except this one."""
        return f"without {name}"

    @property
    def arms(self) -> dict[str, frozenset[str]]:
        """Every arm, in order, with its techniques."""
        names = list(self.techniques)
        added = {self.arm_with(name): frozenset(names[: number + 1]) for number, name in enumerate(names)}
        left_out = {self.arm_without(name): frozenset(names) - {name} for name in names}
        return {self.start: frozenset[str](), **added, **left_out}

    def setting(self, arm: str, start: Mapping[str, Any], end: Mapping[str, Any]) -> Overrides:
        """Return the flat setting of one of :attr:`arms`, made from the settings of the first and the second arm.

        Raises:
            ConfigError: A technique names an unknown key.
        """
        mixed = dict(start)
        for name in self.techniques:
            for key in self.techniques[name].keys if name in self.arms[arm] else ():
                if key not in end:
                    raise ConfigError(f"techniques: {name!r} names the unknown key {key!r}; name keys as the arms do")
                mixed[key] = end[key]
        return mixed


def refuse_unexplained(mixed: Mapping[str, Any], end: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that all techniques together turn the first arm into the second.

    Raises:
        ConfigError: The arms differ in keys that no technique names.
    """
    left = sorted(key for key in end if mixed[key] != end[key])
    if left:
        raise ConfigError(
            f"techniques: the arms also differ in {', '.join(left)}; name these keys under one of "
            f"{', '.join(names)}, or set them alike"
        )


class Part(BaseModel):
    """A workload that is measured over arms × axes − exclusions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workload: str = TRAINING_STEP
    """Registered name."""
    set: Overrides = {}
    """Dotted keys that replace values of every arm's base."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted key -> values. The cells are every combination of an arm with one value per key."""
    exclude: tuple[Overrides, ...] = ()
    """Cells to leave out: those that have all the values of an entry."""
    repeats: Annotated[int, Field(strict=True, ge=1)] = 3
    """Processes per cell. The processes of all cells are interleaved."""
    timeout_s: Annotated[float, Field(gt=0)] = 600
    """Deadline of one process."""
    warmup_steps: Annotated[int, Field(strict=True, ge=1)] = 1
    """Steps before the first timed one, in which the optimizer makes its state."""
    timed_steps: Annotated[int, Field(strict=True, ge=1)] = 3
    """Timed steps in each process, which reports their median."""
    sampler_check_pairs: Annotated[int, Field(strict=True, ge=0)] = 0
    """Pairs of blocks of steps, with and without the sampler, that measure the cost of sampling in each process."""


def _size_with_unit(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a size with its unit, like ram_limit: 4GiB")
    if value is not None:
        parse_bytes(value)
    return value


class GridConfig(Part):
    """A whole grid file."""

    base: Path | None = None
    """Training file that the arms start from, relative to the grid file."""
    arms: Annotated[dict[str, Overrides], Field(min_length=1)] = {"default": {}}
    """Name -> dotted overrides. The key ``base`` starts this arm from another training file."""
    techniques: dict[str, Technique] = {}
    """Name -> a group of keys in which the first two arms differ; or the name of a file of these, relative to the grid
    file. Further arms add the techniques one by one, in this order, and leave out one technique each."""
    isolation: Literal["fork", "spawn"] = "fork"
    """``fork``: fast; ``spawn``: a fresh interpreter per cell, for absolute values of RAM."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: CUDA if there is a GPU, otherwise the CPU."""
    sample_hz: Annotated[float, Field(gt=0, le=20)] = 20
    """Readings of RSS and NVML per second."""
    ram_limit: Annotated[str | None, BeforeValidator(_size_with_unit)] = None
    """Limit of a cell's data segment, like ``8GiB``; a cell that needs more ends as ``oom_host``."""
    sides: Literal[1, 2] = 1
    """``2``: measure every cell against itself (A/A test). Each repeat is a pair of processes in random order."""
    invalid_reruns: Annotated[int, Field(strict=True, ge=0)] = 1
    """Number of times that a run with interference is repeated; ``0``: such a run is only marked."""
    also: tuple[Part, ...] = ()
    """Further workloads that are measured with the same arms into the same run directory."""

    @model_validator(mode="after")
    def _techniques_lie_between_two_arms(self) -> GridConfig:
        if self.techniques and len(self.arms) < 2:
            raise ValueError("techniques lead from the first arm to the second, but the grid has only one")
        return self

    @property
    def ablation(self) -> AblationChain | None:
        """The techniques with the two arms that they lie between; None if the grid names no technique."""
        if not self.techniques:
            return None
        start, end = list(self.arms)[:2]
        return AblationChain(start=start, end=end, techniques=self.techniques)

    @property
    def all_arms(self) -> tuple[str, ...]:
        """Names of the arms of the file, and of those that the techniques make."""
        return tuple(dict.fromkeys([*(self.ablation.arms if self.ablation else ()), *self.arms]))

    def repeated(self, times: int) -> GridConfig:
        """Return the grid with this number of processes per cell."""
        also = tuple(part.model_copy(update={"repeats": times}) for part in self.also)
        return self.model_copy(update={"repeats": times, "also": also})

    def with_workload(self, name: str) -> GridConfig:
        """Return the grid with only the parts that measure this workload.

        Raises:
            ConfigError: No part measures it.
        """
        chosen = [part for part in self.parts if part.workload == name]
        if not chosen:
            known = {part.workload for part in self.parts}
            raise ConfigError(f"--workload: the grid does not run {name!r}{nearest(name, known)}")
        first, *others = chosen
        own = {key: getattr(first, key) for key in Part.model_fields}
        return self.model_copy(update=own | {"also": tuple(others)})

    @property
    def parts(self) -> tuple[Part, ...]:
        """The main part and the further parts, in order."""
        return (self, *self.also)


def load_grid(path: Path) -> GridConfig:
    """Read a grid file. A plain training file is read as a grid of one cell of ``train_step``.

    Raises:
        ConfigError: The file cannot be read, has an unknown key or a value of a wrong type, or the grid is empty.
    """
    values = read_yaml(path)
    use_projects_of(path.parent)
    if not GridConfig.model_fields.keys() & values.keys():
        return GridConfig(base=path.resolve(), repeats=1)
    if isinstance(values.get("techniques"), str):
        values = values | {"techniques": read_yaml(path.parent / values["techniques"])}
    grid = validate(GridConfig, values, str(path))
    if grid.base is not None:
        grid = grid.model_copy(update={"base": path.parent / grid.base})
    arms = {
        name: overrides | ({"base": path.parent / str(overrides["base"])} if "base" in overrides else {})
        for name, overrides in grid.arms.items()
    }
    return grid.model_copy(update={"arms": arms})


def with_device(grid: GridConfig, device: str | None) -> GridConfig:
    """Return the grid with another device; with None, the grid as it is."""
    if device is None:
        return grid
    return validate(GridConfig, dict(grid) | {"device": device}, "--device")
