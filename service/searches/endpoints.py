"""/v1/searches."""

import re
import time
from collections.abc import Sequence
from typing import Annotated

from anyio import sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, Body, Depends, Header, Query, Response
from pydantic import AwareDatetime

from service.candidates.schemas import CandidateOut
from service.candidates.table import candidates_csv
from service.jobs.queue import UNFINISHED
from service.searches import ask, queries, show
from service.searches.examples import EXAMPLES
from service.searches.queries import SearchFilter
from service.searches.schemas import SearchIn, SearchOut, SearchSummary, Status
from service.web import events
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize
from service.web.tables import CSV_CONTENT, AcceptOf, prefers_csv

router = APIRouter(prefix="/searches", tags=["searches"])
MOST_SECONDS = 60  # the longest that a client may wait for a job
POLL_SECONDS = 0.1


@router.post(
    "",
    dependencies=[needs("search")],
    status_code=201,
    summary="Create a search",
    responses={
        200: {"model": SearchOut, "description": "Answered from storage: the same was asked before."},
        202: {"model": SearchOut},
        404: {"description": "No supernet or device has this name."},
        409: {"description": "The Idempotency-Key was sent before with another request."},
        507: {"description": "The artifact store is full."},
    },
)
async def create_search(
    body: Annotated[SearchIn, Body(openapi_examples=EXAMPLES)],
    context: ContextOf,
    response: Response,
    prefer: Annotated[list[str] | None, Header(description="`respond-async`, or `wait=SECONDS` for a job.")] = None,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="Sent again: the same answer.")
    ] = None,
) -> SearchOut:
    """Search for the best architecture within limits.

    201: the answer. 202: where the answer will be; a search that verifies, measures (`evaluate: inherited`), or
    may evaluate more than 25,000 architectures, is a job. 200: the stored answer to the same request to the same
    versions of all models. With `warm_start: false`, nothing that is stored counts, and equal requests have equal
    answers.
    """
    prefers_job, seconds = preferences(prefer or [])
    search = await run_sync(lambda: ask.create_search(context, body, key=idempotency_key, prefers_job=prefers_job))
    applied = ["respond-async"] if prefers_job else []
    if seconds is not None and search.status in UNFINISHED:
        applied.append(f"wait={seconds}")
    deadline = time.monotonic() + (seconds or 0)
    while search.status in UNFINISHED and time.monotonic() < deadline:
        await sleep(POLL_SECONDS)
        search = await run_sync(get_search, search.id, context)
    if applied:
        response.headers["Preference-Applied"] = ", ".join(applied)
    response.headers["Location"] = f"/v1/searches/{search.id}"
    if search.status in UNFINISHED:
        response.status_code, response.headers["Retry-After"] = 202, "1"
    elif search.answered_from:
        response.status_code = 200
    return search


def search_filter(
    supernet: Annotated[Id | None, Query(description="Only searches in this supernet.")] = None,
    device: Annotated[Id | None, Query(description="Only searches that used a latency model of this device.")] = None,
    status: Annotated[list[Status] | None, Query(description="Only searches in one of these states.")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only searches created at or after this time.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only searches created before this time.")] = None,
) -> SearchFilter:
    """Which searches to list."""
    return SearchFilter(supernet, device, tuple(status or ()), since, until)


@router.get("", dependencies=[needs("read")], summary="List searches")
def list_searches(
    context: ContextOf,
    wanted: Annotated[SearchFilter, Depends(search_filter)],
    limit: PageSize = 20,
    cursor: Cursor = None,
) -> Page[SearchSummary]:
    """Searches, newest first."""
    with context.database.reading() as session:
        return show.list_searches(session, context, limit, cursor, wanted)


@router.get("/{search_id}", dependencies=[needs("read")], summary="Get a search")
def get_search(search_id: Id, context: ContextOf) -> SearchOut:
    """One search, with its answer once it has ended."""
    with context.database.reading() as session:
        return show.get_search(session, context, search_id)


@router.get(
    "/{search_id}/front",
    dependencies=[needs("read")],
    summary="Get the front of a search",
    response_model=list[CandidateOut],
    responses={200: {"content": CSV_CONTENT}},
)
def get_search_front(search_id: Id, context: ContextOf, accept: AcceptOf = "") -> list[CandidateOut] | Response:
    """The Pareto front of a search, sorted by its first limited cost. With `Accept: text/csv`, a table."""
    if prefers_csv(accept):
        return download_search_front(search_id, context)
    with context.database.reading() as session:
        return show.get_search_front(session, context, search_id)


@router.get(
    "/{search_id}/front.csv",
    dependencies=[needs("read")],
    summary="Download the front of a search",
    response_class=Response,
    responses={200: {"content": CSV_CONTENT}},
)
def download_search_front(search_id: Id, context: ContextOf) -> Response:
    """The Pareto front of a search, sorted by its first limited cost, as a table."""
    with context.database.reading() as session:
        front = show.get_search_front(session, context, search_id)
    return candidates_csv(front, f"front-{search_id}.csv")


@router.post(
    "/{search_id}/cancel",
    dependencies=[needs("search")],
    summary="Cancel a search",
    responses={409: {"description": "It has ended already."}},
)
def cancel_search(search_id: Id, context: ContextOf) -> SearchOut:
    """Stop a search that has not ended. It keeps its front if it has one already."""
    return ask.cancel_search(context, search_id)


def search(search_id: Id) -> events.ReadRow:
    """Which search to watch."""
    return lambda session: queries.get(session, search_id)


events.add_events(router, "/{search_id}/events", search, summary="Watch a search")


def preferences(headers: Sequence[str]) -> tuple[bool, int | None]:
    """Whether the client prefers a job, and how long it wants to wait for one, seconds (RFC 7240).

    Unknown preferences are ignored.
    """
    parts = [part.partition(";")[0].strip().lower() for header in headers for part in header.split(",")]
    waits = [match for part in parts if (match := re.fullmatch(r'wait\s*=\s*"?([0-9]{1,18})"?', part))]
    return "respond-async" in parts, min(int(waits[0][1]), MOST_SECONDS) if waits else None
