"""Reading and writing exports."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.storage.database import insert_missing
from service.storage.tables import Export, now


def find(session: Session, candidate_id: str, precision: str) -> Export | None:
    """The export of a candidate at a precision, or None where it was never asked for."""
    return session.get(Export, (candidate_id, precision))


def add(session: Session, candidate_id: str, precision: str) -> None:
    """Write an export that is still to be built, unless there is one."""
    values = {
        "candidate_id": candidate_id,
        "precision": precision,
        "status": "queued",
        "attempts": 0,
        "created_at": now(),
    }
    insert_missing(session, Export, [values])


def lock(session: Session, candidate_id: str, precision: str) -> Export | None:
    """What `find` finds, which no other transaction changes until this one ends."""
    return session.get(Export, (candidate_id, precision), with_for_update=True, populate_existing=True)


def begin(session: Session, candidate_id: str, precision: str) -> Export:
    """The export, one attempt further."""
    export = session.get_one(Export, (candidate_id, precision), with_for_update=True)
    export.attempts += 1
    return export


def finish(session: Session, candidate_id: str, precision: str, **values: Any) -> None:
    """End an export that has not ended. A file replaces a failure, too."""
    ends = ("queued", "failed", "impossible") if values["status"] == "done" else ("queued",)
    this = Export.candidate_id == candidate_id, Export.precision == precision, Export.status.in_(ends)
    session.execute(update(Export).where(*this).values({"problem": None, "finished_at": now(), **values}))
