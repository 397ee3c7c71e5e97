"""What a plan may choose between: options of a cell's knobs, micro-batches of its effective batch. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import yaml

from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.grid.cells import Cell
from slr_bench.grid.workload import Capability, Knob
from slr_bench.units import nearest

Overrides = Mapping[str, Any]
NEWEST: Final[Capability] = (99, 0)
"""Of a GPU of which nothing is known: it has what torch uses."""


class Choices(NamedTuple):
    """Options and micro-batches, both as overrides of the cell's setting."""

    options: list[Overrides]
    """A choice for every knob that may be turned; the cell's own first."""
    sizes: list[int]
    """Micro-batches that divide the effective batch, ascending."""
    left_alone: list[str]
    """Why knobs are not turned."""
    allowable: list[str]
    """Knobs that are not turned, and would be if they were allowed."""
    named: list[Overrides]
    """The values that were given beside the knobs, one each."""


def choices_of(
    cell: Cell,
    keep: Collection[str] = (),
    allow: Collection[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    capability: Capability | None = None,
) -> Choices:
    """``keep``: knobs that stay, or the micro-batch's key; ``allow``: knobs that change the model and may; ``vary``:
    keys and the values to choose from, in place of a knob's own; ``capability``: of the GPU.

    Raises:
        ConfigError: an unknown knob, or a key that the setting does not have or that cannot vary by itself.
    """
    setting = flatten(cell.settings.model_dump(mode="json"))
    spec, vary = cell.spec, dict(vary or {})
    names = [knob.name for knob in spec.knobs]
    split = list(spec.batch_keys or ())[:1]
    for option, given, known in (("--keep", keep, [*names, *split]), ("--allow", allow, names)):
        for name in given:
            if name not in known:
                raise ConfigError(f"{option}: {spec.name} has no knob {name!r}{nearest(name, known)}")
    sizes = _sizes(cell, keep, vary.pop(split[0], None) if split else None)
    for key in vary:
        _refuse_unless_free(key, cell, setting, keep, allow)
    turned: list[list[Overrides]] = []
    left_alone, allowable = list[str](), list[str]()
    if not split:
        left_alone.append(f"{spec.name} declares no micro_batch and micro_batches: its batch stays as it is")
    if not spec.knobs:
        left_alone.append(f"{spec.name} declares no knobs")
    for knob in spec.knobs:
        if len(knob.choices[0]) == 1 and knob.choices[0].keys() <= vary.keys():
            continue  # the values that were named take its place
        choices: list[Overrides] = [dict(choice) for choice in knob.choices_on(capability or NEWEST)]
        reason = _why_left(knob, setting, keep, allow)
        if reason is None and not choices:
            reason = f"{knob.name}: none of its choices is for this GPU"
        if reason is None:
            turned.append(_own_first(choices, setting))
        elif not vary.keys() & knob.choices[0].keys():
            left_alone.append(reason)
            allowable += [knob.name] if knob.name not in keep else []
    named = [[{key: value} for value in values] for key, values in vary.items()]
    options: list[Overrides] = [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*turned, *(_own_first(list(one), setting) for one in named))
    ]
    return Choices(options, sizes, left_alone, allowable, [value for one in named for value in one])


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """``KEY=A,B`` -> its values, read as YAML; those of a key given twice together.

    Raises:
        ConfigError: no such form.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"--vary: {text!r} is not KEY=A,B; give one like training.batch_size=2,4")
        try:
            read = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError as error:
            raise ConfigError(f"--vary: the values of {text!r} are no YAML; give one like {key}=2,4") from error
        known = found.setdefault(key, [])
        known += [value for place, value in enumerate(read) if value not in [*known, *read[:place]]]
    return found


def _refuse_unless_free(
    key: str, cell: Cell, setting: Overrides, keep: Collection[str], allow: Collection[str]
) -> None:
    """A key that something else turns, or that there is not, cannot vary."""
    spec = cell.spec
    if key not in setting:
        raise ConfigError(f"--vary: the setting has no key {key!r}{nearest(key, setting)}")
    if key == spec.micro_batches:
        raise ConfigError(f"--vary: {key} follows from {spec.micro_batch} and the effective batch; vary that one")
    for knob in spec.knobs:
        keys = list(knob.choices[0])
        if key in keys and len(keys) > 1 and _why_left(knob, setting, keep, allow) is None:
            raise ConfigError(
                f"--vary: the knob {knob.name} turns {key} together with others; "
                f"add --keep {knob.name}, or leave one out"
            )


def at_size(cell: Cell, size: int) -> Overrides:
    """The overrides for a micro-batch of ``size`` at the cell's effective batch."""
    if cell.spec.batch_keys is None:
        return {}
    of_one, count = cell.spec.batch_keys
    return {of_one: size, count: effective_batch(cell) // size}


def effective_batch(cell: Cell) -> int:
    """Samples a step; 1 where the workload does not say."""
    setting = flatten(cell.settings.model_dump(mode="json"))
    return math.prod(int(setting[key]) for key in cell.spec.batch_keys or ())


def _sizes(cell: Cell, keep: Collection[str], named: Sequence[Any] | None) -> list[int]:
    """The micro-batches: the own one where it is kept, those named, or all that divide the effective batch."""
    key, whole = cell.spec.micro_batch, effective_batch(cell)
    possible = [size for size in range(1, whole + 1) if whole % size == 0]
    if named is not None:
        for size in named:
            if size not in possible or isinstance(size, bool):
                known = ", ".join(map(str, possible))
                raise ConfigError(f"--vary {key}: {size} does not divide the effective batch of {whole}; of {known}")
        possible = sorted(named)
    elif key is not None and key in keep:
        possible = [int(flatten(cell.settings.model_dump(mode="json"))[key])]
    return possible


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
