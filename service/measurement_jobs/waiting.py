"""What a search waits for while probes measure its finalists, in sentences."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from service.devices import queries as devices
from service.devices.stale import warn_if_stale
from service.measurement_jobs import queries
from service.measurement_jobs.claims import WORKER, difference_of_hosts
from service.storage.tables import Device, LatencyModelRow, MeasurementJob, now

LATELY = timedelta(seconds=60)  # a probe that asked for a job within this time counts as running


def explain_waiting(session: Session, search_id: str) -> dict[str, str]:
    """By device whose measurements a search waits for, what happens there and what to do."""
    jobs = [job for job in queries.list_of_search(session, search_id) if job.status in queries.UNFINISHED]
    if not jobs:
        return {}
    names = list(dict.fromkeys(job.device for job in jobs))
    rows, models = devices.by_names(session, names), devices.get_models(session, names, jobs[0].space_hash)
    return {job.device: _explain(job, rows[job.device], models[job.device]) for job in jobs}


def _explain(job: MeasurementJob, device: Device, model: LatencyModelRow) -> str:
    count, at = len(job.expected_ms), now()
    networks = f"{count} network{'s' * (count > 1)}"
    if job.status == "claimed" and job.expires_at is not None and job.expires_at > at:
        return f"{_named(job.probe)} measures {networks} on {device.name}"
    waiting = f"{networks} to be measured on {device.name}"
    if difference := device.seen_host and difference_of_hosts(model, device.seen_host):
        return f"{waiting}, which {difference}"
    if device.seen_at is None or at - device.seen_at > LATELY:
        since = "yet" if device.seen_at is None else f"since {_when(device.seen_at)}"
        return f"{waiting}: no probe there has asked for work {since}; start {_command(device)} on it"
    return f"{waiting}; its probe last asked for work at {_when(device.seen_at)}"


def _named(probe: str | None) -> str:
    return "a worker" if probe == WORKER else f"probe {probe}" if probe else "a probe"


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _command(device: Device) -> str:
    return f"`python probe.py --server ADDRESS --key KEY --device {device.name} --serve`"


def stale_devices(session: Session, latency_models: Mapping[str, str]) -> dict[str, str]:
    """By device whose latencies are stale, a warning that says so. latency_models: by device, the id of the model."""
    rows = devices.get_models_by_id(session, list(latency_models.values()))
    by_name = devices.by_names(session, {row.device for row in rows})
    warnings = {row.device: warn_if_stale(by_name[row.device], row) for row in rows}
    return {device: warning for device, warning in warnings.items() if warning is not None}
