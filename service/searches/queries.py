"""Reading and writing searches."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.errors import InvalidError, NotFoundError
from service.jobs.queue import UNFINISHED
from service.measurement_jobs import queries as measurement_jobs
from service.storage.database import insert_missing
from service.storage.tables import (
    Candidate,
    Search,
    SearchCandidate,
    SearchDevice,
    SearchState,
    Verification,
    first_id,
    now,
)


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
    """A search that no other transaction changes until this one ends. Raises what `get` does."""
    get(session, search_id)
    return session.get_one(Search, search_id, with_for_update=True, populate_existing=True)


class EndedError(Exception):
    """The search ended while its job ran: it was cancelled."""


def lock_unfinished(session: Session, search_id: str) -> Search:
    """A search, as from `lock`. Raises EndedError when it has ended."""
    search = lock(session, search_id)
    if search.status not in UNFINISHED:
        raise EndedError
    return search


def by_key(session: Session, idempotency_key: str) -> Search | None:
    """The search that was created with this key."""
    return session.scalars(select(Search).where(Search.idempotency_key == idempotency_key)).first()


def newest_answer(session: Session, question: str) -> Search | None:
    """The newest search that is done and answers a question, given by its hash."""
    done = select(Search).where(Search.question == question, Search.status == "done")
    return session.scalars(done.order_by(Search.id.desc()).limit(1)).first()


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which searches a list holds; None and no statuses: all. since: at or after; until: before."""

    supernet: str | None = None
    device: str | None = None
    statuses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


ALL = SearchFilter()


def page(
    session: Session, limit: int, cursor: str | None, wanted: SearchFilter = ALL
) -> tuple[list[Search], str | None]:
    """One page of searches, newest first, and the cursor of the next page.

    Raises:
        InvalidError: a cursor that no page ended with.
    """
    query, key = select(Search), Search.id  # ids sort by time
    if wanted.device is not None:
        query = query.join(SearchDevice, SearchDevice.search_id == Search.id)
        query, key = query.where(SearchDevice.device == wanted.device), SearchDevice.search_id
    if wanted.supernet is not None:
        query = query.where(Search.supernet_id == wanted.supernet)
    if wanted.statuses:
        query = query.where(Search.status.in_(wanted.statuses))
    if wanted.since is not None:
        query = query.where(key >= first_id(wanted.since))
    if wanted.until is not None:
        query = query.where(key < first_id(wanted.until))
    query = query.order_by(key.desc()).limit(limit + 1)
    if cursor is not None:
        if session.get(Search, cursor) is None:
            raise InvalidError(f"cursor is {cursor!r}; send the `next` of an earlier page")
        query = query.where(key < cursor)
    rows = list(session.scalars(query))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def add(session: Session, search: Search) -> Search:
    """Write a new search."""
    session.add(search)
    session.flush()
    session.add_all(SearchDevice(device=device, search_id=search.id) for device in search.latency_models)
    return search


def add_members(session: Session, members: Sequence[dict[str, Any]]) -> None:
    """Write the candidates of a search: its front and its finalists."""
    insert_missing(session, SearchCandidate, members)


def members(session: Session, search_id: str, *, on_front: bool = False) -> list[Candidate]:
    """The candidates of a search, or those on its front alone; best first by prediction."""
    joined = select(Candidate).join(SearchCandidate, Candidate.id == SearchCandidate.candidate_id)
    query = joined.where(SearchCandidate.search_id == search_id).order_by(SearchCandidate.place)
    return list(session.scalars(query.where(SearchCandidate.on_front) if on_front else query))


def totals(session: Session) -> dict[str, tuple[int, int, float]]:
    """By status: the number of searches, their evaluations, and the milliseconds that they took."""
    summed = func.coalesce(func.sum(Search.evaluations), 0), func.coalesce(func.sum(Search.elapsed_ms), 0.0)
    query = select(Search.status, func.count(), *summed).group_by(Search.status)
    return {status: (count, int(spent or 0), float(ms or 0)) for status, count, spent, ms in session.execute(query)}


def count_verified(session: Session) -> int:
    """How many candidates were scored on held-out images."""
    query = select(func.count()).select_from(Verification).where(Verification.verified_accuracy.is_not(None))
    return session.scalar(query) or 0


def finish(session: Session, search_id: str, **values: Any) -> bool:
    """End a search and set its values, unless it has ended already. Returns whether this call ended it."""
    unfinished = update(Search).where(Search.id == search_id, Search.status.in_(UNFINISHED))
    ended = session.execute(unfinished.values(finished_at=now(), progress=None, **values).returning(Search.id)).first()
    delete_state(session, search_id)
    if ended is not None:
        measurement_jobs.cancel(session, search_id)
    return ended is not None


def saved_state(session: Session, search_id: str) -> bytes | None:
    """The state of an unfinished search, as its job last saved it."""
    return session.scalar(select(SearchState.state).where(SearchState.search_id == search_id))


def save_state(session: Session, search_id: str, generation: int, packed: bytes) -> None:
    """Save the state of an unfinished search, so that another worker can go on from there."""
    session.merge(SearchState(search_id=search_id, generation=generation, state=packed))


def delete_state(session: Session, search_id: str) -> None:
    """Delete the saved state of a search."""
    if saved := session.get(SearchState, search_id):
        session.delete(saved)
