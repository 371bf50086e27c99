"""The runner: executes jobs in a worker process, and takes over the jobs of dead workers.

A job that lost its worker continues in another worker, at the step that was running. The engine leaves three cases to
this module:

- A worker dies: a living worker locks the dead worker's id and puts its jobs back into the queue.
- A worker is stopped: it waits for its job for a grace period, then ends; another worker takes the job over.
- The database stays away: after some minutes of retries the process ends and records no error; another worker takes the
  job over.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, Protocol, TypeVar

from dbos import DBOS, DBOSPortableJSONSerializer, StepOptions
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from service.errors import UnavailableError
from service.jobs.ledger import origin_of
from service.jobs.locks import lock_patiently, remove_stale_locks, try_lock
from service.jobs.queue import APPLICATION, QUEUE, Step, T, log
from service.logs import log_context
from service.settings import Settings
from service.storage.database import Database
from service.telemetry import flush_spans, span

VERSION = "2"  # of the steps; raise it when their order changes. Running jobs then need a worker of the old version
POLL_SECONDS = 0.2  # how often a worker looks for a job
TICK_SECONDS = 1.0  # how often a worker looks for dead peers and checks its own lock
GRACE_SECONDS = 10.0  # how long a stopping worker waits for its job
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before each retry of a step whose database is locked or away


class WorkerContext(Protocol):
    """The part of a context that the runner itself uses. The runner hands the whole context to each handler."""

    settings: Settings
    database: Database


C = TypeVar("C", bound=WorkerContext)
Handler = Callable[[C, Step, str], None]  # the third argument names the row that the job works on


def run_worker(context: C, handlers: Mapping[str, Handler[C]]) -> NoReturn:
    """Run jobs until SIGTERM or SIGINT, then end this process. Call it from the main thread of a dedicated process.

    handlers: one per kind of job.

    Raises:
        ConflictError: a living worker has this id.
        UnavailableError: the database has not been upgraded.
    """
    worker_id = context.settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
    if not context.database.is_current():
        raise UnavailableError("the database is not at this release's version; run `supple db upgrade`")
    context.database.check_sessions()
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
    for kind, handler in handlers.items():
        DBOS.workflow(name=kind, max_recovery_attempts=None)(_as_workflow(kind, handler, context, idle))
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)
    log.info("worker %s is ready", worker_id)
    # A separate thread: the engine waits forever for a lost database, while the loop below must notice a lost lock.
    threading.Thread(target=_watch_peers, args=(context.database, worker_id), name="peers", daemon=True).start()
    while lock.is_held() and not stop.wait(TICK_SECONDS):
        pass
    if stop.is_set():
        idle.wait(GRACE_SECONDS)
        flush_spans()
    else:
        log.error("worker %s lost its lock and ends at once, so that no step runs twice", worker_id)
    _exit(0 if stop.is_set() else 1)


def _exit(code: int) -> NoReturn:
    """End this process at once, without waiting for threads of the engine."""
    logging.shutdown()
    os._exit(code)


def _as_workflow(kind: str, handler: Handler[C], context: C, idle: threading.Event) -> Callable[[str], None]:
    def workflow(subject: str) -> None:
        idle.clear()
        try:
            with _observed(kind, context.database):
                handler(context, _run_step, subject)
        except (OperationalError, InterfaceError, InternalError) as error:  # the last: a standby, after a failover
            _die(error)
        finally:
            idle.set()

    workflow.__qualname__ = handler.__qualname__
    return workflow


@contextmanager
def _observed(kind: str, database: Database) -> Iterator[None]:
    """A job as a span and in the log, under the names of the job and of the request that made it."""
    job_id = DBOS.workflow_id or ""
    with database.reading() as session:
        origin = origin_of(session, job_id)
    job = {"supple.job.id": job_id, "supple.job.kind": kind}
    with log_context(job_id=job_id, request_id=origin.get("request_id", "")), span(f"job {kind}", origin, **job):
        log.info("begins")
        started, ended = time.monotonic(), "is cancelled"  # which is no Exception
        try:
            yield
            ended = "is done"
        except Exception:
            ended = "fails"
            raise
        finally:
            seconds = time.monotonic() - started
            log.info("%s after %.1f s", ended, seconds, extra={"elapsed_ms": round(1e3 * seconds)})


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """False for a cancelled job, which the engine logs as an error with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "DBOSAwaitedWorkflowCancelledError"


def _run_step(name: str, function: Callable[[], T]) -> T:
    with span(f"step {name}"):
        return DBOS.run_step(StepOptions(name=name), lambda: _patiently(name, function))


def _patiently(name: str, function: Callable[[], T]) -> T:
    """The result of a step's function, with retries while the database is locked or away.

    After the last retry this process ends. Raising the error instead would record it as the step's outcome and lose the
    job.
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
    log.critical("the database does not answer; this worker ends, and another worker continues its job", exc_info=error)
    flush_spans()
    _exit(1)


def _watch_peers(database: Database, worker_id: str) -> None:
    while True:
        try:
            take_over(database, worker_id)
        except Exception:  # any error: without this thread nobody notices dead workers
            log.exception("looking for dead workers failed; trying again")
        time.sleep(TICK_SECONDS)


def take_over(database: Database, worker_id: str) -> None:
    """Put the jobs of dead workers back into the queue. Call it from a living worker."""
    pending = partial(DBOS.list_workflows, status="PENDING", queue_name=QUEUE, load_input=False, load_output=False)
    for peer in sorted({str(job.executor_id) for job in pending()} - {worker_id}):
        lock = try_lock(database, peer)
        if lock is None:
            continue
        try:
            for job in pending(executor_id=peer):  # listed again: another worker may have been faster
                log.warning("worker %s is dead; job %s goes back into the queue", peer, job.workflow_id)
                DBOS.resume_workflow(job.workflow_id, queue_name=QUEUE)
        finally:
            lock.release()
