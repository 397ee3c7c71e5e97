"""What all sections of a configuration share. Imports no torch."""

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
    """Immutable; unknown keys are refused; each field's docstring is its help text and the schema's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _taken_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Without this ``true`` would be the number 1.0, and an empty path the working directory."""
        kinds = list(_kinds(cls.model_fields[info.field_name or ""].annotation))
        if isinstance(value, bool) and float in kinds:
            raise ValueError("Input should be a number, not true or false")
        if value == "" and Path in kinds:
            raise ValueError("an empty path names nothing; name one, or use null for none")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def refuse_pairs(key: str, reasons: Mapping[str, str | Literal[False]], cure: str = "") -> None:
    """Refuse ``key`` (with its value) beside the first other one that has a reason; False: that one may stand.

    Raises:
        ValueError: such a pair; ``cure`` ends the message.
    """
    for what, reason in reasons.items():
        if reason:
            raise ValueError(f"{key} cannot go with {what}: {reason}{cure}")
