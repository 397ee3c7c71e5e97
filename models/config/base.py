"""What all sections of a configuration share. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[int, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Flag = Annotated[bool, Field(strict=True)]


class Frozen(BaseModel):
    """Immutable; unknown keys are refused; each field's docstring is its help text and the schema's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
