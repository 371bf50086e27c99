"""Reading and writing searches."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.searches import queries
from service.storage.database import insert_missing
from service.storage.tables import Candidate, Search, SearchCandidate, SearchState, now

UNFINISHED = ("queued", "running")


def get(session: Session, search_id: str) -> Search:
    """A search.

    Raises:
        NotFoundError: no search has this id.
    """
    search = session.get(Search, search_id)
    if search is None:
        raise NotFoundError(f"there is no search {search_id!r}; GET /v1/searches lists them")
    return search


def lock(session: Session, search_id: str) -> Search:
    """A search, which no other transaction changes until this one ends. Raises what `get` does."""
    get(session, search_id)
    return session.get_one(Search, search_id, with_for_update=True, populate_existing=True)


def by_key(session: Session, idempotency_key: str) -> Search | None:
    """The search that was asked for with this key."""
    return session.scalars(select(Search).where(Search.idempotency_key == idempotency_key)).first()


def answered(session: Session, question: str) -> Search | None:
    """The newest search that answered a question, the hash of one."""
    done = select(Search).where(Search.question == question, Search.status == "done")
    return session.scalars(done.order_by(Search.id.desc()).limit(1)).first()


def page(session: Session, limit: int, cursor: str | None) -> tuple[list[Search], str | None]:
    """The newest searches after the cursor, and the cursor for those that follow.

    Raises:
        InvalidError: a cursor that no page ended with.
    """
    wanted = select(Search).order_by(Search.id.desc()).limit(limit + 1)  # ids sort by time
    if cursor is not None:
        if session.get(Search, cursor) is None:
            raise InvalidError(f"cursor is {cursor!r}; send the `next` of an earlier page")
        wanted = wanted.where(Search.id < cursor)
    found = list(session.scalars(wanted))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def add(session: Session, search: Search) -> Search:
    """Write a new search."""
    session.add(search)
    session.flush()
    return search


def add_members(session: Session, members: Sequence[dict[str, Any]]) -> None:
    """Write which candidates a search keeps."""
    insert_missing(session, SearchCandidate, members)


def members(session: Session, search_id: str, *, on_front: bool = False) -> list[Candidate]:
    """What a search keeps, or its front alone; best first as predicted."""
    joined = select(Candidate).join(SearchCandidate, Candidate.id == SearchCandidate.candidate_id)
    wanted = joined.where(SearchCandidate.search_id == search_id).order_by(SearchCandidate.place)
    return list(session.scalars(wanted.where(SearchCandidate.on_front) if on_front else wanted))


def finish(session: Session, search_id: str, **values: Any) -> bool:
    """End a search that has not ended; whether it had not."""
    unfinished = update(Search).where(Search.id == search_id, Search.status.in_(UNFINISHED))
    ended = session.execute(unfinished.values(finished_at=now(), progress=None, **values).returning(Search.id)).first()
    drop_state(session, search_id)
    return ended is not None


def state(session: Session, search_id: str) -> bytes | None:
    """Where a search stood when it was last saved."""
    return session.scalar(select(SearchState.state).where(SearchState.search_id == search_id))


def save_state(session: Session, search_id: str, generation: int, packed: bytes) -> None:
    """Remember where a search stands."""
    session.merge(SearchState(search_id=search_id, generation=generation, state=packed))


def drop_state(session: Session, search_id: str) -> None:
    """Forget where a search stood."""
    if saved := session.get(SearchState, search_id):
        session.delete(saved)


class _CancelledError(Exception):
    """The search was cancelled while it ran."""


def _lock(session: Session, search_id: str) -> Search:
    row = queries.lock(session, search_id)
    if row.status not in queries.UNFINISHED:
        raise _CancelledError
    return row
