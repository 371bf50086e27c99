"""Types and base classes that the slices' request and response bodies share."""

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[Id, Field(description="Up to 64 letters, digits, dots, dashes and underscores.")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_DEPTH = 32  # of nesting in free-form JSON


def _printable(text: str) -> str:
    """`text`. Raises ValueError for control characters and half surrogate pairs, which some databases cannot store."""
    if match := UNPRINTABLE.search(text):
        raise ValueError(f"holds the character U+{ord(match[0]):04X}; send printable text")
    return text


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """`value`. Raises ValueError for content that some databases cannot store as JSON."""
    layer: Iterable[Any] = (value,)
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, str):
                _printable(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"holds {item}; send finite numbers")
            elif isinstance(item, dict):
                inner += (*item, *item.values())
            elif isinstance(item, list):
                inner += item
        if not inner:
            return value
        layer = inner
    raise ValueError(f"is nested more than {MAX_DEPTH} deep")


PageSize = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[Id | None, Query(description="`next` of the previous page.")]
Text = Annotated[str, AfterValidator(_printable)]
PlainJson = Annotated[dict[str, Any], AfterValidator(_plain)]


class Request(BaseModel):
    """A request body. It refuses unknown fields, NaN and infinities, and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Answer(BaseModel):
    """A response body."""

    model_config = ConfigDict(from_attributes=True)


class FieldProblem(BaseModel):
    """The problem with one field of a request."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """Why a request was refused (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = Field(description="Names the value, the limit and what to do.")
    errors: list[FieldProblem] = Field([], description="The invalid fields of the request.")


class Page(Answer, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(None, description="Send it as `cursor` to get the next page; null on the last page.")
