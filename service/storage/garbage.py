"""What the database names in the store, and the removal of everything that it does not name."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Column, String, select
from sqlalchemy.orm import Session

from service.storage.database import Database
from service.storage.store import Store, Stored
from service.storage.tables import HASH, Base, now


@dataclass(frozen=True)
class Garbage:
    """What nothing names. removed: everything that was removed, or would be."""

    removed: list[Stored]
    contents: int  # how many things the store had

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(stored.size for stored in self.removed)


def collect_garbage(database: Database, store: Store, *, min_age: timedelta, dry_run: bool) -> Garbage:
    """Remove what no row of the database names.

    A job stores a file before it commits the row that names it. So nothing that was stored within `min_age` is removed,
    and the database is read after the store was listed.

    dry_run: remove nothing.

    Raises:
        UnavailableError: the store does not answer.
    """
    contents = list(store.contents())
    youngest = now() - min_age
    with database.reading() as session:
        named = named_hashes(session)
    garbage = [stored for stored in contents if stored.modified < youngest and stored.name not in named]
    return Garbage([stored for stored in garbage if dry_run or store.remove(stored)], len(contents))


def named_hashes(session: Session) -> set[str]:
    """Every value of a column that can hold a hash. More than the artifacts' columns, so that none is forgotten."""
    return set().union(*(_values(session, column) for column in _columns() if _can_hold_hash(column)))


def artifact_hashes(session: Session) -> set[str]:
    """The values of all columns that name files in the store."""
    return set().union(*(_values(session, column) for column in _columns() if column.info.get("artifact")))


def _columns() -> Iterator[Column[str]]:
    for table in Base.metadata.sorted_tables:
        yield from table.columns


def _can_hold_hash(column: Column[str]) -> bool:
    return isinstance(column.type, String) and column.type.length == HASH.length


def _values(session: Session, column: Column[str]) -> set[str]:
    return set(session.scalars(select(column).where(column.is_not(None)).distinct()))
