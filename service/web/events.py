"""The progress of a job as server-sent events, the same for every kind of job.

An event tells the whole state of a job. A client that missed events has lost nothing, so nothing but the job's own row
is stored: any API process can serve any client, on SQLite and PostgreSQL alike.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Protocol

from anyio import sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.context import Context
from service.errors import UnavailableError
from service.jobs.queue import UNFINISHED
from service.web.auth import needs
from service.web.dependencies import ContextOf
from service.web.schemas import Answer

POLL_SECONDS = 0.5  # how often the row of a watched job is read
KEEP_ALIVE_SECONDS = 15.0  # proxies close connections on which nothing is sent for a minute
MOST_SECONDS = 900.0  # of one connection. The client then connects again, and its key is checked again
RECONNECT_MS = 2_000  # how long a client waits before that


class JobState(Answer):
    """Where a job stands. `queued`, `running` and `verifying` jobs go on; any other status is final."""

    status: str
    progress: dict[str, Any] | None = Field(None, description="How far a running job is.")
    problem: dict[str, Any] | None = Field(None, description="A problem document: why the job failed.")


class JobRow(Protocol):
    """A row of a table of jobs. Its `progress`, if it has that column, is shown, too."""

    status: Any
    problem: Any


class EventStream(StreamingResponse):
    """Server-sent events. FastAPI's own class would start the response before the job is looked for."""

    media_type = "text/event-stream"


ReadRow = Callable[[Session], JobRow]


def add_events(router: APIRouter, path: str, find: Callable[..., ReadRow], *, summary: str) -> None:
    """Add an endpoint that tells the progress of a job.

    find: a dependency of FastAPI that takes the parameters of the path and query and returns a function that reads the
    job's row. The function raises NotFoundError if there is none.
    """

    @router.get(
        path,
        dependencies=[needs("read")],
        summary=summary,
        response_class=EventStream,
        responses={
            200: {"description": "Events `progress`, then one event `ended`. Their data is a `JobState`."},
            204: {"description": "Last-Event-ID was the last event: the job has ended."},
        },
    )
    async def watch(
        context: ContextOf,
        read: Annotated[ReadRow, Depends(find)],
        admitted: Annotated[None, Depends(_admit)],
        last_event_id: Annotated[str, Header(description="The `id` of the last event that the client saw.")] = "",
    ) -> Response:
        """The job's state now, and again whenever it changes, until the job ends. Watching changes nothing.

        The connection stays open. A comment is sent when there was nothing to tell for 15 seconds. A client whose
        connection is lost continues with `Last-Event-ID`, as browsers' `EventSource` does.
        """
        state = await run_sync(_read, context, read)
        if state.status not in UNFINISHED and event_id(state) == last_event_id:
            return Response(status_code=204)  # tells an EventSource not to connect again
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventStream(_events(context, read, state, last_event_id), headers=headers)

    watch.__name__ = f"watch_{find.__name__}"


async def _admit(context: ContextOf) -> AsyncIterator[None]:
    """Hold one of the connections that this process allows.

    Raises:
        UnavailableError: all are taken.
    """
    if not context.watchers.acquire(blocking=False):
        raise UnavailableError("this process serves as many event streams as it allows; try again, or poll the job")
    try:
        yield
    finally:
        context.watchers.release()


async def _events(context: Context, read: ReadRow, state: JobState, seen: str) -> AsyncIterator[bytes]:
    """The events from `state` on. seen: the id of the last event that the client has."""
    end = time.monotonic() + MOST_SECONDS
    sent_at = time.monotonic()
    retry: int | None = RECONNECT_MS  # in the first event
    while True:
        ended, name = state.status not in UNFINISHED, event_id(state)
        if name != seen:
            event = "ended" if ended else "progress"
            yield format_sse_event(data_str=state.model_dump_json(), event=event, id=name, retry=retry)
            seen, retry, sent_at = name, None, time.monotonic()
        elif time.monotonic() - sent_at > KEEP_ALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            sent_at = time.monotonic()
        if ended or time.monotonic() > end or context.closing.is_set():
            return
        await sleep(POLL_SECONDS)
        try:
            state = await run_sync(_read, context, read)
        except OperationalError:  # the database is away for now, and the client learns of it by silence
            continue


def _read(context: Context, read: ReadRow) -> JobState:
    with context.database.reading() as session:
        row = read(session)
        return JobState(status=row.status, progress=getattr(row, "progress", None), problem=row.problem)


def event_id(state: JobState) -> str:
    """The id of the event that tells a state."""
    return hashlib.sha256(state.model_dump_json().encode()).hexdigest()[:16]
