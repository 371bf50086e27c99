"""/v1/candidates/{id}/onnx."""

import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from service.exports import queries
from service.exports import request as rules
from service.exports.request import Precision
from service.web.dependencies import ContextOf
from service.web.problems import problem_response
from service.web.schemas import Id

router = APIRouter(tags=["candidates"])
ONNX = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.head("/candidates/{candidate_id}/onnx", include_in_schema=False)
@router.get(
    "/candidates/{candidate_id}/onnx",
    response_class=FileResponse,
    responses={
        200: {"content": ONNX},
        202: {"description": "It is being built; ask again after Retry-After."},
        206: {"description": "The ranges asked for."},
        304: {"description": "The file is still the one whose ETag was sent."},
        416: {"description": "No range asked for is inside the file."},
    },
)
def onnx(
    candidate_id: Id,
    context: ContextOf,
    precision: Annotated[Precision, Query()] = "fp32",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """A candidate's network as ONNX, compared with torch before it is offered. Range and If-None-Match are honoured."""
    with context.database.reading() as session:
        export = queries.find(session, candidate_id, precision)
    if export is None or export.sha256 is None:
        with context.database.writing() as session:
            export = rules.ask(session, context.jobs, candidate_id, precision)
    if export.sha256 is None:
        where = f"/v1/candidates/{candidate_id}/onnx?precision={precision}"
        return JSONResponse(
            {"status": export.status, "onnx": where}, status_code=202, headers={"Location": where, "Retry-After": "1"}
        )
    headers = {"ETag": f'"{export.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if export.sha256 in if_none_match or if_none_match.strip() == "*":
        return Response(status_code=304, headers=headers)
    with context.database.reading() as session:
        name = rules.file_name(session, export)
    path = context.store.path(export.sha256)
    return ArtifactResponse(path, headers=headers, media_type="application/octet-stream", filename=name)


class ArtifactResponse(FileResponse):
    """A file, or the ranges of it that were asked for, with this API's errors (RFC 9110, section 14).

    A Range header of no known form is ignored; ranges that all lie outside the file are answered with a problem.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = MutableHeaders(raw=[*scope["headers"]])
        asked, condition = headers.get("range"), headers.get("if-range")
        if asked is not None:
            size = Path(self.path).stat().st_size
            found = satisfiable(asked, size)
            del headers["range"]
            if found:
                headers["range"] = "bytes=" + ",".join(f"{first}-{last}" for first, last in found)
            elif found is not None and condition in (None, self.headers["etag"]):
                problem = rules.RangeError(f"Range is {asked!r:.80}; the file has {size} bytes").problem_document()
                response = problem_response(problem, {"Content-Range": f"bytes */{size}"})
                await response(scope, receive, send)
                return
        await super().__call__({**scope, "headers": headers.raw}, receive, send)


def satisfiable(header: str, size: int) -> list[tuple[int, int]] | None:
    """The first and last byte of each range that a Range header asks of a file; None for a header of no known form.

    Ranges outside the file are left out.
    """
    unit, equals, asked = header.partition("=")
    specs = [spec.strip(" \t") for spec in asked.split(",")]
    if (
        not equals
        or unit.strip().lower() != "bytes"
        or not all(re.fullmatch(r"[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18}", spec) for spec in specs)
    ):
        return None
    found = []
    for spec in specs:
        first, _, last = spec.partition("-")
        if first and last and int(last) < int(first):
            return None
        start, stop = (int(first), min(int(last or size), size - 1)) if first else (max(0, size - int(last)), size - 1)
        if start <= stop:
            found.append((start, stop))
    return found
