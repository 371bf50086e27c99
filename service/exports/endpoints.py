"""/v1/candidates/{id}/onnx."""

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, JSONResponse, Response

from service.exports import queries
from service.exports.request import file_name, request_export
from service.exports.schemas import Precision
from service.web import events
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.files import ArtifactResponse
from service.web.schemas import Id

router = APIRouter(tags=["candidates"])
PrecisionOf = Annotated[Precision, Query()]
ONNX = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.head("/candidates/{candidate_id}/onnx", dependencies=[needs("read")], include_in_schema=False)
@router.get(
    "/candidates/{candidate_id}/onnx",
    dependencies=[needs("read")],
    summary="Download a candidate's ONNX file",
    response_class=FileResponse,
    responses={
        200: {"content": ONNX},
        202: {"description": "A worker is building the file. Repeat the request after Retry-After seconds."},
        206: {"description": "The requested ranges."},
        304: {"description": "The file is still the one whose ETag was sent."},
        416: {"description": "No requested range lies inside the file."},
    },
)
def download_onnx(
    candidate_id: Id,
    context: ContextOf,
    precision: PrecisionOf = "fp32",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """A candidate's network as an ONNX file, whose results were compared with torch. The first request has it built.

    Range and If-None-Match work.
    """
    with context.database.reading() as session:
        export = queries.find(session, candidate_id, precision)
    if export is None or export.sha256 is None:
        with context.database.writing() as session:
            export = request_export(session, context.jobs, candidate_id, precision)
    if export.sha256 is None:
        where = f"/v1/candidates/{candidate_id}/onnx?precision={precision}"
        return JSONResponse(
            {"status": export.status, "onnx": where}, status_code=202, headers={"Location": where, "Retry-After": "1"}
        )
    headers = {"ETag": f'"{export.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if export.sha256 in if_none_match or if_none_match.strip() == "*":
        return Response(status_code=304, headers=headers)
    with context.database.reading() as session:
        name = file_name(session, export)
    path = context.store.path(export.sha256)
    return ArtifactResponse(path, headers=headers, media_type="application/octet-stream", filename=name)


def export(candidate_id: Id, precision: PrecisionOf = "fp32") -> events.ReadRow:
    """Which export to watch."""
    return lambda session: queries.get(session, candidate_id, precision)


events.add_events(router, "/candidates/{candidate_id}/onnx/events", export, summary="Watch an export")
