"""Locks on worker ids: held for as long as a worker lives."""

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

LOCK_SECONDS = 3.0  # how long a starting worker tries for the lock on its id


class WorkerLock(Protocol):
    """Held by a living worker on its id."""

    def is_held(self) -> bool:
        """Whether it is still ours."""

    def release(self) -> None:
        """Give it up."""


class _AdvisoryLock:
    """A PostgreSQL session lock: gone when its connection is."""

    def __init__(self, engine: Engine, worker_id: str) -> None:
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.detach()  # closing then ends the session, and with it the lock
        for setting, value in (
            ("idle", 5),
            ("interval", 2),
            ("count", 3),
        ):  # notice within seconds when a host vanishes
            self._connection.execute(text(f"SET tcp_keepalives_{setting} = {value}"))
        key = int.from_bytes(hashlib.sha256(f"{APPLICATION} worker {worker_id}".encode()).digest()[:8], signed=True)
        self.acquired = bool(self._connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))

    def is_held(self) -> bool:
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def release(self) -> None:
        self._connection.close()


class _FileLock:
    """A locked file: the system drops the lock with the process."""

    def __init__(self, directory: Path, worker_id: str) -> None:
        directory.mkdir(exist_ok=True)
        self._path = directory / f"{worker_id}.lock"
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR)
        self.acquired = False
        with suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.acquired = self.is_held()

    def is_held(self) -> bool:
        """The path still names the file that we locked: a worker removes its file when it ends."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_ino == os.fstat(self._descriptor).st_ino
        return False

    def release(self) -> None:
        if self.acquired:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_lock(database: Database, worker_id: str) -> WorkerLock | None:
    """The lock on a worker's id, or None while a living worker holds it."""
    if database.is_sqlite:
        lock: _FileLock | _AdvisoryLock = _FileLock(Path(f"{database.engine.url.database}-workers"), worker_id)
    else:
        lock = _AdvisoryLock(database.engine, worker_id)
    if lock.acquired:
        return lock
    lock.release()
    return None


def lock_patiently(database: Database, worker_id: str) -> WorkerLock:
    """The lock on a starting worker's id, which a peer may hold for a moment to see whether its worker lives.

    Raises:
        ConflictError: a living worker has this id.
    """
    until = time.monotonic() + LOCK_SECONDS
    while (lock := try_lock(database, worker_id)) is None:
        if time.monotonic() > until:
            raise ConflictError(f"a worker with the id {worker_id!r} is running; set another SUPPLE_WORKER_ID")
        time.sleep(LOCK_SECONDS / 20)
    return lock


def remove_stale_locks(database: Database) -> None:
    """Remove the lock files that killed workers left beside a SQLite file; PostgreSQL keeps none."""
    if database.is_sqlite:
        for path in Path(f"{database.engine.url.database}-workers").glob("*.lock"):
            if lock := try_lock(database, path.stem):
                lock.release()
