"""Reading and writing exports."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import Export, now


def find(session: Session, candidate_id: str, precision: str) -> Export | None:
    """The export of a candidate at a precision; None if nobody has requested it."""
    return session.get(Export, (candidate_id, precision))


def get(session: Session, candidate_id: str, precision: str) -> Export:
    """The export of a candidate at a precision.

    Raises:
        NotFoundError: nobody has requested it.
    """
    export = find(session, candidate_id, precision)
    if export is None:
        raise NotFoundError(
            f"nobody has requested the {precision} file of candidate {candidate_id!r}; "
            f"GET /v1/candidates/{candidate_id}/onnx requests it"
        )
    return export


def add(session: Session, candidate_id: str, precision: str) -> None:
    """Add a queued export. An export that exists stays as it is."""
    values = {
        "candidate_id": candidate_id,
        "precision": precision,
        "status": "queued",
        "attempts": 0,
        "created_at": now(),
    }
    insert_missing(session, Export, [values])


def lock(session: Session, candidate_id: str, precision: str) -> Export | None:
    """The same as `find`, with the row locked until this transaction ends."""
    return session.get(Export, (candidate_id, precision), with_for_update=True, populate_existing=True)


def begin(session: Session, candidate_id: str, precision: str) -> Export:
    """Count one more attempt. Returns the export."""
    export = session.get_one(Export, (candidate_id, precision), with_for_update=True)
    export.attempts += 1
    return export


def finish(session: Session, candidate_id: str, precision: str, **values: Any) -> None:
    """End a queued export. Status `done` also replaces a failure."""
    replaceable = ("queued", "failed", "impossible") if values["status"] == "done" else ("queued",)
    conditions = (
        Export.candidate_id == candidate_id,
        Export.precision == precision,
        Export.status.in_(replaceable),
    )
    session.execute(update(Export).where(*conditions).values({"problem": None, "finished_at": now(), **values}))
