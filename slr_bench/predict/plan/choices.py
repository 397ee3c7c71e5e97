"""The choices of a plan: options of a cell's knobs, and micro-batches of its effective batch. Imports no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from slr_bench.errors import ConfigError
from slr_bench.files import flatten, parse_yaml
from slr_bench.grid.cells import Cell
from slr_bench.grid.workload import Capability, Knob
from slr_bench.units import nearest

Overrides = Mapping[str, Any]
"""Dotted keys with the values that they get."""
NEWEST: Final[Capability] = (99, 0)
"""Assumed for an unknown GPU: it supports all that torch uses."""


class Choices(NamedTuple):
    """Options and micro-batches of a plan."""

    options: list[Overrides]
    """Overrides with a choice for every knob that may change; the cell's own choices first."""
    sizes: list[int]
    """Micro-batches that divide the effective batch, ascending."""
    left_alone: list[str]
    """Why the other knobs stay as they are."""
    allowable: list[str]
    """Knobs that stay as they are until ``--allow`` names them."""
    named: list[Overrides]
    """Every value of ``--vary``, as an override of its own."""


def choices_of(
    cell: Cell,
    keep: Collection[str] = (),
    allow: Collection[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    capability: Capability | None = None,
) -> Choices:
    """Collect what a plan may choose from.

    ``keep`` names knobs that stay, or the micro-batch's key. ``allow`` names knobs that change the model and may change
    all the same. ``vary`` maps keys to values that replace a knob's own choices. ``capability`` is the GPU's.

    Raises:
        ConfigError: a knob is unknown, or a key of ``vary`` is missing in the setting or cannot vary by itself.
    """
    setting = flatten(cell.settings.model_dump(mode="json"))
    spec, vary = cell.spec, dict(vary or {})
    names = [knob.name for knob in spec.knobs]
    batch_key = list(spec.batch_keys or ())[:1]
    for option, given, known in (("--keep", keep, [*names, *batch_key]), ("--allow", allow, names)):
        for name in given:
            if name not in known:
                raise ConfigError(f"{option}: {spec.name} has no knob {name!r}{nearest(name, known)}")
    sizes = _sizes(cell, keep, vary.pop(batch_key[0], None) if batch_key else None)
    for key in vary:
        _require_free(key, cell, setting, keep, allow)
    alternatives: list[list[Overrides]] = []
    left_alone, allowable = list[str](), list[str]()
    if not batch_key:
        left_alone.append(f"{spec.name} declares no micro_batch and micro_batches: its batch stays as it is")
    if not spec.knobs:
        left_alone.append(f"{spec.name} declares no knobs")
    for knob in spec.knobs:
        if len(knob.choices[0]) == 1 and knob.choices[0].keys() <= vary.keys():
            continue  # the values of --vary replace its choices
        choices: list[Overrides] = [dict(choice) for choice in knob.choices_on(capability or NEWEST)]
        reason = _why_left_alone(knob, setting, keep, allow)
        if reason is None and not choices:
            reason = f"{knob.name}: none of its choices is for this GPU"
        if reason is None:
            alternatives.append(_own_first(choices, setting))
        elif not vary.keys() & knob.choices[0].keys():
            left_alone.append(reason)
            allowable += [knob.name] if knob.name not in keep else []
    named = [[{key: value} for value in values] for key, values in vary.items()]
    options: list[Overrides] = [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*alternatives, *(_own_first(list(values), setting) for values in named))
    ]
    return Choices(options, sizes, left_alone, allowable, [value for values in named for value in values])


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Read texts ``KEY=A,B`` as YAML values per key; a key may be given twice.

    Raises:
        ConfigError: a text has another form.
    """
    values_by_key: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise ConfigError(f"--vary: {text!r} is not KEY=A,B; write it like section.key=2,4")
        try:
            parsed = parse_yaml(f"[{values}]")
        except ConfigError as error:
            raise ConfigError(f"--vary {text!r}: {error}; write the values like {key}=2,4") from error
        known = values_by_key.setdefault(key, [])
        known += [value for index, value in enumerate(parsed) if value not in [*known, *parsed[:index]]]
    return values_by_key


def _require_free(key: str, cell: Cell, setting: Overrides, keep: Collection[str], allow: Collection[str]) -> None:
    """Refuse a key of ``--vary`` that is missing, or that the batch or another knob decides."""
    spec = cell.spec
    if key not in setting:
        raise ConfigError(f"--vary: the setting has no key {key!r}{nearest(key, setting)}")
    if key == spec.micro_batches:
        raise ConfigError(f"--vary: {key} follows from {spec.micro_batch} and the effective batch; vary that one")
    for knob in spec.knobs:
        keys = list(knob.choices[0])
        if key in keys and len(keys) > 1 and _why_left_alone(knob, setting, keep, allow) is None:
            raise ConfigError(
                f"--vary: the knob {knob.name} changes {key} together with others; "
                f"add --keep {knob.name}, or leave one out"
            )


def at_size(cell: Cell, size: int) -> Overrides:
    """The overrides for a micro-batch of ``size`` at the cell's effective batch."""
    if cell.spec.batch_keys is None:
        return {}
    micro_batch, micro_batches = cell.spec.batch_keys
    return {micro_batch: size, micro_batches: effective_batch(cell) // size}


def effective_batch(cell: Cell) -> int:
    """Samples per step; 1 if the workload does not declare its batch keys."""
    setting = flatten(cell.settings.model_dump(mode="json"))
    return math.prod(int(setting[key]) for key in cell.spec.batch_keys or ())


def _sizes(cell: Cell, keep: Collection[str], named: Sequence[Any] | None) -> list[int]:
    """The micro-batches: the cell's own if it is kept, the named ones, or all that divide the effective batch."""
    key, batch = cell.spec.micro_batch, effective_batch(cell)
    divisors = [size for size in range(1, batch + 1) if batch % size == 0]
    if named is not None:
        for size in named:
            if size not in divisors or isinstance(size, bool):
                known = ", ".join(map(str, divisors))
                raise ConfigError(
                    f"--vary {key}: {size} does not divide the effective batch of {batch}; choose from {known}"
                )
        return sorted(named)
    if key is not None and key in keep:
        return [int(flatten(cell.settings.model_dump(mode="json"))[key])]
    return divisors


def _own_first(choices: list[Overrides], setting: Overrides) -> list[Overrides]:
    return sorted(choices, key=lambda choice: any(setting.get(key) != value for key, value in choice.items()))


def _why_left_alone(knob: Knob, setting: Overrides, keep: Collection[str], allow: Collection[str]) -> str | None:
    if knob.name in keep:
        return f"{knob.name}: kept"
    if knob.keeps == "nothing" and knob.name not in allow:
        return f"{knob.name}: would change the model (--allow {knob.name})"
    own = [choice for choice in knob.choices if all(setting.get(key) == value for key, value in choice.items())]
    if not own and knob.name not in allow:
        values = ", ".join(f"{key} is {setting.get(key)}" for key in knob.choices[0])
        return f"{knob.name}: {values}, which is none of the choices (--allow {knob.name})"
    return None
