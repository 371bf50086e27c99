"""The queue of jobs: enqueue, cancel, priorities. DBOS, a durable job engine, keeps it in the service's database.

The API enqueues a job in the transaction that writes the job's row, so the database holds both or neither. The engine
records each step of a job when the step finishes. Only this package imports the engine.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Protocol, TypeVar

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy.orm import Session

from service.logs import request_id
from service.storage.database import Database
from service.telemetry import carrier

log = logging.getLogger("supple.jobs")
T = TypeVar("T")

APPLICATION = "supple"
QUEUE = "supple"
UNFINISHED = ("queued", "running", "verifying")  # the statuses of a row whose job goes on
MOST_ATTEMPTS = 5  # a handler gives up a job after this many workers died while running it


class Step(Protocol):
    """Runs one step of a job and records its JSON-able result, so that a finished step never runs again."""

    def __call__(self, name: str, function: Callable[[], T]) -> T:
        """The result of `function`: the recorded one if this step has finished before."""


class Priority(IntEnum):
    """Jobs with a smaller priority start first. Exports go before searches, because a user waits for the download.

    Nobody waits for a predictor that is fitted again. Fine-tuning takes longest, so it goes last.
    """

    EXPORT = 1
    SEARCH = 2
    REFIT = 3
    FINE_TUNING = 4


class Jobs:
    """The API's access to the queue."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
        )

    def enqueue(self, session: Session, kind: str, subject: str, *, job_id: str, priority: int) -> None:
        """Let a worker run the handler of `kind` on `subject` once this session's transaction commits.

        If the queue already has this job_id, nothing is enqueued. The job remembers the request that made it: its
        log records carry the request's id, and its span continues the request's trace.

        priority: jobs with a smaller number start first (`Priority`).
        """
        self._client.enqueue_in_transaction(
            session,
            {
                "workflow_name": kind,
                "queue_name": QUEUE,
                "workflow_id": job_id,
                "priority": priority,
                "attributes": {**carrier(), "request_id": request_id()},
            },
            subject,
        )

    def cancel(self, job_id: str) -> None:
        """Keep a job from starting, or end a running job at its next step."""
        self._client.cancel_workflow(job_id)

    def close(self) -> None:
        """Release the engine's resources."""
        self._client.destroy()


def upgrade_engine(database_url: str) -> None:
    """Bring the job engine's own tables to the version that this release needs."""
    with _quiet():
        DBOS.migrate(database_url)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dbos")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
