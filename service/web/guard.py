"""Checks before a request's body is read. They refuse unknown hosts, other sites, missing keys and large bodies."""

import re

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.context import Context
from service.web.auth import identify
from service.web.problems import answer
from service.web.sites import SAFE_METHODS, check_site, comes_from_a_page

BODY_BYTES = 64 << 10  # limit of a request's body
MEASUREMENT_BYTES = 64 << 20  # limit of a body with measurements
MEASUREMENTS = re.compile(r"/v1/devices/[^/]+/(measurements|jobs/[^/]+/results)$")
LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Guard:
    """ASGI middleware that refuses requests early. What a key may do is checked by the routes."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        max_bytes = MEASUREMENT_BYTES if MEASUREMENTS.search(request.url.path) else BODY_BYTES
        try:
            await self._admit(request)
            length = request.headers.get("content-length", "")
            _check_length(int(length) if length.isdecimal() else 0, max_bytes)
        except Exception as error:
            response = await answer(request, error)
            response.headers["Connection"] = "close"  # the client may still be sending the body
            await response(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            _check_length(received, max_bytes)
            return message

        await self._app(scope, counting, send)

    async def _admit(self, request: Request) -> None:
        """Refuse a request for its host, site or key."""
        settings, host = self._context.settings, request.headers.get("host", "")
        if not settings.needs_key and not settings.insecure and not LOOPBACK.fullmatch(host):
            raise HTTPException(
                421,
                f"Host is {errors.shortened(host)!r}; without keys this service answers to localhost alone, because a "
                "page of another site could otherwise use it under its own name",
            )
        if not request.url.path.startswith("/v1/"):
            return
        if request.method not in SAFE_METHODS:
            check_site(request)
        caller = await run_sync(identify, request, self._context)
        if caller.form_token and request.method not in SAFE_METHODS and not comes_from_a_page(request):
            raise HTTPException(403, "a browser's session counts for its pages alone; programs send a key")


def _check_length(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise HTTPException(413, f"the body has more than {max_bytes:,} bytes, the limit for this request")
