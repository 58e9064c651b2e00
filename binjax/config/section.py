"""What sections of a config are made of: frozen tables, ranges of numbers, lists."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, lt=2**24)]
NonNegative = Annotated[int, Field(ge=0, lt=2**24)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One or more; a single value may stand without brackets."""


class Section(BaseModel):
    """A frozen table of the file: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
