"""Expands a grid into cells (arms × axes − exclusions), and gives each cell its id.

The id is a hash of the canonical values that differ from the workload's versioned defaults. So the same setting has the
same id everywhere, and a new key with a default changes no old id.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from slr_bench.errors import ConfigError
from slr_bench.files import Overrides, Values, flatten, nest
from slr_bench.grid.config import GridConfig, Part, refuse_unexplained
from slr_bench.grid.workload import WorkloadSpec, find_workload
from slr_bench.grid.yaml_files import read_yaml, validate
from slr_bench.units import nearest

ID_LENGTH = 12
MOST_CELLS = 10_000
_EMPTY = "the grid is empty: its exclusions leave no cell; relax exclude"


@dataclass(frozen=True)
class Cell:
    """One setting of the grid, ready to run."""

    cell_id: str
    arm: str
    spec: WorkloadSpec
    part: Part
    settings: BaseModel
    coordinates: Mapping[str, Any]
    is_own: bool
    """True if this is the arm's own setting. The axes may pass through it."""

    @property
    def public_setting(self) -> Values:
        """The whole setting as JSON values without paths; the hash of a file's content replaces its path."""
        return nest(_canonical(self.settings))


def expand(grid: GridConfig, overrides: Overrides, arm: str | None = None) -> list[Cell]:
    """Return all cells in order: by part, then by arm, then along the axes.

    ``overrides`` (``--set``) take precedence over arms and axes.

    Raises:
        ConfigError: A key or value is unknown, the arm is unknown, the grid is empty, or two cells differ only in a
            path.
    """
    cells, refused = expand_each(grid, overrides, arm)
    if refused:
        raise ConfigError(next(iter(refused.values())))
    return cells


def expand_each(grid: GridConfig, overrides: Overrides, arm: str | None = None) -> tuple[list[Cell], dict[str, str]]:
    """Return the cells of the arms that can be expanded, and the reason for each arm that cannot.

    Raises:
        ConfigError: The arm is unknown, the grid is empty, no arm can be expanded, or two cells differ only in a path.
    """
    if arm is not None and arm not in grid.all_arms:
        raise ConfigError(f"--arm: the grid has no arm {arm!r}{nearest(arm, grid.all_arms)}")
    arms = [arm] if arm else grid.all_arms
    _refuse_too_many(grid, len(arms), overrides)
    bases = {name: _arm_base(grid, name) for name in grid.arms}
    cells: list[Cell] = []
    refused: dict[str, str] = {}
    for name in arms:
        try:
            cells += [cell for part in grid.parts for cell in _part_cells(grid, part, name, bases, overrides)]
        except ConfigError as error:
            refused[name] = str(error)
    if not cells:
        raise ConfigError(next(iter(refused.values()), _EMPTY))
    parts = [id(part) for part in grid.parts]
    cells.sort(key=lambda cell: parts.index(id(cell.part)))
    _refuse_path_twins(cells)
    return cells, refused


def _refuse_too_many(grid: GridConfig, arms: int, overrides: Overrides) -> None:
    """Refuse a grid that would take minutes and gigabytes before its first cell."""
    fixed = flatten(overrides)
    lengths = [[len(values) for key, values in part.axes.items() if key not in fixed] for part in grid.parts]
    cells = arms * sum(math.prod(part) for part in lengths)
    if cells > MOST_CELLS:
        raise ConfigError(
            f"the grid has {cells:,} combinations of arms and axes, at most {MOST_CELLS:,} are possible; "
            "shorten its axes, or fix some of them with --set"
        )


def own_cell(grid: GridConfig, overrides: Overrides, arm: str | None = None, workload: str | None = None) -> Cell:
    """Return the cell of an arm's own setting under a workload, without the axes.

    Raises:
        ConfigError: As :func:`expand`; or the grid has several arms and none is named, or it lacks the workload.
    """
    if arm is None and len(grid.arms) > 1:
        raise ConfigError(f"the grid has the arms {', '.join(grid.arms)}; choose one with --arm")
    grid = grid.with_workload(workload or grid.workload)
    return expand(grid.model_copy(update={"axes": {}, "exclude": (), "also": ()}), overrides, arm)[0]


class GpuCell(NamedTuple):
    """The cell of a question about a GPU."""

    cell: Cell
    loader_refusal: str | None = None
    """Why the loader would refuse the setting; the cell has no limit of the loader then."""


def own_gpu_cell(grid: GridConfig, overrides: Overrides, arm: str | None, workload: str | None) -> GpuCell:
    """Return the cell of :func:`own_cell`. If a limit of the loader alone refuses it, the cell is without that limit.

    Raises:
        ConfigError: As :func:`own_cell`.
    """
    try:
        return GpuCell(own_cell(grid, overrides, arm, workload))
    except ConfigError as error:
        with contextlib.suppress(ConfigError):
            limits = find_workload(workload or grid.workload).loader_limits
            cell = own_cell(grid, flatten(overrides) | dict.fromkeys(limits), arm, workload)
            return GpuCell(cell, " ".join(str(error).split()))
        raise


