"""Long work: a thin layer over DBOS, the durable job engine. Nothing else imports it.

The API enqueues a job in the transaction that writes the job's row, so that both are there or neither. Workers are
processes of their own. A job's steps are recorded as they finish; a job that lost its worker goes on in another one, at
the step that was running. Four things are ours, because the engine leaves them open:

- Each worker holds a lock on its id for as long as it lives: an advisory lock in PostgreSQL, a locked file beside a
  SQLite file. Two workers with one id would take each other's jobs; the second one to start is refused.
- A worker that can lock another one's id knows that it is dead, and puts its jobs back into the queue.
- Stopping is dying after a grace period: what was running is taken over like any other lost job.
- So is losing the database: after some minutes of trying, the process ends without another word about its job.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Protocol, TypeVar

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy.orm import Session

from service.storage.database import Database

log = logging.getLogger("supple.jobs")
T = TypeVar("T")

APPLICATION = "supple"
QUEUE = "supple"
MOST_ATTEMPTS = 5  # a job that as many workers died of is given up by its handler


class Step(Protocol):
    """Runs a part of a job and records its JSON-able result, so that it is not run again after it has finished."""

    def __call__(self, name: str, function: Callable[[], T]) -> T:
        """The result of `function`, from now or from before."""


class Priority(IntEnum):
    """Jobs with a smaller priority start first: somebody waits for an export, so exports go before searches."""

    EXPORT = 1
    SEARCH = 2


class Jobs:
    """The API's side: puts jobs into the queue."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
        )

    def enqueue(self, session: Session, kind: str, subject: str, *, job_id: str, priority: int) -> None:
        """Have a worker run the handler of `kind` on `subject` once this session's transaction commits.

        priority: a smaller one starts earlier (`Priority`). A job_id that is known already enqueues nothing.
        """
        self._client.enqueue_in_transaction(
            session,
            {"workflow_name": kind, "queue_name": QUEUE, "workflow_id": job_id, "priority": priority},
            subject,
        )

    def cancel(self, job_id: str) -> None:
        """Keep a job from starting; one that runs ends at its next step."""
        self._client.cancel_workflow(job_id)

    def close(self) -> None:
        """Let go of the engine's resources."""
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


# Locks on worker ids.


# The worker.
