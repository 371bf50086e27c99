"""The database: one engine for SQLite and PostgreSQL, transactions, and the migrations run from a program.

SQLite needs care. Its driver starts a transaction late: two transactions can both read before either writes, and one of
them then fails. Here a writing transaction takes the write lock at its start, with BEGIN IMMEDIATE. A reading
transaction takes no write lock.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

BUSY_TIMEOUT_MS = 30_000  # how long a SQLite writer waits for another writer
SILENCE_MS = 15_000  # a PostgreSQL server that acknowledges nothing for this long counts as gone


def make_engine(database_url: str) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://...` (with psycopg 3).

    Raises:
        ValueError: another database, or SQLite in memory, which processes cannot share.
    """
    url = make_url(database_url)
    backend = url.get_backend_name()
    if backend == "postgresql":
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=10,
            connect_args={"tcp_user_timeout": SILENCE_MS},
        )
    if backend != "sqlite" or not url.database or url.database == ":memory:":
        raise ValueError(f"database_url is {url.render_as_string()!r}; use sqlite:///FILE or postgresql://HOST/NAME")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver then leaves BEGIN to `_begin_sqlite`
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Database:
    """The engine and its transactions. One per process."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.engine = make_engine(database_url)
        self._reading = self.engine.execution_options(reading=True)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading. It sees one state of the database and commits nothing."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in one transaction. The end commits it; an exception rolls it back."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, as opposed to PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    def is_current(self) -> bool:
        """Whether every migration has run."""
        with self._reading.connect() as connection:
            applied = MigrationContext.configure(connection).get_current_heads()
        return set(applied) == set(ScriptDirectory.from_config(alembic_config()).get_heads())


def alembic_config() -> Config:
    """Alembic's configuration for the migrations that are installed with the package."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))  # % begins a reference
    return config


def insert_missing(session: Session, model: type[DeclarativeBase], rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows whose primary key the table does not have yet.

    Rows are inserted in the order of their keys. If two transactions inserted the same rows in different orders, each
    could wait for the other forever.

    rows: all with the same columns.
    """
    if rows:
        table = model.metadata.tables[model.__tablename__]
        key = [column.name for column in table.primary_key]
        insert = sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)
        by_key = sorted(rows, key=lambda row: [row[name] for name in key])
        session.execute(insert.on_conflict_do_nothing(), by_key)
