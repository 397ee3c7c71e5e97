"""What a plan may choose between: options of a cell's knobs, micro-batches of its effective batch. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from slr_bench.errors import ConfigError, nearest
from slr_bench.grid.cells import Cell, flatten
from slr_bench.grid.workload import Knob

Overrides = Mapping[str, Any]


class Choices(NamedTuple):
    """Options and micro-batches, both as overrides of the cell's setting."""

    options: list[Overrides]
    """A choice for every knob that may be turned; the cell's own first."""
    sizes: list[int]
    """Micro-batches that divide the effective batch, ascending."""
    left_alone: list[str]
    """Why knobs are not turned."""


def choices_of(
    cell: Cell, keep: Collection[str] = (), allow: Collection[str] = (), vary: Mapping[str, Sequence[Any]] | None = None
) -> Choices:
    """``keep``: knobs that stay; ``allow``: knobs that change the model and may; ``vary``: further keys and values.

    Raises:
        ConfigError: an unknown knob, or a key that the setting does not have.
    """
    setting = flatten(cell.settings.model_dump(mode="json"))
    names = [knob.name for knob in cell.spec.knobs]
    for option, given in (("--keep", keep), ("--allow", allow)):
        for name in given:
            if name not in names:
                raise ConfigError(f"{option}: {cell.spec.name} has no knob {name!r}{nearest(name, names)}")
    turned: list[list[Overrides]] = []
    left_alone = []
    for knob in cell.spec.knobs:
        reason = _why_left(knob, setting, keep, allow)
        if reason is not None:
            left_alone.append(reason)
            continue
        turned.append(_own_first([dict(choice) for choice in knob.choices], setting))
    for key, values in (vary or {}).items():
        if key not in setting:
            raise ConfigError(f"--vary: the setting has no key {key!r}{nearest(key, setting)}")
        turned.append(_own_first([{key: value} for value in values], setting))
    options: list[Overrides] = [
        {key: value for part in parts for key, value in part.items()} for parts in itertools.product(*turned)
    ]
    return Choices(options, _sizes(cell, setting), left_alone)


def at_size(cell: Cell, size: int) -> Overrides:
    """The overrides for a micro-batch of ``size`` at the cell's effective batch."""
    spec = cell.spec
    if spec.micro_batch is None or spec.micro_batches is None:
        return {}
    return {spec.micro_batch: size, spec.micro_batches: effective_batch(cell) // size}


def effective_batch(cell: Cell) -> int:
    """Samples a step; 1 where the workload does not say."""
    spec, setting = cell.spec, flatten(cell.settings.model_dump(mode="json"))
    if spec.micro_batch is None or spec.micro_batches is None:
        return 1
    return int(setting[spec.micro_batch]) * int(setting[spec.micro_batches])


def _sizes(cell: Cell, setting: Overrides) -> list[int]:
    whole = effective_batch(cell)
    return [size for size in range(1, whole + 1) if whole % size == 0]


def _own_first(choices: list[Overrides], setting: Overrides) -> list[Overrides]:
    return sorted(choices, key=lambda choice: any(setting.get(key) != value for key, value in choice.items()))


def _why_left(knob: Knob, setting: Overrides, keep: Collection[str], allow: Collection[str]) -> str | None:
    if knob.name in keep:
        return f"{knob.name}: kept"
    if knob.keeps == "nothing" and knob.name not in allow:
        return f"{knob.name}: would change the model (--allow {knob.name})"
    own = [choice for choice in knob.choices if all(setting.get(key) == value for key, value in choice.items())]
    if not own and knob.name not in allow:
        values = ", ".join(f"{key} is {setting.get(key)}" for key in knob.choices[0])
        return f"{knob.name}: {values}, which is none of the choices (--allow {knob.name})"
    return None
