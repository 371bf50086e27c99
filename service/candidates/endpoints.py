"""/v1/candidates and /v1/fronts."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from service.candidates import show
from service.candidates.fronts import merge_device_fronts, merge_front
from service.candidates.schemas import CandidateOut, Cost, FrontOut
from service.candidates.table import candidates_csv
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.schemas import Id
from service.web.tables import CSV_CONTENT, AcceptOf, prefers_csv

router = APIRouter(tags=["candidates"])


@router.get("/candidates/{candidate_id}", dependencies=[needs("read")], summary="Get a candidate")
def get_candidate(candidate_id: Id, context: ContextOf) -> CandidateOut:
    """One candidate, with the predictions of the newest predictor and latency models."""
    with context.database.reading() as session:
        return show.get_candidate(session, context, candidate_id)


def read_front(
    context: ContextOf,
    supernet: Id,
    x: Annotated[Cost, Query(description="What to trade accuracy for.")] = "latency_ms",
    y: Annotated[Cost | None, Query(description="A second cost.")] = None,
    device: Annotated[Id | None, Query(description="Needed for latency_ms, device_memory_bytes and energy_mj.")] = None,
) -> str:
    """The front that a query asks for, as JSON."""

    def merge() -> str:
        with context.database.reading() as session:
            return merge_front(session, context, supernet, x, y, device).model_dump_json()

    return context.answer(f"front {supernet} {x} {y} {device}", merge)


FrontOf = Annotated[str, Depends(read_front)]
NO_FRONT: dict[int | str, dict[str, Any]] = {404: {"description": "No supernet or device has this name."}}


@router.get(
    "/fronts",
    dependencies=[needs("read")],
    summary="Get the front of a supernet",
    response_model=FrontOut,
    responses={200: {"content": CSV_CONTENT}, **NO_FRONT},
)
def get_front(front: FrontOf, accept: AcceptOf = "") -> Response:
    """The Pareto front over all stored candidates of a supernet: the fronts of all its searches, merged.

    With `Accept: text/csv` only its members, as a table.
    """
    return _as_csv(front) if prefers_csv(accept) else Response(front, media_type="application/json")


@router.get(
    "/fronts.csv",
    dependencies=[needs("read")],
    summary="Download the front of a supernet",
    response_class=Response,
    responses={200: {"content": CSV_CONTENT}, **NO_FRONT},
)
def download_front(front: FrontOf) -> Response:
    """The members of the front over all stored candidates of a supernet, as a table."""
    return _as_csv(front)


def _as_csv(json: str) -> Response:
    front = FrontOut.model_validate_json(json)
    return candidates_csv(front.items, f"front-{front.supernet}.csv")


@router.get(
    "/fronts/devices",
    dependencies=[needs("read")],
    summary="Get the fronts of a supernet on several devices",
    responses={404: {"description": "No supernet or device has this name."}},
)
def get_device_fronts(
    context: ContextOf,
    supernet: Id,
    device: Annotated[
        list[Id], Query(max_length=16, description="By default every device measured for the supernet's search space.")
    ] = [],  # noqa: B006 - FastAPI copies it
) -> dict[str, FrontOut]:
    """By device, the front of accuracy and latency on it over all stored candidates of a supernet."""
    with context.database.reading() as session:
        return merge_device_fronts(session, context, supernet, device)