def _arm_base(grid: GridConfig, arm: str) -> Overrides:
    path = grid.arms[arm].get("base", grid.base)
    return flatten(read_yaml(Path(path))) if path else {}


def _part_cells(
    grid: GridConfig, part: Part, arm: str, bases: Mapping[str, Overrides], overrides: Overrides
) -> Iterator[Cell]:
    spec = find_workload(part.workload)
    overrides = flatten(overrides)
    _refuse_grid_keys(spec, overrides)
    own_values = _own_values(grid, part, arm, bases, overrides)
    own = _settings(spec, own_values, f"arm {arm!r}")
    axes = {key: values for key, values in part.axes.items() if key not in overrides}
    own_flat = _canonical(own)
    for key in part.axes:
        if key not in own_flat:
            raise ConfigError(f"axes: unknown key {key!r}{nearest(key, own_flat)}")
    for combination in itertools.product(*axes.values()):
        coordinates = dict(zip(axes, combination, strict=True))
        settings = _settings(spec, own_values | coordinates, f"arm {arm!r}, {coordinates}") if axes else own
        flat = _canonical(settings)
        if any(_matches(flat, entry) for entry in part.exclude):
            continue
        yield Cell(
            cell_id=cell_id(spec, settings),
            arm=arm,
            spec=spec,
            part=part,
            settings=settings,
            coordinates={key: flat[key] for key in axes},
            is_own=flat == own_flat,
        )


def _own_values(
    grid: GridConfig, part: Part, arm: str, bases: Mapping[str, Overrides], overrides: Overrides
) -> Overrides:
    """Return the arm's own setting, flat. A nested section adds its keys to those of the base."""
    if arm in grid.arms:
        arm_values = {key: value for key, value in grid.arms[arm].items() if key != "base"}
        return flatten(bases[arm]) | flatten(grid.set) | flatten(part.set) | flatten(arm_values) | overrides
    assert grid.ablation is not None, "only techniques make further arms"
    spec = find_workload(part.workload)
    start, end = (
        flatten(_settings(spec, _own_values(grid, part, name, bases, overrides), f"arm {name!r}").model_dump())
        for name in (grid.ablation.start, grid.ablation.end)
    )
    everything = _settings(spec, grid.ablation.setting(grid.ablation.end, start, end), "all techniques together")
    refuse_unexplained(flatten(everything.model_dump()), end, grid.techniques)
    return grid.ablation.setting(arm, start, end)


def _refuse_grid_keys(spec: WorkloadSpec, overrides: Overrides) -> None:
    """Refuse ``--set repeats=1``: the nearest key of a setting would be the wrong cure."""
    for key in (GridConfig.model_fields.keys() - spec.settings.model_fields.keys()) & overrides.keys():
        option = ", or pass --repeats to run, compare or gate" if key == "repeats" else ""
        raise ConfigError(
            f"--set {key}: {key} is a key of a grid file, not of a setting; change it in the file{option}"
        )


def _matches(flat: Overrides, entry: Overrides) -> bool:
    for key in entry:
        if key not in flat:
            raise ConfigError(f"exclude: unknown key {key!r}{nearest(key, flat)}")
    return all(_is_same(flat[key], value) for key, value in entry.items())


def _is_same(value: Any, written: Any) -> bool:
    """Return whether a setting has the value of an exclusion. YAML reads ``1e-3`` as text, a setting as a number."""
    if isinstance(value, float) and isinstance(written, str):
        with contextlib.suppress(ValueError):
            written = float(written)
    return bool(value == written)


def _settings(spec: WorkloadSpec, values: Overrides, where: str) -> BaseModel:
    return validate(spec.settings, nest(values), where)


def cell_id(spec: WorkloadSpec, settings: BaseModel) -> str:
    """Return 12 hex digits over workload, version of the defaults, and the canonical values that differ from them."""
    defaults = _canonical(spec.settings())
    values = _canonical(settings)
    different = {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
    identity = {"workload": spec.name, "defaults": spec.defaults_version, "setting": different}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def _canonical(settings: BaseModel) -> Overrides:
    """Return dotted key -> JSON value. A path to a file becomes the hash of its content, any other path null."""
    values: Overrides = {}
    for key, value in flatten(settings.model_dump()).items():
        if not isinstance(value, Path):
            values[key] = list(value) if isinstance(value, tuple) else value
        elif value.is_file():
            values[key] = "sha256:" + hashlib.sha256(value.read_bytes()).hexdigest()[:16]
        else:
            values[key] = None
    return values


def _refuse_path_twins(cells: list[Cell]) -> None:
    first: dict[str, Cell] = {}
    for cell in cells:
        twin = first.setdefault(cell.cell_id, cell)
        if twin.settings != cell.settings:
            raise ConfigError(
                f"arms {twin.arm!r} and {cell.arm!r} differ only in a directory, which is not part of a setting; "
                "measure them into two run directories"
            )
