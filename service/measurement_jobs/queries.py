"""Reading and writing measurement jobs."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.storage.tables import MeasurementJob, Search, now

UNFINISHED = ("queued", "claimed")


def get(session: Session, device: str, job_id: str) -> MeasurementJob:
    """A job of a device.

    Raises:
        NotFoundError: the device has no job with this id.
    """
    job = session.get(MeasurementJob, job_id)
    if job is None or job.device != device:
        raise NotFoundError(f"device {device!r} has no measurement job {job_id!r}")
    return job


def lock(session: Session, device: str, job_id: str) -> MeasurementJob:
    """A job that no other transaction changes until this one ends. Raises what `get` does."""
    get(session, device, job_id)
    return session.get_one(MeasurementJob, job_id, with_for_update=True, populate_existing=True)


def list_claimable(session: Session, device: str, at: datetime) -> list[MeasurementJob]:
    """The jobs of a device that nobody holds at this time, oldest first."""
    is_free = or_(MeasurementJob.status == "queued", MeasurementJob.expires_at <= at)
    query = select(MeasurementJob).where(
        MeasurementJob.device == device, MeasurementJob.status.in_(UNFINISHED), is_free
    )
    return list(session.scalars(query.order_by(MeasurementJob.id)))


def list_of_search(session: Session, search_id: str) -> list[MeasurementJob]:
    """The jobs of a search, by round, turn and device."""
    order = MeasurementJob.number, MeasurementJob.turn, MeasurementJob.device
    return list(session.scalars(select(MeasurementJob).where(MeasurementJob.search_id == search_id).order_by(*order)))


def page(session: Session, device: str, limit: int, cursor: str | None) -> tuple[list[MeasurementJob], str | None]:
    """One page of a device's jobs, newest first, and the cursor of the next page.

    Raises:
        InvalidError: a cursor that no page ended with.
    """
    query = select(MeasurementJob).where(MeasurementJob.device == device).order_by(MeasurementJob.id.desc())
    if cursor is not None:
        if session.get(MeasurementJob, cursor) is None:
            raise InvalidError(f"cursor is {cursor!r}; send the `next` of an earlier page")
        query = query.where(MeasurementJob.id < cursor)
    rows = list(session.scalars(query.limit(limit + 1)))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def add(session: Session, jobs: Sequence[MeasurementJob]) -> None:
    """Write new jobs."""
    session.add_all(jobs)
    session.flush()


def cancel(session: Session, search_id: str) -> None:
    """End the unfinished jobs of a search."""
    unfinished = update(MeasurementJob).where(
        MeasurementJob.search_id == search_id, MeasurementJob.status.in_(UNFINISHED)
    )
    session.execute(unfinished.values(status="cancelled", claim=None, expires_at=None, finished_at=now()))


def needs_memory(session: Session, job: MeasurementJob) -> bool:
    """Whether a job's search limits or minimises memory on its device, so that the probe is to measure it, too."""
    request = session.get_one(Search, job.search_id).request
    objectives = {request["objective"], *request.get("objectives", ())}
    limited = {(limit["cost"], limit["device"]) for limit in request["limits"]}
    is_objective = "device_memory_bytes" in objectives and request.get("device") == job.device
    return is_objective or ("device_memory_bytes", job.device) in limited


def lock_search(session: Session, search_id: str) -> Search:
    """The search of a job, which no other transaction changes until this one ends."""
    return session.get_one(Search, search_id, with_for_update=True, populate_existing=True)
