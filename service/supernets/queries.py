"""Reading and writing supernets."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.storage.database import insert_missing
from service.storage.tables import Supernet


def add(session: Session, values: dict[str, Any]) -> Supernet:
    """The supernet with these values; an equal one that is there already is left as it is."""
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


def only(session: Session) -> Supernet:
    """The supernet, where there is just one.

    Raises:
        InvalidError: there are several, or none.
    """
    supernets = session.scalars(select(Supernet).limit(2)).all()
    if len(supernets) != 1:
        which = "several supernets are registered; name one" if supernets else "no supernet is registered"
        raise InvalidError(f"supernet is missing, and {which}; GET /v1/supernets lists them")
    return supernets[0]


def every(session: Session) -> list[Supernet]:
    """All supernets, newest first."""
    return list(session.scalars(select(Supernet).order_by(Supernet.created_at.desc(), Supernet.id)))


def page(session: Session, limit: int, cursor: str | None) -> tuple[list[Supernet], str | None]:
    """The newest supernets after the cursor, and the cursor for those that follow.

    Raises:
        InvalidError: a cursor that no page ended with.
    """
    wanted = select(Supernet).order_by(Supernet.created_at.desc(), Supernet.id).limit(limit + 1)
    if cursor is not None:
        last = session.get(Supernet, cursor)
        if last is None:
            raise InvalidError(f"cursor is {cursor!r}; send the `next` of an earlier page")
        same_time = (Supernet.created_at == last.created_at) & (Supernet.id > last.id)
        wanted = wanted.where((Supernet.created_at < last.created_at) | same_time)
    found = list(session.scalars(wanted))
    return found[:limit], found[limit - 1].id if len(found) > limit else None
