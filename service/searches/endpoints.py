"""/v1/searches."""

import re
import time
from collections.abc import Sequence
from typing import Annotated

from anyio import sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Response

from service.candidates.schemas import CandidateOut
from service.searches import queries, record
from service.searches import show as answers
from service.searches.ask import _search, _show, job_id
from service.searches.schemas import SearchIn, SearchOut, SearchSummary
from service.web.dependencies import ContextOf
from service.web.schemas import Cursor, Id, Page, PageSize

router = APIRouter(prefix="/searches", tags=["searches"])
MOST_SECONDS = 60  # that a client may be kept waiting for a job
POLL_SECONDS = 0.1


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": SearchOut, "description": "Answered from storage: the same was asked before."},
        202: {"model": SearchOut},
        404: {"description": "No supernet or device has this name."},
        409: {"description": "The Idempotency-Key was sent before with another request."},
        507: {"description": "The artifact store is full."},
    },
)
async def ask(
    body: SearchIn,
    context: ContextOf,
    response: Response,
    prefer: Annotated[list[str] | None, Header(description="`respond-async`, or `wait=SECONDS` for a job.")] = None,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="Sent again: the same answer.")
    ] = None,
) -> SearchOut:
    """Ask for the best architecture within limits: 201 with the answer, or 202 with where it will be.

    200 with the stored answer where the same was asked before of the same versions of all models; with `warm_start:
    false` nothing stored counts, and equal requests have equal answers.
    A search that verifies, or evaluates more than 20,000 architectures, is a job.
    """
    later, seconds = preferences(prefer or [])
    search = await run_sync(_search, context, body, idempotency_key, later)
    applied = ["respond-async"] if later else []
    if seconds is not None and search.status in queries.UNFINISHED:
        applied.append(f"wait={seconds}")
    until = time.monotonic() + (seconds or 0)
    while search.status in queries.UNFINISHED and time.monotonic() < until:
        await sleep(POLL_SECONDS)
        search = await run_sync(_show, context, search.id)
    if applied:
        response.headers["Preference-Applied"] = ", ".join(applied)
    response.headers["Location"] = f"/v1/searches/{search.id}"
    if search.status in queries.UNFINISHED:
        response.status_code, response.headers["Retry-After"] = 202, "1"
    elif search.answered_from:
        response.status_code = 200
    return search


@router.get("")
def every(context: ContextOf, limit: PageSize = 20, cursor: Cursor = None) -> Page[SearchSummary]:
    """All searches, newest first."""
    with context.database.reading() as session:
        found, following = queries.page(session, limit, cursor)
        return Page(items=answers.summaries(session, context, found), next=following)


@router.get("/{search_id}")
def one(search_id: Id, context: ContextOf) -> SearchOut:
    """One search, with its answer once it has ended."""
    return _show(context, search_id)


@router.get("/{search_id}/front")
def front(search_id: Id, context: ContextOf) -> list[CandidateOut]:
    """A search's Pareto front, from the least of the first limited cost."""
    with context.database.reading() as session:
        return answers.front(session, context, queries.get(session, search_id))


@router.post("/{search_id}/cancel", responses={409: {"description": "It has ended already."}})
def cancel(search_id: Id, context: ContextOf) -> SearchOut:
    """Stop a search that has not ended. A front that it has shown stays; before that, what it found is dropped."""
    with context.database.writing() as session:
        record.cancel(session, search_id)
    context.jobs.cancel(job_id(search_id))
    return _show(context, search_id)


def preferences(headers: Sequence[str]) -> tuple[bool, int | None]:
    """Whether a job is preferred, and how long to wait for one, seconds (RFC 7240).

    What is not understood is ignored.
    """
    sent = [part.partition(";")[0].strip().lower() for header in headers for part in header.split(",")]
    waits = [wait for one in sent if (wait := re.fullmatch(r'wait\s*=\s*"?([0-9]{1,18})"?', one))]
    return "respond-async" in sent, min(int(waits[0][1]), MOST_SECONDS) if waits else None
