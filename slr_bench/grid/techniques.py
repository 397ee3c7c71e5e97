"""The way from one arm to another, technique by technique: added one by one, and left out one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slr_bench.errors import ConfigError

Same = Literal["function", "accuracy"]


class Technique(BaseModel):
    """Some keys in which the second arm differs from the first, under one name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    """Dotted keys; their values are those of the arms."""
    same: Same
    """``function``: equal outputs and gradients at the same micro-batch. ``accuracy``: judged by accuracy alone."""


class AblationChain(BaseModel):
    """Two arms and the techniques that lead from the first to the second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str
    end: str
    techniques: dict[str, Technique]

    def arm_with(self, name: str) -> str:
        """The arm that has this technique and those before it."""
        return self.end if name == list(self.techniques)[-1] else f"+ {name}"

    def arm_without(self, name: str) -> str:
        """The arm that has all techniques but this one."""
        return f"without {name}"

    @property
    def arms(self) -> dict[str, frozenset[str]]:
        """Every arm, in order, with the techniques it has."""
        names = list(self.techniques)
        added = {self.arm_with(name): frozenset(names[: place + 1]) for place, name in enumerate(names)}
        left_out = {self.arm_without(name): frozenset(names) - {name} for name in names}
        return {self.start: frozenset[str](), **added, **left_out}

    def setting(self, arm: str, start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Any]:
        """The flat setting of one of :attr:`arms`, from the settings of the two ends.

        Raises:
            ConfigError: a technique names an unknown key.
        """
        mixed = dict(start)
        for name in self.techniques:
            for key in self.techniques[name].keys if name in self.arms[arm] else ():
                if key not in end:
                    raise ConfigError(f"techniques: {name!r} names the unknown key {key!r}; name keys as the arms do")
                mixed[key] = end[key]
        return mixed


def refuse_unexplained(mixed: Mapping[str, Any], end: Mapping[str, Any], names: Iterable[str]) -> None:
    """All techniques together must make the second arm out of the first.

    Raises:
        ConfigError: the arms differ in keys that no technique names.
    """
    left = sorted(key for key in end if mixed[key] != end[key])
    if left:
        raise ConfigError(
            f"techniques: the arms also differ in {', '.join(left)}; name these keys under one of "
            f"{', '.join(names)}, or set them alike"
        )
