"""/v1/candidates/{id}/onnx."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from service.context import ContextOf
from service.exports import queries, rules
from service.exports.rules import Precision
from service.schemas import Id

router = APIRouter(tags=["candidates"])
ONNX = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/candidates/{candidate_id}/onnx",
    response_class=FileResponse,
    responses={
        200: {"content": ONNX},
        202: {"description": "It is being built; ask again after Retry-After."},
        304: {"description": "The file is still the one whose ETag was sent."},
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
    return FileResponse(path, headers=headers, media_type="application/octet-stream", filename=name)
