"""Claiming measurement jobs, renewing claims, and ending jobs with a result or an error."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.devices import queries as devices
from service.errors import ConflictError, InvalidError, shortened
from service.jobs.queue import Jobs, Priority
from service.measurement_jobs import queries
from service.measurement_jobs.plausible import check_result
from service.measurement_jobs.schemas import ResultIn
from service.storage.store import Store
from service.storage.tables import LatencyModelRow, MeasurementJob, now

MACHINE, SOFTWARE = ("processor", "cores", "machine", "system"), ("runtime", "references")  # fields of fingerprints
LEASE_SECONDS = 60.0
MOST_CLAIMS = 5  # of a job, before it fails
WORKER = "worker"  # the probe's name in the claims of workers
WORKER_SECONDS = 600.0  # how long such a claim keeps probes away; a worker that lives ends its jobs sooner


def note_probe(session: Session, device: str, host: Mapping[str, Any]) -> None:
    """Write down that a probe on a device asks for jobs, and from which host. Raises NotFoundError."""
    row = devices.lock(session, device)
    row.seen_at, row.seen_host = now(), dict(host)


def claim_job(session: Session, jobs: Jobs, device: str, host: Mapping[str, Any], probe: str) -> MeasurementJob | None:
    """Claim the oldest job of a device that nobody holds; None if there is none.

    host: the probe's fingerprint. jobs: the queue, in which a search goes on whose job has failed.

    Raises:
        NotFoundError: no such device. ConflictError: the device was measured on another host, so that ratios to its
            reference networks do not compare.
    """
    devices.lock(session, device)  # two probes that claim at once get two jobs
    models = {model.space_hash: model for model in devices.list_latest_models(session, devices=[device])}
    differences = {space: difference_of_hosts(model, host) for space, model in models.items()}
    if differences and all(differences.values()):
        raise ConflictError(f"device {device!r} {next(filter(None, differences.values()))}")
    for job in queries.list_claimable(session, device, now()):
        queries.lock_search(session, job.search_id)
        job = queries.lock(session, device, job.id)
        if job.status not in queries.UNFINISHED or differences.get(job.space_hash):
            continue
        if job.claims < MOST_CLAIMS:
            return _hold(job, probe, LEASE_SECONDS)
        _end(session, job, "failed", error=_no_result(job))
        continue_search(session, jobs, job)
    return None


def _no_result(job: MeasurementJob) -> str:
    """Why a job fails that was claimed too often."""
    last = f"the last one by {job.probe}" if job.probe else "all by probes without a name"
    return (
        f"it was claimed {MOST_CLAIMS} times, {last}, and each claim expired without a result; the output of the probe "
        "says what ended it"
    )


def claim_here(session: Session, device: str, job_id: str) -> MeasurementJob | None:
    """Claim a job for the worker that runs its search, on the device itself; None if a probe holds it or it has ended.

    A worker runs a search alone, so a claim of a worker is this worker's own, or a dead one's.
    """
    queries.lock_search(session, queries.get(session, device, job_id).search_id)
    job = queries.lock(session, device, job_id)
    is_held = job.status == "claimed" and job.probe != WORKER and job.expires_at is not None and job.expires_at > now()
    return None if is_held or job.status not in queries.UNFINISHED else _hold(job, WORKER, WORKER_SECONDS)


def _hold(job: MeasurementJob, probe: str, seconds: float) -> MeasurementJob:
    job.status, job.claim, job.probe = "claimed", secrets.token_hex(16), probe or None
    job.expires_at = now() + timedelta(seconds=seconds)
    job.claims += 1
    return job


def difference_of_hosts(model: LatencyModelRow, host: Mapping[str, Any]) -> str | None:
    """How a probe's host differs from the host that a latency model was measured on; None if results compare.

    A model of a published table has no host, so nothing differs.
    """
    for field in (*MACHINE, *SOFTWARE):
        measured, here = model.host.get(field), host.get(field)
        if model.host and measured != here:
            advice = "Register this machine under a name of its own" if field in MACHINE else "Measure its plan again"
            return f"was measured with {field} {_text(measured)}; the probe has {_text(here)}. {advice}"
    return None


def is_same_machine(host: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of one machine, with the same or another runtime."""
    return all(host.get(field) == other.get(field) for field in MACHINE)


def _text(value: Any) -> str:
    return shortened(repr(value), 120)


def renew_claim(session: Session, device: str, job_id: str, claim: str) -> MeasurementJob:
    """Let a claim last for another lease.

    Raises:
        NotFoundError: no such job. ConflictError: the claim does not hold the job any more.
    """
    job = _lock_claimed(session, device, job_id, claim)
    job.expires_at = now() + timedelta(seconds=LEASE_SECONDS)
    return job


def finish_job(
    session: Session,
    store: Store,
    device: str,
    job_id: str,
    claim: str,
    result: ResultIn | None,
    error: str | None,
) -> MeasurementJob:
    """End a claimed job with its result, or with the error that keeps a probe from measuring it.

    Raises:
        NotFoundError: no such job. ConflictError: the claim does not hold the job any more, or the result is of another
            host. InvalidError: both or none of `result` and `error` are given, or the result cannot be right.
    """
    if (result is None) == (error is None):
        raise InvalidError("send either `result` or `error`")
    job = _lock_claimed(session, device, job_id, claim)
    if result is None:
        _end(session, job, "failed", error=error)
        return job
    model = devices.get_models(session, [device], job.space_hash)[device]
    if difference := difference_of_hosts(model, result.host):
        raise ConflictError(f"device {device!r} {difference}")
    check_result(result, job, devices.get(session, device), model)
    _end(session, job, "done", result=store.put(result.model_dump_json().encode()))
    return job


def continue_search(session: Session, jobs: Jobs, job: MeasurementJob) -> None:
    """Let a worker continue the search of a job that has ended, unless the search waits for other jobs, too."""
    search = queries.lock_search(session, job.search_id)
    others = queries.list_of_search(session, job.search_id)
    if search.status == "verifying" and not any(other.status in queries.UNFINISHED for other in others):
        search.attempts = 0  # that counts workers that died since
        jobs.enqueue(session, "search", search.id, job_id=f"search-{search.id}-{job.id}", priority=Priority.SEARCH)


def _lock_claimed(session: Session, device: str, job_id: str, claim: str) -> MeasurementJob:
    queries.lock_search(session, queries.get(session, device, job_id).search_id)  # first, as who cancels a search does
    job = queries.lock(session, device, job_id)
    if job.status != "claimed" or job.claim is None or not secrets.compare_digest(job.claim, claim):
        raise ConflictError(f"this claim does not hold measurement job {job_id}, which is {job.status}; claim a job")
    if job.expires_at is None or job.expires_at <= now():
        raise ConflictError(
            f"the claim on measurement job {job_id} expired at {job.expires_at:%H:%M:%S} UTC; claim a job, and renew "
            f"the claim at least every {LEASE_SECONDS / 3:g} s"
        )
    return job


def _end(session: Session, job: MeasurementJob, status: str, **values: Any) -> None:
    job.status, job.claim, job.expires_at, job.finished_at = status, None, None, now()
    for name, value in values.items():
        setattr(job, name, value)
    session.flush()
