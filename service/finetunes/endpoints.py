"""/v1/candidates/{id}/finetune and /v1/finetunes."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse

from service.candidates.schemas import FineTuningOut
from service.candidates.show import show_fine_tuning
from service.context import Context
from service.errors import ConflictError
from service.finetunes import queries, request
from service.finetunes.queries import UNFINISHED
from service.finetunes.schemas import FineTuningIn
from service.web import events
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.files import ArtifactResponse
from service.web.schemas import Id

router = APIRouter(tags=["fine-tuning"])
FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
SENT: dict[int | str, dict[str, Any]] = {
    200: {"content": FILE},
    206: {"description": "The requested ranges."},
    304: {"description": "The file is still the one whose ETag was sent."},
    409: {"description": "The training has not ended, or it failed."},
    416: {"description": "No requested range lies inside the file."},
}


@router.post(
    "/candidates/{candidate_id}/finetune",
    dependencies=[needs("search")],
    status_code=202,
    summary="Create a fine-tuning",
    responses={200: {"model": FineTuningOut, "description": "This was requested before; here is how it stands."}},
)
def create_fine_tuning(candidate_id: Id, body: FineTuningIn, context: ContextOf, response: Response) -> FineTuningOut:
    """Train a candidate's network alone, from the supernet's weights, by its recipe and on its training images.

    A worker does it. The network is scored on the held-out images before and after. The service needs the images:
    whoever operates it registers them; a request never names them.
    """
    fine_tuning = request.request_fine_tuning(context, candidate_id, body)
    response.headers["Location"] = f"/v1/finetunes/{fine_tuning.id}"
    if fine_tuning.status == "done":
        response.status_code = 200
    else:
        response.headers["Retry-After"] = "5"
    return fine_tuning


@router.get("/finetunes/{fine_tuning_id}", dependencies=[needs("read")], summary="Get a fine-tuning")
def get_fine_tuning(fine_tuning_id: Id, context: ContextOf) -> FineTuningOut:
    """A fine-tuning: its progress, or its accuracies before and after and its files."""
    with context.database.reading() as session:
        return show_fine_tuning(queries.get(session, fine_tuning_id))


def fine_tuning(fine_tuning_id: Id) -> events.ReadRow:
    """Which fine-tuning to watch."""
    return lambda session: queries.get(session, fine_tuning_id)


events.add_events(router, "/finetunes/{fine_tuning_id}/events", fine_tuning, summary="Watch a fine-tuning")


@router.post(
    "/finetunes/{fine_tuning_id}/cancel",
    dependencies=[needs("search")],
    summary="Cancel a fine-tuning",
    responses={409: {"description": "It has ended already."}},
)
def cancel_fine_tuning(fine_tuning_id: Id, context: ContextOf) -> FineTuningOut:
    """Stop a fine-tuning that has not ended. The same request later continues from what was trained."""
    return request.cancel_fine_tuning(context, fine_tuning_id)


@router.head("/finetunes/{fine_tuning_id}/onnx", dependencies=[needs("read")], include_in_schema=False)
@router.get(
    "/finetunes/{fine_tuning_id}/onnx",
    dependencies=[needs("read")],
    summary="Download a fine-tuned network's ONNX file",
    response_class=FileResponse,
    responses=SENT,
)
def download_onnx(fine_tuning_id: Id, context: ContextOf, if_none_match: Annotated[str, Header()] = "") -> Response:
    """The fine-tuned network as an ONNX file, whose results were compared with torch. Range and If-None-Match work."""
    return _download(context, fine_tuning_id, "onnx", if_none_match)


@router.head("/finetunes/{fine_tuning_id}/weights", dependencies=[needs("read")], include_in_schema=False)
@router.get(
    "/finetunes/{fine_tuning_id}/weights",
    dependencies=[needs("read")],
    summary="Download a fine-tuned network's weights",
    response_class=FileResponse,
    responses=SENT,
)
def download_weights(fine_tuning_id: Id, context: ContextOf, if_none_match: Annotated[str, Header()] = "") -> Response:
    """The fine-tuned network's weights as a safetensors file. Range and If-None-Match work."""
    return _download(context, fine_tuning_id, "weights", if_none_match)


def _download(context: Context, fine_tuning_id: str, which: Literal["onnx", "weights"], if_none_match: str) -> Response:
    with context.database.reading() as session:
        row = queries.get(session, fine_tuning_id)
        digest, status, architecture = getattr(row, which), row.status, row.card and row.card["id"]
    if digest is None:
        advice = "wait until it is done" if status in UNFINISHED else "its `problem` says why; request it again"
        raise ConflictError(f"fine-tuning {fine_tuning_id} is {status}, so it has no file; {advice}")
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if digest in if_none_match or if_none_match.strip() == "*":
        return Response(status_code=304, headers=headers)
    name = f"finetuned-{architecture}.{'onnx' if which == 'onnx' else 'safetensors'}"
    path = context.store.path(digest)
    return ArtifactResponse(path, headers=headers, media_type="application/octet-stream", filename=name)
