"""/v1/candidates and /v1/fronts."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.candidates import fronts as rules
from service.candidates import show
from service.candidates.schemas import CandidateOut, Cost, FrontOut
from service.web.dependencies import ContextOf
from service.web.schemas import Id

router = APIRouter(tags=["candidates"])


@router.get("/candidates/{candidate_id}")
def one(candidate_id: Id, context: ContextOf) -> CandidateOut:
    """One candidate, as the newest predictor and latency models see it."""
    with context.database.reading() as session:
        return show.one(session, context, candidate_id)


@router.get("/fronts", responses={404: {"description": "No supernet or device has this name."}})
def front(
    context: ContextOf,
    supernet: Id,
    x: Annotated[Cost, Query(description="What to trade accuracy for.")] = "latency_ms",
    y: Annotated[Cost | None, Query(description="A second cost.")] = None,
    device: Annotated[Id | None, Query(description="Needed for latency_ms.")] = None,
) -> FrontOut:
    """The Pareto front over everything stored for a supernet: what all its searches found, merged."""
    with context.database.reading() as session:
        return rules.front(session, context, supernet, x, y, device)
