"""`supple serve`: the API in this process and workers in child processes."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import uvicorn

from service import processes
from service.app import create_app
from service.jobs.runner import GRACE_SECONDS
from service.settings import Settings

log = logging.getLogger("supple.serve")
RESTART_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before a worker's next start, by how often it died in a row
STEADY_SECONDS = 60.0  # a worker that lived for so long starts the count anew
POLL_SECONDS = 0.2  # how often to check that the workers run
REQUEST_SECONDS = 5  # how long unfinished requests may take after a signal to stop
WORKER_SECONDS = GRACE_SECONDS + 5  # how long the workers may take to stop before they are killed


def serve(settings: Settings, *, workers: int) -> None:
    """Serve until SIGTERM or SIGINT. Call it from the main thread.

    workers: how many workers run beside the API. One that dies is started again.

    Raises:
        UnavailableError: the port is taken, or the database does not answer or is not at this release's version.
    """
    processes.check_port(settings.host, settings.port)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=REQUEST_SECONDS,
        forwarded_allow_ips=settings.trusted_proxies,
    )
    closing: threading.Event = app.state.context.closing
    server = _Server(config, workers, closing)

    def stop(*_: object) -> None:
        closing.set()
        server.should_exit = True

    # At its end uvicorn raises the signal again. The default handler would then end this process before the workers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with _supervised_workers(settings, workers, closing):
        server.run()
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, which says where it listens, and which lets event streams end before it waits for responses."""

    def __init__(self, config: uvicorn.Config, workers: int, closing: threading.Event) -> None:
        super().__init__(config)
        self._workers, self._closing = workers, closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT."""
        self._closing.set()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        listening = [listener.getsockname() for server in self.servers for listener in server.sockets]
        for host, port, *_ in listening:
            shown = f"[{host}]" if ":" in host else host
            beside = f"{self._workers or 'no'} worker{'' if self._workers == 1 else 's'}"
            log.info("serving on http://%s:%s, the API's description at /docs, with %s", shown, port, beside)


@contextmanager
def _supervised_workers(settings: Settings, count: int, stopping: threading.Event) -> Iterator[None]:
    """Workers in child processes. One that dies is started again; `stopping` stops all, side by side."""
    threads = [
        threading.Thread(
            target=_supervise,
            args=(_numbered(settings, number, count), _share_of_cores(count), stopping),
            name=f"worker-supervisor-{number}",
            daemon=True,
        )
        for number in range(1, count + 1)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _numbered(settings: Settings, number: int, count: int) -> Settings:
    """The settings of one of several workers: their ids differ."""
    if count == 1 or not settings.worker_id:
        return settings
    suffix = f"-{number}"
    return settings.model_copy(update={"worker_id": settings.worker_id[: 64 - len(suffix)] + suffix})


def _share_of_cores(count: int) -> Mapping[str, str]:
    """Environment variables that give each of several workers its share of the cores, unless the user has set them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {} if count == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // count))}


def _supervise(settings: Settings, environment: Mapping[str, str], stopping: threading.Event) -> None:
    deaths = 0
    while not stopping.is_set():
        worker, started = processes.start("worker", settings, environment), time.monotonic()
        while worker.poll() is None and not stopping.wait(POLL_SECONDS):
            pass
        if stopping.is_set():
            processes.stop(worker, WORKER_SECONDS)
            return
        deaths = 1 if time.monotonic() - started > STEADY_SECONDS else deaths + 1
        pause = RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1]
        log.error("a worker ended with exit code %s; starting another in %g s", worker.returncode, pause)
        stopping.wait(pause)
