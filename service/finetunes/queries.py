"""Reading and writing fine-tunings."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import FineTuning, now

UNFINISHED = ("queued", "running")


class EndedError(Exception):
    """Somebody cancelled the fine-tuning, or it ended otherwise, while a worker ran it."""


def get(session: Session, fine_tuning_id: str) -> FineTuning:
    """A fine-tuning.

    Raises:
        NotFoundError: no fine-tuning has this id.
    """
    row = session.get(FineTuning, fine_tuning_id)
    if row is None:
        raise NotFoundError(f"there is no fine-tuning {fine_tuning_id!r}")
    return row


def lock(session: Session, fine_tuning_id: str) -> FineTuning | None:
    """A fine-tuning with its row locked until this transaction ends; None if there is none."""
    return session.get(FineTuning, fine_tuning_id, with_for_update=True, populate_existing=True)


def add(session: Session, fine_tuning_id: str, candidate_id: str, plan: dict[str, Any]) -> FineTuning:
    """Add a queued fine-tuning, unless it is there. Returns it, locked."""
    values = {
        "id": fine_tuning_id,
        "candidate_id": candidate_id,
        "plan": plan,
        "status": "queued",
        "attempts": 0,
        "created_at": now(),
    }
    insert_missing(session, FineTuning, [values])
    return session.get_one(FineTuning, fine_tuning_id, with_for_update=True, populate_existing=True)


def begin(session: Session, fine_tuning_id: str) -> FineTuning:
    """Count one more attempt, and note that a queued fine-tuning runs. Returns it."""
    row = session.get_one(FineTuning, fine_tuning_id, with_for_update=True)
    row.attempts += 1
    if row.status == "queued":
        row.status = "running"
    return row


def change_running(session: Session, fine_tuning_id: str, attempt: int, **values: Any) -> None:
    """Change a fine-tuning that runs in this attempt.

    Raises:
        EndedError: it does not run any more, or another worker runs it.
    """
    running = update(FineTuning).where(
        FineTuning.id == fine_tuning_id, FineTuning.status == "running", FineTuning.attempts == attempt
    )
    if session.execute(running.values(values)).rowcount == 0:  # type: ignore[attr-defined]
        raise EndedError


def finish(session: Session, fine_tuning_id: str, **values: Any) -> bool:
    """End a fine-tuning that has not ended. Returns whether this call ended it."""
    unfinished = update(FineTuning).where(FineTuning.id == fine_tuning_id, FineTuning.status.in_(UNFINISHED))
    ended = session.execute(unfinished.values({"progress": None, "finished_at": now(), **values}))
    return bool(ended.rowcount)  # type: ignore[attr-defined]
