"""The database: one engine for SQLite and PostgreSQL, transactions, and the migrations run from a program.

SQLite needs care. Its driver starts a transaction late: two transactions can both read before either writes, and one of
them then fails. Here a writing transaction takes the write lock at its start, with BEGIN IMMEDIATE. A reading
transaction takes no write lock. SQLite lets writers that wait look again at intervals, so some wait for seconds while
others pass; the writers of one process therefore take turns before they ask SQLite.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session

from service.errors import UnavailableError

BUSY_TIMEOUT_MS = 30_000  # how long a SQLite writer waits for another writer
READ_ONLY, NO_RIGHT = "25006", "42501"  # SQLSTATE of PostgreSQL
# By the start of a SQLSTATE, or of the name of an error of SQLite: what a database is or does, and what to do.
EXPLANATIONS = {
    READ_ONLY: ("is read-only", "it may be a standby; give SUPPLE_DATABASE_URL the address of the primary server"),
    NO_RIGHT: ("denies this user a right", "grant it; the user should own the database or its schema"),
    "22": ("cannot hold a value", "shorten the value, and use printable text"),
    "53": ("has no room or takes no more connections", "make room or raise its limits"),
    "SQLITE_READONLY": ("is read-only", "give this user the right to write the file and its folder"),
    "SQLITE_BUSY": ("is locked", "end the program that holds it locked, or try again"),
    "SQLITE_LOCKED": ("is locked", "end the program that holds it locked, or try again"),
    "SQLITE_CANTOPEN": ("cannot be opened", "check that its folder exists and that this user may read and write it"),
    "SQLITE_NOTADB": ("is no database", "name another file in SUPPLE_DATABASE_URL"),
    "SQLITE_FULL": ("has no room", "make room on its disk"),
}
SILENCE_MS = 15_000  # a PostgreSQL server that acknowledges nothing for this long counts as gone


def make_engine(database_url: str) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://...` (with psycopg 3).

    Raises:
        ValueError: another database, or SQLite in memory, which processes cannot share.
    """
    url = make_url(database_url)
    backend = url.get_backend_name()
    if backend == "postgresql":
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_size=10,
            connect_args={"tcp_user_timeout": SILENCE_MS},
        )
        event.listen(engine, "connect", _check_encoding, insert=True)  # before SQLAlchemy reads any text
        event.listen(engine, "handle_error", _as_unusable)
        return engine
    if backend != "sqlite" or not url.database or url.database == ":memory:":
        raise ValueError(f"database_url is {url.render_as_string()!r}; use sqlite:///FILE or postgresql://HOST/NAME")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _check_encoding(connection: Any, record: Any) -> None:
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        raise UnavailableError(
            "the database has the encoding SQL_ASCII, which does not say what its bytes mean; create it with the "
            "encoding UTF8: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )


def _as_unusable(context: ExceptionContext) -> OperationalError | None:
    """Errors that say that the server cannot be used as it is count as such, like a lost connection.

    After a failover the connections of the pool may lead to a standby. They are closed, so that the next ones lead to
    the new primary.
    """
    code = getattr(context.original_exception, "sqlstate", None)
    if code not in (READ_ONLY, NO_RIGHT):
        return None
    context.is_disconnect = code == READ_ONLY
    return OperationalError(context.statement, context.parameters, context.original_exception)


def explain_error(error: DBAPIError) -> tuple[str, str]:
    """What a database is or does, by an error of its driver, and what to do about it."""
    orig = error.orig
    code = getattr(orig, "sqlstate", None) or getattr(orig, "sqlite_errorname", None) or ""
    for start, explanation in EXPLANATIONS.items():
        if code.startswith(start):
            return explanation
    if "FATAL:" in str(orig):
        return "refuses this user", "the server runs; check the user, the password and the name of the database"
    return "does not answer", "check SUPPLE_DATABASE_URL and that the server runs"


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
        self._turn = Lock()
        self._revision_turn = Lock()
        self._watching: Connection | None = None  # of SQLite, for `revision`

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading. It sees one state of the database and commits nothing."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in one transaction. The end commits it; an exception rolls it back."""
        takes_turns = self.is_sqlite and self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000)  # then SQLite says why not
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        finally:
            if takes_turns:
                self._turn.release()

    def revision(self) -> str:
        """A text that changes with every commit of any process. What was read after it is as new as the text, or newer.

        In SQLite one connection tells of the commits of all others, so it commits nothing itself. In PostgreSQL it
        names the transactions that are visible.
        """
        if not self.is_sqlite:
            with self.reading() as session:
                return str(session.scalar(text("SELECT txid_current_snapshot()")))
        with self._revision_turn:
            if self._watching is None:
                self._watching = self._reading.connect()
            try:
                return str(self._watching.exec_driver_sql("PRAGMA data_version").scalar())
            finally:
                self._watching.rollback()

    def close(self) -> None:
        """Close every connection."""
        if self._watching is not None:
            self._watching.close()
        self.engine.dispose()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, as opposed to PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    def is_writable(self) -> bool:
        """Whether transactions can write. False for a standby, and for a SQLite file or folder without the right."""
        if self.is_sqlite:
            file = Path(self.engine.url.database or "")
            return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
        with self._reading.connect() as connection:
            writable = connection.scalar(text("SHOW transaction_read_only")) == "off"
        if not writable:
            self.engine.dispose()  # the next connections may lead to the new primary
        return bool(writable)

    def check_sessions(self) -> None:
        """Check that each connection has a session of its own, to which the locks of workers belong.

        Raises:
            UnavailableError: a pooler such as PgBouncer gives each transaction another session.
        """
        if self.is_sqlite:
            return
        engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as first, engine.connect() as second:
            rounds = [[c.scalar(text("SELECT pg_backend_pid()")) for c in (first, second)] for _ in range(4)]
        if any(pids != rounds[0] for pids in rounds) or rounds[0][0] == rounds[0][1]:
            raise UnavailableError(
                "the database is behind a pooler that gives each transaction another session, such as PgBouncer in "
                "transaction mode; workers hold locks in a session: set pool_mode = session there, or give "
                "SUPPLE_DATABASE_URL the address of the PostgreSQL server itself"
            )

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
