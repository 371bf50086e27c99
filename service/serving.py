"""`supple serve`: the API in this process, one worker in a process beside it."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.settings import Settings

log = logging.getLogger("supple.serve")
RESTART_SECONDS = 2.0


def serve(settings: Settings, *, with_worker: bool) -> None:
    """Serve until interrupted.

    Raises:
        UnavailableError: the database is not at this release's version, or does not answer.
    """
    app = create_app(settings)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, log_level="warning")
    if not with_worker:
        uvicorn.Server(config).run()
        return
    with _worker_beside(settings):
        uvicorn.Server(config).run()


@contextmanager
def _worker_beside(settings: Settings) -> Iterator[None]:
    """A worker that is started again should it die, and stopped at the end."""
    environment = os.environ | {
        "SUPPLE_DATABASE_URL": settings.database,
        "SUPPLE_STORE": str(settings.store_directory),
        "SUPPLE_DATA_DIRECTORY": str(settings.data_directory),
    }
    stopping = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def supervise() -> None:
        while not stopping.is_set():
            running[:] = [subprocess.Popen([sys.executable, "-m", "service.cli", "worker"], env=environment)]
            code = running[0].wait()
            if not stopping.is_set():
                log.error("the worker ended with exit code %s; starting another", code)
                stopping.wait(RESTART_SECONDS)

    thread = threading.Thread(target=supervise, name="worker-supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        for process in running:
            process.terminate()
        thread.join(timeout=15)
