"""Requesting a candidate's ONNX file."""

import re

from sqlalchemy.orm import Session

from service.candidates import queries as candidates
from service.errors import SuppleError
from service.exports import queries
from service.exports.schemas import Precision
from service.jobs.queue import Jobs, Priority
from service.storage.tables import Export
from service.supernets import queries as supernets
from service.supernets.extractable import check_extractable


class ExportFailedError(SuppleError):
    """The network cannot be written as ONNX, or the file's results differ. The same weights will fail again."""

    status, title = 500, "The export failed"


def request_export(session: Session, jobs: Jobs, candidate_id: str, precision: Precision) -> Export:
    """A candidate's export. The first request has a worker build the file, and so has the first one after a failure.

    Raises:
        NotFoundError: no such candidate. InvalidError: its supernet has no weights, or no images to recalibrate with.
        ExportFailedError: it failed for a reason that a second attempt does not change.
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
    """A download's file name: the supernet's name, the architecture's id and the precision."""
    candidate = candidates.get(session, export.candidate_id)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", supernets.get(session, candidate.supernet_id).name).strip("-.")
    return f"{name or 'subnet'}-{candidate.architecture_id}-{export.precision}.onnx"
