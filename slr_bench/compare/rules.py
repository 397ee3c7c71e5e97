"""Parse the rules of the gate, which say how much worse a metric may get, from ``METRIC:LIMIT`` or a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from slr_bench.errors import ConfigError
from slr_bench.grid.yaml_files import read_yaml, validate
from slr_bench.units import parse_bytes, plain

Kind = Literal["percent", "points", "bytes", "s", "J", "1"]
"""Unit of a limit: percent of the base's value, percentage points of a ratio, or the metric's own unit."""

OPTIONAL: Final = "optional"
EXAMPLE: Final = "peak_tensor_bytes:0%, step_time_s:10%:optional or peak_rss_bytes:100MiB"
_NUMBER: Final = re.compile(r"\s*(?P<number>\d{1,30}(?:\.\d{1,30})?)\s*(?P<unit>[^\d\s.]*)\s*")
_FACTORS: Final[Mapping[str, tuple[Kind, str]]] = {
    "%": ("percent", "1"),
    "pp": ("points", "1"),
    "us": ("s", "1e-6"),
    "µs": ("s", "1e-6"),
    "ms": ("s", "1e-3"),
    "s": ("s", "1"),
    "J": ("J", "1"),
    "": ("1", "1"),
}
UNITS: Final[Mapping[Kind, str]] = {"points": "ratio", "bytes": "bytes", "s": "s", "J": "J", "1": "1"}
"""Unit of the metrics to which an absolute limit applies."""


@dataclass(frozen=True)
class Limit:
    """The largest accepted worsening. It is exact, so that rounding cannot exceed it."""

    amount: Fraction
    """A number of percent, percentage points, bytes, seconds, joules, or a plain count."""
    kind: Kind


@dataclass(frozen=True)
class Rule:
    """One metric with its limit."""

    metric: str
    limit: Limit
    text: str
    """The rule as the user wrote it."""
    optional: bool = False
    """If the rule cannot be evaluated, the gate ignores it."""


@dataclass(frozen=True)
class RuleSet:
    """All rules of a gate."""

    rules: tuple[Rule, ...]
    allow_missing: tuple[str, ...] = ()
    """Patterns of cells that the head may lack."""


class _RuleFields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: str | int | float
    optional: bool = False


class _RuleFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: dict[str, str | int | float | _RuleFields]
    allow_missing: list[str] = []


def parse_rule(text: str) -> Rule:
    """Parse a rule like ``step_time_s:10%:optional``.

    Raises:
        ConfigError: another form, or an invalid limit.
    """
    metric, *rest = (part.strip() for part in text.split(":"))
    if not metric or len(rest) not in (1, 2) or rest[1:] not in ([], [OPTIONAL]):
        raise ConfigError(f"--rule {plain(text)!r} is not METRIC:LIMIT; write it like {EXAMPLE}")
    return Rule(metric, parse_limit(rest[0], f"--rule {plain(text)!r}"), plain(text), optional=len(rest) == 2)


def parse_limit(text: str, where: str) -> Limit:
    """Parse ``2%``, ``100MiB``, ``50ms``, ``2pp``, ``3J`` or ``1000``.

    Raises:
        ConfigError: anything else. The message begins with ``where``.
    """
    found = _NUMBER.fullmatch(text)
    unit = found["unit"] if found else ""
    if found and unit in _FACTORS:
        kind, factor = _FACTORS[unit]
        return Limit(Fraction(Decimal(found["number"])) * Fraction(factor), kind)
    try:
        return Limit(Fraction(parse_bytes(text if found else "")), "bytes")
    except ValueError:
        raise ConfigError(
            f"{where}: limit {plain(text, 60)!r} is not an amount with a unit; "
            "write percent (0%, 2.5%), bytes (100MiB), a time (50ms), points of a ratio (2pp), or a plain count; "
            "negative limits are not allowed"
        ) from None


def read_rules(path: Path) -> RuleSet:
    """Read a rules file: ``rules`` (metric -> limit, or ``{limit, optional}``) and ``allow_missing`` (patterns).

    Raises:
        ConfigError: unreadable, an unknown key, or an invalid limit.
    """
    values = validate(_RuleFile, read_yaml(path), str(path))
    rules = [_of_file(metric, given, path) for metric, given in values.rules.items()]
    return RuleSet(tuple(rules), tuple(values.allow_missing))


def _of_file(metric: str, given: str | int | float | _RuleFields, path: Path) -> Rule:
    fields = given if isinstance(given, _RuleFields) else _RuleFields(limit=given)
    limit = str(fields.limit)
    text = plain(f"{metric}:{limit}" + (f":{OPTIONAL}" if fields.optional else ""))
    return Rule(metric, parse_limit(limit, f"{path}: rule {plain(metric)!r}"), text, fields.optional)


def gather_rules(texts: Sequence[str], files: Iterable[Path], allow_missing: Sequence[str]) -> RuleSet:
    """Return the rules of the command line and of files together, without duplicates.

    Raises:
        ConfigError: no rule, or an invalid one.
    """
    sets = [read_rules(path) for path in files]
    given = (*(rule for one in sets for rule in one.rules), *map(parse_rule, texts))
    rules = tuple({(rule.metric, rule.limit, rule.optional): rule for rule in given}.values())
    if not rules:
        raise ConfigError(f"no rule: name the metrics that must not get worse, for example --rule {EXAMPLE}")
    return RuleSet(rules, (*(pattern for one in sets for pattern in one.allow_missing), *allow_missing))
