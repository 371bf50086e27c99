"""Measurement jobs as the API shows them."""

from typing import Any

from sqlalchemy.orm import Session

from service.devices import queries as devices
from service.measurement_jobs import queries
from service.measurement_jobs.claims import LEASE_SECONDS
from service.measurement_jobs.schemas import ClaimedJobOut, MeasurementJobOut
from service.storage.tables import MeasurementJob
from service.web.schemas import Page


def show_job(session: Session, job: MeasurementJob) -> MeasurementJobOut:
    """One job."""
    return MeasurementJobOut(**_fields(session, job))


def show_claimed_job(session: Session, job: MeasurementJob) -> ClaimedJobOut:
    """A job, for whoever claimed it."""
    return ClaimedJobOut(**_fields(session, job), claim=job.claim or "", lease_seconds=LEASE_SECONDS)


def list_jobs(session: Session, device: str, limit: int, cursor: str | None) -> Page[MeasurementJobOut]:
    """One page of a device's jobs, newest first. Raises NotFoundError, and what `queries.page` does."""
    devices.get(session, device)
    rows, following = queries.page(session, device, limit, cursor)
    return Page(items=[show_job(session, row) for row in rows], next=following)


def _fields(session: Session, job: MeasurementJob) -> dict[str, Any]:
    device = devices.get(session, job.device)
    return {
        "id": job.id,
        "device": job.device,
        "search": job.search_id,
        "status": job.status,
        "space_hash": job.space_hash,
        "plan": f"/v1/devices/{job.device}/jobs/{job.id}/plan",
        "plan_hash": job.plan,
        "threads": device.threads,
        "batch_size": device.batch_size,
        "networks": len(job.expected_ms),
        "samples": job.samples,
        "probe": job.probe,
        "expires_at": job.expires_at,
        "error": job.error,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }
