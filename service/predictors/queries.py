"""Reading and writing versions of accuracy predictors and the jobs that make them."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.storage.database import insert_missing
from service.storage.tables import PredictorRefit, PredictorVersion, now

UNFINISHED = ("queued", "running")


def versions(session: Session, supernet_id: str) -> list[PredictorVersion]:
    """The versions that refits made, newest first."""
    query = select(PredictorVersion).where(PredictorVersion.supernet_id == supernet_id)
    return list(session.scalars(query.order_by(PredictorVersion.created_at.desc(), PredictorVersion.version)))


def version(session: Session, supernet_id: str, name: str | None) -> PredictorVersion | None:
    """A version that a refit made; None for the bundle's own."""
    return session.get(PredictorVersion, (supernet_id, name)) if name else None


def add_version(session: Session, values: dict[str, Any]) -> None:
    """Write a version, unless it is stored."""
    insert_missing(session, PredictorVersion, [{**values, "created_at": now()}])


def refits(session: Session, supernet_id: str) -> list[PredictorRefit]:
    """The refits of a supernet's predictor, newest first."""
    query = select(PredictorRefit).where(PredictorRefit.supernet_id == supernet_id)
    return list(session.scalars(query.order_by(PredictorRefit.id.desc())))


def get_refit(session: Session, refit_id: str) -> PredictorRefit:
    """A refit that is stored."""
    return session.get_one(PredictorRefit, refit_id)


def add_refit(session: Session, refit: PredictorRefit) -> PredictorRefit:
    """Write a refit."""
    session.add(refit)
    session.flush()
    return refit


def begin(session: Session, refit_id: str) -> PredictorRefit:
    """Count one more attempt."""
    refit = session.get_one(PredictorRefit, refit_id, with_for_update=True, populate_existing=True)
    refit.attempts += 1
    if refit.status == "queued":
        refit.status = "running"
    return refit


def finish(session: Session, refit_id: str, **values: Any) -> bool:
    """End a refit that has not ended. Returns whether it had not."""
    conditions = PredictorRefit.id == refit_id, PredictorRefit.status.in_(UNFINISHED)
    ended = session.execute(update(PredictorRefit).where(*conditions).values({"finished_at": now(), **values}))
    return bool(ended.rowcount)  # type: ignore[attr-defined]
