"""Metrics for Prometheus at /metrics: counts of requests by route and status, and their durations."""

import time
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.problems import METHODS


class Metrics:
    """The metrics of one application, in a separate registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ("method", "route")
        self._requests = Counter(
            "supple_requests_total", "Requests answered.", (*names, "status"), registry=self._registry
        )
        self._seconds = Histogram("supple_request_seconds", "Time to answer.", names, registry=self._registry)

    def response(self) -> Response:
        """All metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """`app` with its requests counted."""
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
    """The pattern that the path matched, so that all ids count together; "none" if no pattern matched."""
    pattern: str | None = getattr(scope.get("route"), "path_format", None)
    if pattern is None:
        return "none"
    matched = pattern.format(**scope["path_params"])  # the pattern may lack the prefix of its router
    return str(scope["path"]).removesuffix(matched) + pattern
