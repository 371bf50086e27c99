"""Asking for a candidate's file."""

import re
from typing import Literal

from sqlalchemy.orm import Session

from service.candidates import queries as candidates
from service.errors import SuppleError
from service.exports import queries
from service.jobs import Jobs
from service.models import Export
from service.supernets import queries as supernets

Precision = Literal["fp32"]
PRIORITY = 1  # somebody waits


class ExportFailedError(SuppleError):
    """The file could not be made, and will not be with the same weights."""

    status, title = 500, "The export failed"


def ask(session: Session, jobs: Jobs, candidate_id: str, precision: Precision) -> Export:
    """The export of a candidate; the first call for it has a worker build it.

    Raises:
        NotFoundError: no such candidate. ExportFailedError: it was tried, and why it failed.
    """
    candidates.get(session, candidate_id)
    export = queries.find(session, candidate_id, precision)
    if export is None:
        queries.add(session, candidate_id, precision)
        subject = f"{candidate_id}:{precision}"
        jobs.enqueue(session, "export", subject, job_id=f"export-{subject}", priority=PRIORITY)
        return session.get_one(Export, (candidate_id, precision))
    if export.problem is not None:
        raise ExportFailedError(export.problem["detail"])
    return export


def file_name(session: Session, export: Export) -> str:
    """What a download is called: the supernet's name, the architecture's id and the precision."""
    candidate = candidates.get(session, export.candidate_id)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", supernets.get(session, candidate.supernet_id).name).strip("-.")
    return f"{name or 'subnet'}-{candidate.architecture_id}-{export.precision}.onnx"
