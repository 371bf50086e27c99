"""Reading and writing supernets."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import PlanRow, Supernet, now


def add(session: Session, values: dict[str, Any]) -> Supernet:
    """Add a supernet with these values, unless its id is registered. Returns the supernet of this id."""
    insert_missing(session, Supernet, [values])
    return get(session, values["id"])


def get(session: Session, supernet_id: str) -> Supernet:
    """A supernet.

    Raises:
        NotFoundError: no supernet has this id.
    """
    supernet = session.get(Supernet, supernet_id)
    if supernet is None:
        raise NotFoundError(f"there is no supernet {supernet_id!r}; GET /v1/supernets lists them")
    return supernet


def by_ids(session: Session, ids: Collection[str]) -> dict[str, Supernet]:
    """The supernets with these ids, by id."""
    return {supernet.id: supernet for supernet in session.scalars(select(Supernet).where(Supernet.id.in_(ids)))}


def lock(session: Session, supernet_id: str) -> Supernet:
    """The same as `get`, with the row as it is now, locked until this transaction ends."""
    get(session, supernet_id)
    return session.get_one(Supernet, supernet_id, with_for_update=True, populate_existing=True)


def lock_version(session: Session, supernet_id: str) -> str | None:
    """The version of the predictor in use, which stays in use until this transaction ends."""
    query = select(Supernet.predictor_version).where(Supernet.id == supernet_id)
    return session.scalar(query.with_for_update(read=True))


def get_only(session: Session) -> Supernet:
    """The only registered supernet.

    Raises:
        InvalidError: several supernets are registered, or none.
    """
    rows = session.scalars(select(Supernet).limit(2)).all()
    if len(rows) != 1:
        which = "several supernets are registered; name one" if rows else "no supernet is registered"
        raise InvalidError(f"supernet is missing, and {which}; GET /v1/supernets lists them")
    return rows[0]


def list_all(session: Session) -> list[Supernet]:
    """All supernets, newest first."""
    return list(session.scalars(select(Supernet).order_by(Supernet.created_at.desc(), Supernet.id)))


def page(
    session: Session, limit: int, cursor: str | None, *, name: str | None = None, space_hash: str | None = None
) -> tuple[list[Supernet], str | None]:
    """One page of supernets, newest first, and the cursor of the next page.

    cursor: the last id of the page before. name, space_hash: only supernets that have these.

    Raises:
        InvalidError: no supernet has the cursor as its id.
    """
    query = select(Supernet).order_by(Supernet.created_at.desc(), Supernet.id).limit(limit + 1)
    if name is not None:
        query = query.where(Supernet.name == name)
    if space_hash is not None:
        query = query.where(Supernet.space_hash == space_hash)
    if cursor is not None:
        last = session.get(Supernet, cursor)
        if last is None:
            raise InvalidError(f"cursor is {cursor!r}; send the `next` of an earlier page")
        same_time = (Supernet.created_at == last.created_at) & (Supernet.id > last.id)
        query = query.where((Supernet.created_at < last.created_at) | same_time)
    rows = list(session.scalars(query))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def get_plan(session: Session, space_hash: str, networks: int, version: str) -> PlanRow | None:
    """A plan; None if nobody has requested it."""
    return session.get(PlanRow, (space_hash, networks, version))


def request_plan(session: Session, space_hash: str, networks: int, version: str) -> PlanRow:
    """A plan, with its row locked until this transaction ends. A new one is `failed` until it is enqueued."""
    key = {"space_hash": space_hash, "networks": networks, "version": version}
    insert_missing(session, PlanRow, [{**key, "status": "failed", "attempts": 0, "created_at": now()}])
    return session.get_one(PlanRow, tuple(key.values()), with_for_update=True, populate_existing=True)


def begin_plan(session: Session, space_hash: str, networks: int, version: str) -> PlanRow:
    """Count one more attempt. Returns the plan."""
    plan = session.get_one(PlanRow, (space_hash, networks, version), with_for_update=True)
    plan.attempts += 1
    return plan


def finish_plan(session: Session, space_hash: str, networks: int, version: str, **values: Any) -> None:
    """End a queued plan."""
    key = PlanRow.space_hash == space_hash, PlanRow.networks == networks, PlanRow.version == version
    session.execute(update(PlanRow).where(*key, PlanRow.status == "queued").values({"problem": None, **values}))
