"""Shared parts of all configuration sections. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[int, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Flag = Annotated[bool, Field(strict=True)]


class Frozen(BaseModel):
    """Base of the sections: immutable, refuses unknown keys. The docstring of a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _taken_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``true`` where a number is expected, and an empty path, which would mean the working directory."""
        kinds = list(_kinds(cls.model_fields[info.field_name or ""].annotation))
        if isinstance(value, bool) and float in kinds:
            raise ValueError("Input should be a number, not true or false")
        if value == "" and Path in kinds:
            raise ValueError("an empty path names nothing; give a path, or use null for none")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def refuse_pairs(key: str, reasons: Mapping[str, str | Literal[False]], cure: str = "") -> None:
    """Refuse ``key`` (with its value) beside the first other key that has a reason; False means that both may be set.

    Raises:
        ValueError: such a pair; ``cure`` ends the message.
    """
    for what, reason in reasons.items():
        if reason:
            raise ValueError(f"{key} cannot go with {what}: {reason}{cure}")
