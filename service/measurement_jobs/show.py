"""Measurement jobs as the API shows them."""

from typing import Any

from sqlalchemy.orm import Session

from service.devices import queries as devices
from service.measurement_jobs import queries
from service.measurement_jobs.claims import LEASE_SECONDS
from service.measurement_jobs.schemas import ClaimedJobOut, MeasurementJobOut
from service.storage.tables import Device, MeasurementJob
from service.web.schemas import Page


def show_job(session: Session, job: MeasurementJob) -> MeasurementJobOut:
    """One job."""
    return MeasurementJobOut(**_fields(devices.get(session, job.device), job))


def show_claimed_job(session: Session, job: MeasurementJob) -> ClaimedJobOut:
    """A job, for whoever claimed it."""
    return ClaimedJobOut(
        **_fields(devices.get(session, job.device), job),
        memory=queries.needs_memory(session, job),
        claim=job.claim or "",
        lease_seconds=LEASE_SECONDS,
    )


def list_jobs(session: Session, name: str, limit: int, cursor: str | None) -> Page[MeasurementJobOut]:
    """One page of a device's jobs, newest first. Raises NotFoundError, and what `queries.page` does."""
    device = devices.get(session, name)
    rows, following = queries.page(session, name, limit, cursor)
    return Page(items=[MeasurementJobOut(**_fields(device, row)) for row in rows], next=following)


def _fields(device: Device, job: MeasurementJob) -> dict[str, Any]:
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
