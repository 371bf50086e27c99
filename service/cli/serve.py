"""`supple serve`: the API in this process and one worker in a child process."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service import processes
from service.app import create_app
from service.jobs.runner import GRACE_SECONDS
from service.settings import Settings

log = logging.getLogger("supple.serve")
RESTART_SECONDS = 2.0
POLL_SECONDS = 0.2  # how often to check that the worker runs
REQUEST_SECONDS = 5  # how long unfinished requests may take after a signal to stop
WORKER_SECONDS = GRACE_SECONDS + 5  # how long the worker may take to stop before it is killed


def serve(settings: Settings, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT. Call it from the main thread.

    Raises:
        UnavailableError: the port is taken, or the database does not answer or is not at this release's version.
    """
    processes.check_port(settings.host, settings.port)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=REQUEST_SECONDS,
        forwarded_allow_ips=settings.trusted_proxies,
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # At its end uvicorn raises the signal again. The default handler would then end this process before the worker.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if with_worker:
        with _supervised_worker(settings):
            server.run()
    else:
        server.run()


@contextmanager
def _supervised_worker(settings: Settings) -> Iterator[None]:
    """A worker in a child process. If it dies, another one starts; it is stopped at the end."""
    stopping = threading.Event()
    thread = threading.Thread(target=_supervise, args=(settings, stopping), name="worker-supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _supervise(settings: Settings, stopping: threading.Event) -> None:
    while not stopping.is_set():
        worker = processes.start("worker", settings)
        while worker.poll() is None and not stopping.wait(POLL_SECONDS):
            pass
        if stopping.is_set():
            processes.stop(worker, WORKER_SECONDS)
        else:
            log.error("the worker ended with exit code %s; starting another", worker.returncode)
            stopping.wait(RESTART_SECONDS)
