"""What the job engine's own table says about jobs: how many wait and run, for how long, and what made them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, String, TableClause, case, column, func, select, table
from sqlalchemy.orm import Session

UNFINISHED = {"ENQUEUED": "queued", "DELAYED": "queued", "PENDING": "running"}  # by the engine's status
ENDED = {"SUCCESS": "done", "CANCELLED": "cancelled"}  # any other status is a failure
BOUNDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800, 7_200)  # of the counts in `Durations`, seconds


@dataclass(frozen=True)
class Durations:
    """How long jobs took. at_most: how many took at most each of `BOUNDS`. count, seconds: of all of them."""

    count: int
    seconds: float
    at_most: tuple[int, ...]


@dataclass(frozen=True)
class JobGroup:
    """The jobs of one kind in one state: queued, running, done, cancelled or failed.

    oldest_ms: when the first of them was created, ms since 1970. waited: from creation until the last worker began.
    ran: from then until the end. Jobs that never began or ended count in neither.
    """

    kind: str
    state: str
    count: int
    oldest_ms: int
    waited: Durations
    ran: Durations


def job_groups(session: Session) -> list[JobGroup]:
    """All jobs by kind and state."""
    jobs = _table(session)
    created, started, completed = jobs.c.created_at, jobs.c.started_at_epoch_ms, jobs.c.completed_at
    sums = [*_duration_sums(started - created), *_duration_sums(completed - started)]
    query = select(jobs.c.name, jobs.c.status, func.count(), func.min(created), *sums)
    groups = []
    for kind, status, count, oldest_ms, *values in session.execute(query.group_by(jobs.c.name, jobs.c.status)):
        state = UNFINISHED.get(status) or ENDED.get(status, "failed")
        half = len(values) // 2
        groups.append(JobGroup(kind, state, count, oldest_ms, _durations(values[:half]), _durations(values[half:])))
    return groups


def origin_of(session: Session, job_id: str) -> Mapping[str, str]:
    """What `Jobs.enqueue` recorded about the request that made a job; empty for jobs of earlier releases."""
    jobs = _table(session)
    stored = session.scalar(select(jobs.c.attributes).where(jobs.c.workflow_uuid == job_id))
    origin = json.loads(stored) if isinstance(stored, str) else stored or {}
    return {name: value for name, value in origin.items() if isinstance(value, str)}


def _table(session: Session) -> TableClause:
    times = (column(name, BigInteger()) for name in ("created_at", "started_at_epoch_ms", "completed_at"))
    texts = (column(name, String()) for name in ("workflow_uuid", "status", "name"))
    schema = None if session.get_bind().dialect.name == "sqlite" else "dbos"
    return table("workflow_status", *texts, *times, column("attributes"), schema=schema)


def _duration_sums(ms: Any) -> list[Any]:
    """SQL for `Durations`, of differences that are null for jobs without one."""
    at_most = [func.coalesce(func.sum(case((ms <= 1e3 * bound, 1), else_=0)), 0) for bound in BOUNDS]
    return [func.count(ms), func.coalesce(func.sum(ms), 0), *at_most]


def _durations(values: Sequence[Any]) -> Durations:
    count, ms, *at_most = values
    return Durations(int(count), float(ms) / 1e3, tuple(map(int, at_most)))
