"""Long work: a thin layer over DBOS, the durable job engine. Nothing else imports it.

The API enqueues a job in the transaction that writes the job's row, so that both are there or neither. Workers are
processes of their own. A job's steps are recorded as they finish; a job that lost its worker goes on in another one, at
the step that was running. Four things are ours, because the engine leaves them open:

- Each worker holds a lock on its id for as long as it lives: an advisory lock in PostgreSQL, a locked file beside a
  SQLite file. Two workers with one id would take each other's jobs; the second one to start is refused.
- A worker that can lock another one's id knows that it is dead, and puts its jobs back into the queue.
- Stopping is dying after a grace period: what was running is taken over like any other lost job.
- So is losing the database: after some minutes of trying, the process ends without another word about its job.
"""

import fcntl
import hashlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, StepOptions
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from service.db import Database
from service.errors import ConflictError, UnavailableError
from service.settings import Settings

if TYPE_CHECKING:
    from service.context import Context

log = logging.getLogger("supple.jobs")
T = TypeVar("T")

APPLICATION = "supple"
VERSION = "1"  # of the jobs' steps: raise it when their order changes; jobs underway then need a worker of the old one
QUEUE = "supple"
POLL_SECONDS = 0.2  # how often a worker looks for a job
LOCK_SECONDS = 3.0  # how long a starting worker tries for the lock on its id
TICK_SECONDS = 1.0  # how often it looks for dead peers and proves its own lock
GRACE_SECONDS = 10.0  # how long a stopping worker lets its job go on
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before a step tries a locked or absent database again
MOST_ATTEMPTS = 5  # a job that as many workers died of is given up by its handler


class Step(Protocol):
    """Runs a part of a job and records its JSON-able result, so that it is not run again after it has finished."""

    def __call__(self, name: str, function: Callable[[], T]) -> T:
        """The result of `function`, from now or from before."""


Handler = Callable[["Context", Step, str], None]  # the third argument names the row that the job works on


class Jobs:
    """The API's side: puts jobs into the queue."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            lazy=True,
        )

    def enqueue(self, session: Session, kind: str, subject: str, *, job_id: str, priority: int) -> None:
        """Have a worker run the handler of `kind` on `subject` once this session's transaction commits.

        priority: the smaller the earlier. A job_id that is known already enqueues nothing.
        """
        self._client.enqueue_in_transaction(
            session,
            {"workflow_name": kind, "queue_name": QUEUE, "workflow_id": job_id, "priority": priority},
            subject,
        )

    def cancel(self, job_id: str) -> None:
        """Keep a job from starting; one that runs ends at its next step."""
        self._client.cancel_workflow(job_id)

    def close(self) -> None:
        """Let go of the engine's resources."""
        self._client.destroy()


def upgrade_engine(database_url: str) -> None:
    """Bring the job engine's own tables to the version that this release needs."""
    with _quiet():
        DBOS.migrate(database_url)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("dbos")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


# Locks on worker ids.


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


# The worker.


def run_worker(settings: Settings, handlers: Mapping[str, Handler] | None = None) -> NoReturn:
    """Run jobs until SIGTERM or SIGINT, then end this process. Call it from the main thread of a process of its own.

    handlers: by kind of job; those of the service unless given.

    Raises:
        ConflictError: a living worker has this id.
        UnavailableError: the database has not been upgraded.
    """
    from service.context import Context

    context = Context(settings)
    worker_id = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
    if not context.database.is_current():
        raise UnavailableError("the database is not at this release's version; run `supple db upgrade`")
    lock = lock_patiently(context.database, worker_id)
    remove_stale_locks(context.database)

    stop, idle = threading.Event(), threading.Event()
    idle.set()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("dbos").addFilter(_is_no_cancellation)
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": context.database.engine.url.render_as_string(hide_password=False),
            "serializer": DBOSPortableJSONSerializer(),
            "executor_id": worker_id,
            "application_version": VERSION,
            "run_migrations": False,
            "log_level": "WARNING",
        }
    )
    for kind, handler in (handlers or _handlers()).items():
        DBOS.workflow(name=kind, max_recovery_attempts=None)(_as_workflow(handler, context, idle))
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)
    log.info("worker %s is ready", worker_id)
    # In a thread of its own: the engine waits without end for a database that is away, and the lock is lost meanwhile.
    threading.Thread(target=_watch_peers, args=(context.database, worker_id), name="peers", daemon=True).start()
    while lock.is_held() and not stop.wait(TICK_SECONDS):
        pass
    if stop.is_set():
        idle.wait(GRACE_SECONDS)
    else:
        log.error("worker %s lost its lock and ends at once, so that no step runs twice", worker_id)
    logging.shutdown()
    os._exit(0 if stop.is_set() else 1)


def _handlers() -> dict[str, Handler]:
    """The service's jobs. They load torch, which the API process does without."""
    from service.exports.job import build_export
    from service.searches.job import run_search

    return {"search": run_search, "export": build_export}


def _as_workflow(handler: Handler, context: "Context", idle: threading.Event) -> Callable[[str], None]:
    def workflow(subject: str) -> None:
        idle.clear()
        try:
            handler(context, _run_step, subject)
        except (OperationalError, InterfaceError) as error:
            _die(error)
        finally:
            idle.set()

    workflow.__qualname__ = handler.__qualname__
    return workflow


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """The engine logs a cancelled job, which is nobody's mistake, as an error with its traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "DBOSAwaitedWorkflowCancelledError"


def _run_step(name: str, function: Callable[[], T]) -> T:
    return DBOS.run_step(StepOptions(name=name), lambda: _patiently(name, function))


def _patiently(name: str, function: Callable[[], T]) -> T:
    """What a step's function returns; it is called again while the database is locked or away.

    Where that lasts, this process ends: an error would be recorded as the step's outcome, and the job be lost with it.
    """
    for pause in PAUSES_SECONDS:
        try:
            return function()
        except (OperationalError, InterfaceError) as error:
            log.warning("step %s lost the database and tries again in %g s: %s", name, pause, error)
            time.sleep(pause)
    try:
        return function()
    except (OperationalError, InterfaceError) as error:
        _die(error)


def _die(error: Exception) -> NoReturn:
    log.critical("the database does not answer; this worker ends, and its job goes on in another", exc_info=error)
    logging.shutdown()
    os._exit(1)


def _watch_peers(database: Database, worker_id: str) -> None:
    while True:
        try:
            take_over(database, worker_id)
        except Exception:  # whatever it was: without this thread no dead worker is ever noticed
            log.exception("looking for dead workers failed; trying again")
        time.sleep(TICK_SECONDS)


def take_over(database: Database, worker_id: str) -> None:
    """Put the jobs of dead workers back into the queue. Called by a living worker."""
    pending = partial(DBOS.list_workflows, status="PENDING", queue_name=QUEUE, load_input=False, load_output=False)
    for peer in sorted({str(job.executor_id) for job in pending()} - {worker_id}):
        lock = try_lock(database, peer)
        if lock is None:
            continue
        try:
            for job in pending(executor_id=peer):  # asked again: another worker may have been faster
                log.warning("worker %s is dead; job %s goes back into the queue", peer, job.workflow_id)
                DBOS.resume_workflow(job.workflow_id, queue_name=QUEUE)
        finally:
            lock.release()
