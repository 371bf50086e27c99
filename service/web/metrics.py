"""Metrics for Prometheus at /metrics.

Requests are counted in each API process. Everything about jobs and searches is read from the database, so every process
tells the same, workers need no port of their own, and nothing is lost when a process ends.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.jobs.ledger import BOUNDS, Durations, job_groups
from service.jobs.locks import count_workers
from service.storage.database import Database
from service.web.problems import METHODS

log = logging.getLogger("supple")
KEEP_SECONDS = 5.0  # how long what was read from the database is told again
Source = Callable[[Session], Iterable[Metric]]


class Metrics:
    """The metrics of one application, in a separate registry.

    sources: functions that read metrics of the slices from the database.
    """

    def __init__(self, database: Database, sources: Sequence[Source] = ()) -> None:
        self._registry = CollectorRegistry()
        names = ("method", "route")
        self._requests = Counter(
            "supple_requests_total", "Requests answered.", (*names, "status"), registry=self._registry
        )
        self._seconds = Histogram("supple_request_seconds", "Time to answer.", names, registry=self._registry)
        self._registry.register(_FromDatabase(database, (_job_metrics, *sources)))

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
        started, status, is_stream = time.perf_counter(), 500, False

        async def sending(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
            await send(message)

        try:
            await app(scope, receive, sending)
        finally:
            labels = scope["method"] if scope["method"] in METHODS else "other", _route(scope)
            self._requests.labels(*labels, status).inc()
            if not is_stream:  # which lasts as long as the job
                self._seconds.labels(*labels).observe(time.perf_counter() - started)


class _FromDatabase(Collector):
    """Metrics that are read from the database when they are asked for, at most once in `KEEP_SECONDS`."""

    def __init__(self, database: Database, sources: Sequence[Source]) -> None:
        self._database, self._sources = database, sources
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._metrics: list[Metric] = []

    def describe(self) -> list[Metric]:
        """Nothing: without it, registering would read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics; only `supple_database_up` when the database does not answer."""
        with self._lock:
            if time.monotonic() - self._read_at > KEEP_SECONDS:
                self._metrics, self._read_at = self._read(), time.monotonic()
            yield from self._metrics

    def _read(self) -> list[Metric]:
        is_up = GaugeMetricFamily("supple_database_up", "Whether the database answers.")
        metrics: list[Metric] = [is_up]
        try:
            workers = GaugeMetricFamily("supple_workers", "Workers that live.", value=count_workers(self._database))
            with self._database.reading() as session:
                metrics += [workers, *(metric for source in self._sources for metric in source(session))]
        except SQLAlchemyError as error:
            log.warning("the metrics lack what the database has: %s", error)
            del metrics[1:]
        is_up.add_metric([], float(len(metrics) > 1))
        return metrics


def _job_metrics(session: Session) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("supple_jobs", "Jobs by kind and state.", labels=("kind", "state"))
    age = GaugeMetricFamily(
        "supple_oldest_job_seconds", "Age of the oldest job that waits or runs.", labels=("kind", "state")
    )
    waited = HistogramMetricFamily(
        "supple_job_wait_seconds", "From a job's creation until a worker began it.", labels=("kind",)
    )
    ran = HistogramMetricFamily(
        "supple_job_seconds", "From a job's begin in its last worker until its end.", labels=("kind", "state")
    )
    waits: dict[str, list[Durations]] = {}
    for group in job_groups(session):
        jobs.add_metric((group.kind, group.state), group.count)
        waits.setdefault(group.kind, []).append(group.waited)
        if group.state in ("queued", "running"):
            age.add_metric((group.kind, group.state), max(0.0, time.time() - group.oldest_ms / 1e3))
        elif group.ran.count:
            ran.add_metric((group.kind, group.state), _buckets([group.ran]), group.ran.seconds)
    for kind, durations in waits.items():
        waited.add_metric((kind,), _buckets(durations), sum(part.seconds for part in durations))
    yield from (jobs, age, waited, ran)


def _buckets(durations: Sequence[Durations]) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus wants them."""
    counts = [sum(part.at_most[place] for part in durations) for place in range(len(BOUNDS))]
    total = sum(part.count for part in durations)
    return [*((str(float(bound)), float(count)) for bound, count in zip(BOUNDS, counts, strict=True)), ("+Inf", total)]


def _route(scope: Scope) -> str:
    """The pattern that the path matched, so that all ids count together; "none" if no pattern matched."""
    pattern: str | None = getattr(scope.get("route"), "path_format", None)
    if pattern is None:
        return "none"
    matched = pattern.format(**scope["path_params"])  # the pattern may lack the prefix of its router
    return str(scope["path"]).removesuffix(matched) + pattern
