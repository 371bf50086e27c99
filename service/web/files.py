"""A stored file as an HTTP response, whole or in ranges (RFC 9110, section 14)."""

import re
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from service.errors import SuppleError
from service.web.problems import problem_response


class RangeError(SuppleError):
    """No requested range lies inside the file."""

    status, title = 416, "Range not satisfiable"


class ArtifactResponse(FileResponse):
    """A file, or its requested ranges. Errors are problem documents.

    A Range header in an unknown form is ignored. If every requested range lies outside the file, the response is 416.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, its ranges or the error."""
        headers = MutableHeaders(raw=[*scope["headers"]])
        header, condition = headers.get("range"), headers.get("if-range")
        if header is not None:
            size = Path(self.path).stat().st_size
            ranges = satisfiable_ranges(header, size)
            del headers["range"]
            if ranges:
                headers["range"] = "bytes=" + ",".join(f"{first}-{last}" for first, last in ranges)
            elif ranges is not None and condition in (None, self.headers["etag"]):
                problem = RangeError(f"Range is {header!r:.80}; the file has {size} bytes").problem_document()
                response = problem_response(problem, {"Content-Range": f"bytes */{size}"})
                await response(scope, receive, send)
                return
        await super().__call__({**scope, "headers": headers.raw}, receive, send)


def satisfiable_ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """The first and last byte of each requested range that lies inside a file; None if the header's form is unknown.

    header: the Range header. size: the file's, bytes.
    """
    unit, equals, value = header.partition("=")
    specs = [spec.strip(" \t") for spec in value.split(",")]
    if (
        not equals
        or unit.strip().lower() != "bytes"
        or not all(re.fullmatch(r"[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18}", spec) for spec in specs)
    ):
        return None
    ranges = []
    for spec in specs:
        first, _, last = spec.partition("-")
        if first and last and int(last) < int(first):
            return None
        start, stop = (int(first), min(int(last or size), size - 1)) if first else (max(0, size - int(last)), size - 1)
        if start <= stop:
            ranges.append((start, stop))
    return ranges
