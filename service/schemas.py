"""What the slices' request and answer bodies share."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Up to 64 letters, digits, dots, dashes and underscores.",
    ),
]


class Request(BaseModel):
    """A request body: unknown fields, NaN and infinities are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Answer(BaseModel):
    """An answer body."""

    model_config = ConfigDict(from_attributes=True)


class Page(Answer, Generic[T]):
    """A part of a list, newest first."""

    items: list[T]
    next: str | None = Field(None, description="Send it as `cursor` for what follows; null at the end.")
