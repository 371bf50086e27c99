"""Answers as tables for spreadsheets: `text/csv` (RFC 4180)."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Header
from starlette.responses import Response

CSV = "text/csv"
CSV_CONTENT: dict[str, Any] = {CSV: {"schema": {"type": "string"}}}  # for OpenAPI
AcceptOf = Annotated[str, Header(include_in_schema=False)]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text that begins so


def prefers_csv(accept: str) -> bool:
    """Whether a client's header `Accept` prefers CSV to JSON."""
    return _quality(accept, CSV) > _quality(accept, "application/json")


def _quality(accept: str, media_type: str) -> float:
    """The weight of a media type in a header `Accept`; that of the most specific range counts."""
    group = media_type.partition("/")[0]
    ranges = {"*/*": 0, f"{group}/*": 1, media_type: 2}
    best = (-1, 0.0)
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        if name in ranges:
            best = max(best, (ranges[name], float(weight) if weight.replace(".", "", 1).isdecimal() else 1.0))
    return best[1]


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows, with a header. Null is an empty cell. Texts that look like a formula get an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_cell, columns))
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def csv_response(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """A table as a file of this name."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept"}
    return Response(csv_text(columns, rows), media_type=CSV, headers=headers)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
