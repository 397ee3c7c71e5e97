"""What all sections of a configuration share. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[int, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Flag = Annotated[bool, Field(strict=True)]


class Frozen(BaseModel):
    """Immutable; unknown keys are refused; each field's docstring is its help text and the schema's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def refuse_pairs(key: str, reasons: Mapping[str, str | Literal[False]], cure: str = "") -> None:
    """Refuse ``key`` (with its value) beside the first other one that has a reason; False: that one may stand.

    Raises:
        ValueError: such a pair; ``cure`` ends the message.
    """
    for what, reason in reasons.items():
        if reason:
            raise ValueError(f"{key} cannot go with {what}: {reason}{cure}")
