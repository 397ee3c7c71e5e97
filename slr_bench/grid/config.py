"""A grid file, read and checked. Every mistake in it is told before any process starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slr_bench.errors import ConfigError
from slr_bench.files import Overrides
from slr_bench.grid.project_file import use_projects_of
from slr_bench.grid.techniques import AblationChain, Technique
from slr_bench.grid.yaml_files import read_yaml, validate
from slr_bench.units import nearest, parse_bytes

TRAINING_STEP: Final = "train_step"
"""The workload of a plain training file."""


class Part(BaseModel):
    """One workload measured over arms x axes - exclusions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workload: str = TRAINING_STEP
    """Registered name."""
    set: Overrides = {}
    """Laid over every arm's base."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted key -> values; the cells are their cross product with the arms."""
    exclude: tuple[Overrides, ...] = ()
    """Combinations left out: a cell that has all the values of an entry is dropped."""
    repeats: Annotated[int, Field(strict=True, ge=1)] = 3
    """Processes a cell, interleaved across cells."""
    timeout_s: Annotated[float, Field(gt=0)] = 600
    """Deadline of one process."""
    warmup_steps: Annotated[int, Field(strict=True, ge=1)] = 1
    """Steps before the first timed one: the optimizer state must exist."""
    timed_steps: Annotated[int, Field(strict=True, ge=1)] = 3
    """Steps timed in each process; its reading is their median."""
    sampler_check_pairs: Annotated[int, Field(strict=True, ge=0)] = 0
    """Pairs of blocks (sampler on, off) run in each process to measure what sampling costs."""


def _size_with_unit(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a size with its unit, like ram_limit: 4GiB")
    if value is not None:
        parse_bytes(value)
    return value


class GridConfig(Part):
    """A whole grid file."""

    base: Path | None = None
    """Training file the arms start from, relative to the grid file."""
    arms: Annotated[dict[str, Overrides], Field(min_length=1)] = {"default": {}}
    """Name -> dotted overrides. The key ``base`` starts this arm from another training file."""
    techniques: dict[str, Technique] = {}
    """Name -> the keys it stands for, between the first two arms; or the name of a file of these, relative to the grid
    file. Further arms add them one by one, in this order, and leave them out one by one; the report draws it."""
    isolation: Literal["fork", "spawn"] = "fork"
    """``fork``: fast; ``spawn``: a fresh interpreter a cell, for absolute RAM figures."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: CUDA where there is one."""
    sample_hz: Annotated[float, Field(gt=0, le=20)] = 20
    """Readings of RSS and NVML a second."""
    ram_limit: Annotated[str | None, BeforeValidator(_size_with_unit)] = None
    """Limit of a cell's data segment, like ``8GiB``; above it the cell ends as ``oom_host``."""
    sides: Literal[1, 2] = 1
    """``2``: A/A, the same cell as both sides; each repeat is a pair of neighbours, AB or BA by a coin."""
    invalid_reruns: Annotated[int, Field(strict=True, ge=0)] = 1
    """How often a run that was disturbed from outside is made again; ``0``: never, it is only marked."""
    also: tuple[Part, ...] = ()
    """Further workloads measured on the same arms into the same run directory."""

    @model_validator(mode="after")
    def _techniques_lie_between_two_arms(self) -> GridConfig:
        if self.techniques and len(self.arms) < 2:
            raise ValueError(f"techniques lead from the first arm to the second, the grid has {len(self.arms)}")
        return self

    @property
    def ladder(self) -> AblationChain | None:
        """What the techniques make of the arms."""
        if not self.techniques:
            return None
        start, end = list(self.arms)[:2]
        return AblationChain(start=start, end=end, techniques=self.techniques)

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arms, and those that the techniques make."""
        return tuple(dict.fromkeys([*(self.ladder.arms if self.ladder else ()), *self.arms]))

    def repeated(self, times: int) -> GridConfig:
        """The same cells, so many processes each."""
        also = tuple(part.model_copy(update={"repeats": times}) for part in self.also)
        return self.model_copy(update={"repeats": times, "also": also})

    def of_workload(self, name: str) -> GridConfig:
        """The parts that measure this workload.

        Raises:
            ConfigError: none does.
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
        """The main part and the further ones, in order."""
        return (self, *self.also)


def load_grid(path: Path) -> GridConfig:
    """Read a grid file; a plain training file is a grid of one cell of ``train_step``.

    Raises:
        ConfigError: unreadable, unknown key (nearest offered), wrong type, empty grid.
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
    """The grid on another device; None leaves the grid's own."""
    if device is None:
        return grid
    return validate(GridConfig, dict(grid) | {"device": device}, "--device")
