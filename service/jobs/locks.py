"""Locks on worker ids. A worker holds the lock on its id for as long as it lives.

In PostgreSQL the lock is an advisory lock; beside a SQLite file it is a locked file. Two workers with the same id would
run each other's jobs, so the second one to start is refused. A worker that can lock another worker's id has proof that
the other worker is dead. The API counts the locks to say how many workers live.
"""

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from service.errors import ConflictError
from service.jobs.queue import APPLICATION
from service.storage.database import Database

WORKERS = int.from_bytes(b"supp")  # key of the advisory lock that all living workers share
LOCK_SECONDS = 3.0  # how long a starting worker tries for the lock on its id


class WorkerLock(Protocol):
    """A living worker's lock on its id."""

    def announce(self) -> None:
        """Let `count_workers` count this lock. A worker that locks a peer's id for a moment does not call it."""

    def is_held(self) -> bool:
        """Whether this process still holds the lock."""

    def release(self) -> None:
        """Release the lock."""


class _AdvisoryLock:
    """A PostgreSQL session lock. It ends with its connection."""

    def __init__(self, engine: Engine, worker_id: str) -> None:
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.detach()  # closing the connection then ends the session and its lock
        for setting, value in {"idle": 5, "interval": 2, "count": 3}.items():  # notices a lost host within seconds
            self._connection.execute(text(f"SET tcp_keepalives_{setting} = {value}"))
        key = int.from_bytes(hashlib.sha256(f"{APPLICATION} worker {worker_id}".encode()).digest()[:8], signed=True)
        self.acquired = bool(self._connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))

    def announce(self) -> None:
        self._connection.execute(text("SELECT pg_advisory_lock_shared(:workers, 0)"), {"workers": WORKERS})

    def is_held(self) -> bool:
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def release(self) -> None:
        self._connection.close()


class _FileLock:
    """A locked file. The operating system releases the lock when the process ends."""

    def __init__(self, directory: Path, worker_id: str) -> None:
        directory.mkdir(exist_ok=True)
        self._path = directory / f"{worker_id}.lock"
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR)
        self.acquired = False
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.acquired = self.is_held()

    def announce(self) -> None:
        """Nothing to do: other processes see that the file is locked."""

    def is_held(self) -> bool:
        """Whether the path still names the file that this process locked. A worker removes its file when it ends."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_ino == os.fstat(self._descriptor).st_ino
        return False

    def release(self) -> None:
        if self.acquired:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_lock(database: Database, worker_id: str) -> WorkerLock | None:
    """The lock on a worker's id, or None if a living worker holds it."""
    if database.is_sqlite:
        lock: _FileLock | _AdvisoryLock = _FileLock(_lock_directory(database), worker_id)
    else:
        lock = _AdvisoryLock(database.engine, worker_id)
    if lock.acquired:
        return lock
    lock.release()
    return None


def lock_patiently(database: Database, worker_id: str) -> WorkerLock:
    """The lock on a starting worker's id. Retries for a few seconds: a peer locks ids briefly to find dead workers.

    Raises:
        ConflictError: a living worker has this id.
    """
    until = time.monotonic() + LOCK_SECONDS
    while (lock := try_lock(database, worker_id)) is None:
        if time.monotonic() > until:
            raise ConflictError(f"a worker with the id {worker_id!r} is running; set another SUPPLE_WORKER_ID")
        time.sleep(LOCK_SECONDS / 20)
    lock.announce()
    return lock


def count_workers(database: Database) -> int:
    """How many workers live."""
    if database.is_sqlite:
        return sum(map(_is_locked, _lock_directory(database).glob("*.lock")))
    with database.reading() as session:
        holders = text(
            "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
            "WHERE datname = current_database() AND locktype = 'advisory' AND classid = :workers AND objsubid = 2"
        )
        return int(session.scalar(holders, {"workers": WORKERS}) or 0)


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_directory(database: Database) -> Path:
    """Where the workers of a SQLite file have their lock files."""
    return Path(f"{database.engine.url.database}-workers")


def remove_stale_locks(database: Database) -> None:
    """Remove the lock files that killed workers left beside a SQLite file. PostgreSQL leaves none."""
    if database.is_sqlite:
        for path in _lock_directory(database).glob("*.lock"):
            if lock := try_lock(database, path.stem):
                lock.release()
