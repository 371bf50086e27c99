"""Asking for a candidate's file."""

import re
from typing import Literal

from sqlalchemy.orm import Session

from service.candidates import queries as candidates
from service.errors import SuppleError
from service.exports import queries
from service.jobs.queue import Jobs, Priority
from service.storage.tables import Export
from service.supernets import queries as supernets
from service.supernets.extractable import check_extractable

Precision = Literal["fp32"]


class ExportFailedError(SuppleError):
    """The network cannot be written as ONNX, or the file differs from it: with the same weights it will again."""

    status, title = 500, "The export failed"


class RangeError(SuppleError):
    """No range that was asked for is inside the file."""

    status, title = 416, "Range not satisfiable"


def ask(session: Session, jobs: Jobs, candidate_id: str, precision: Precision) -> Export:
    """The export of a candidate; the first call for it has a worker build it, and so has the first after a failure.

    Raises:
        NotFoundError: no such candidate. InvalidError: its supernet has no weights, or no images to recalibrate with.
        ExportFailedError: it was tried, and why no try will do.
    """
    check_extractable(supernets.get(session, candidates.get(session, candidate_id).supernet_id))
    export = queries.lock(session, candidate_id, precision)
    if export is not None and export.status == "impossible":
        raise ExportFailedError((export.problem or {})["detail"])
    if export is not None and export.status != "failed":
        return export
    if export is None:
        queries.add(session, candidate_id, precision)
        export = session.get_one(Export, (candidate_id, precision))
    else:
        export.status, export.problem, export.finished_at = "queued", None, None
    subject = f"{candidate_id}:{precision}:{export.attempts}"
    jobs.enqueue(session, "export", subject, job_id=f"export-{subject}", priority=Priority.EXPORT)
    return export


def file_name(session: Session, export: Export) -> str:
    """What a download is called: the supernet's name, the architecture's id and the precision."""
    candidate = candidates.get(session, export.candidate_id)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", supernets.get(session, candidate.supernet_id).name).strip("-.")
    return f"{name or 'subnet'}-{candidate.architecture_id}-{export.precision}.onnx"
