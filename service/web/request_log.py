"""A name for each request, and a line in the log."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import log_context
from service.web.problems import answer

log = logging.getLogger("supple.requests")
HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds, by machines


class RequestLog:
    """ASGI middleware that names each request, logs its response, and responds to errors that nothing else caught.

    A client or a proxy may name its request in `X-Request-ID`: up to 128 letters, digits and `._:/+=@-`. The response
    carries the name, and so do all log records of the request and of the jobs that it makes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        name = sent if SANE.fullmatch(sent) else uuid.uuid4().hex
        status, started = 0, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        with log_context(request_id=name):
            try:
                await self._app(scope, receive, sending)
            except Exception as error:
                if status:  # too late to say anything else
                    log.exception("%s %s broke off", scope["method"], scope["path"])
                    raise
                response = await answer(Request(scope), error)
                await response(scope, receive, sending)
            finally:
                _log_response(scope, status, 1e3 * (time.perf_counter() - started))


def _log_response(scope: Scope, status: int, elapsed_ms: float) -> None:
    client = scope["client"][0] if scope.get("client") else None
    values = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "elapsed_ms": round(elapsed_ms, 1),
        "client": client,
    }
    level = logging.DEBUG if scope["path"] in PROBES and status < 500 else logging.INFO
    # A path may hold anything: as repr it cannot begin another line.
    shown = scope["path"] if scope["path"].isprintable() else repr(scope["path"])
    ended = status or "broke off"
    log.log(level, "%s %s %s in %.0f ms", scope["method"], shown, ended, elapsed_ms, extra=values)
