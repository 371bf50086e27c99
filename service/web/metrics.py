"""What Prometheus reads at /metrics: requests by route and answer, and how long they took."""

import time
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.problems import METHODS


class Metrics:
    """One application's counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ("method", "route")
        self._requests = Counter(
            "supple_requests_total", "Requests answered.", (*names, "status"), registry=self._registry
        )
        self._seconds = Histogram("supple_request_seconds", "Time to answer.", names, registry=self._registry)

    def response(self) -> Response:
        """All of it in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its requests counted."""
        return partial(self._count, app)

    async def _count(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, sending)
        finally:
            labels = scope["method"] if scope["method"] in METHODS else "other", _route(scope)
            self._requests.labels(*labels, status).inc()
            self._seconds.labels(*labels).observe(time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The pattern that the path matched, so that all ids count together; "none" where none did."""
    pattern: str | None = getattr(scope.get("route"), "path_format", None)
    if pattern is None:
        return "none"
    matched = pattern.format(**scope["path_params"])  # a router's own pattern may lack the prefix it is mounted at
    return str(scope["path"]).removesuffix(matched) + pattern
