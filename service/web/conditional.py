"""Entity tags for JSON and CSV, so that a client that has a response already is told so instead of sent it again."""

import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TAGGED = {"application/json", "text/csv"}


class ConditionalGet:
    """ASGI middleware that tags what GET answers under /v1, and answers 304 where `If-None-Match` names the tag.

    The tag is a hash of the body, so it also holds for lists and for what still changes. Files and streams have their
    own tags, or none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def sending(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_tagged(message):
                start = message
            elif message["type"] == "http.response.body" and start is not None:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await self._send(start, body, Headers(scope=scope).get("if-none-match", ""), send)
            else:
                await send(message)

        await self._app(scope, receive, sending)

    @staticmethod
    async def _send(start: Message, body: bytes, known: str, send: Send) -> None:
        headers = MutableHeaders(scope=start)
        tag = headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers.setdefault("Cache-Control", "private, no-cache")
        if matches(known, tag):
            start["status"], body = 304, b""
            for name in ("content-length", "content-type", "content-disposition"):
                del headers[name]
        await send(start)
        await send({"type": "http.response.body", "body": body})


def _is_tagged(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return (
        start["status"] == 200 and headers.get("content-type", "").partition(";")[0] in TAGGED and "etag" not in headers
    )


def matches(if_none_match: str, tag: str) -> bool:
    """Whether the header `If-None-Match` names a tag (RFC 9110, section 13.1.2: weak comparison)."""
    return if_none_match.strip() == "*" or tag in re.findall(r'(?:W/)?("[^"]*")', if_none_match)
