"""The HTTP service: `create_app` puts the slices together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, FastAPI
from pydantic import Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from service.candidates import endpoints as candidates
from service.context import Context
from service.devices import endpoints as devices
from service.errors import UnavailableError
from service.exports import endpoints as exports
from service.finetunes import endpoints as finetunes
from service.jobs.locks import count_workers
from service.measurement_jobs import endpoints as measurement_jobs
from service.pages import docs
from service.pages import router as pages
from service.predictors import endpoints as predictors
from service.searches import endpoints as searches
from service.searches.metrics import search_metrics
from service.settings import Settings
from service.supernets import endpoints as supernets
from service.threads import one_blas_thread
from service.web.auth import check_bind
from service.web.conditional import ConditionalGet
from service.web.dependencies import ContextOf
from service.web.guard import Guard
from service.web.headers import SecurityHeaders
from service.web.metrics import Metrics
from service.web.problems import install
from service.web.rates import Rates
from service.web.request_log import PROBES, RequestLog
from service.web.root_path import RootPath
from service.web.schemas import Answer

log = logging.getLogger("supple")

DESCRIPTION = """Which network fits this budget on this device? POST a search, get an architecture back.

Predicted values come from models, verified values from held-out images, measured values from the device. No field
mixes them. FLOPs are multiply-adds. Accuracies are fractions in [0, 1], latencies milliseconds.
Errors are `application/problem+json`."""

NO_WORKER = "no worker runs: long and verified searches, and files to download, wait until `supple worker` starts one"

health = APIRouter(tags=["health"])


class Readiness(Answer):
    """A service that can take requests."""

    status: Literal["ready"] = "ready"
    workers: int = Field(description="How many workers live. Without a worker, jobs wait in the queue.")
    detail: str | None = Field(None, description="What still waits although the service is ready.")


@health.head("/healthz", include_in_schema=False)
@health.get("/healthz", summary="Check that the process is alive")
def check_alive() -> dict[str, str]:
    """Responds as long as the process runs."""
    return {"status": "ok"}


@health.head("/readyz", include_in_schema=False)
@health.get("/readyz", summary="Check readiness", responses={503: {"description": "`detail` says what is not ready."}})
def check_readiness(context: ContextOf) -> Readiness:
    """Ready means: the database answers and is at this release's version, and the artifact store takes files."""
    check_ready(context)
    workers = count_workers(context.database)
    return Readiness(workers=workers, detail=None if workers else NO_WORKER)


def check_ready(context: Context) -> None:
    """Check the database and the artifact store.

    Raises:
        UnavailableError: the database does not answer or has another version, or the store takes no files.
        StoreFullError: the store has no room.
    """
    try:
        with context.database.reading() as session:
            session.execute(text("SELECT 1"))
        current = context.database.is_current()
        writable = context.database.is_writable()
    except SQLAlchemyError as error:
        raise UnavailableError("the database does not answer") from error
    if not current:
        raise UnavailableError("the database is not at this release's version; run `supple db upgrade`")
    if not writable:
        raise UnavailableError("the database is read-only, as a standby is and a file without the right to write")
    try:
        context.store.check()
    except OSError as error:
        log.error("cannot write a file to %s: %s", context.store.location, error)
        raise UnavailableError(f"the artifact store takes no files: {error.strerror}") from error


def create_app(settings: Settings) -> FastAPI:
    """The service's application, ready to serve.

    Raises:
        UnavailableError, StoreFullError: as `check_ready`.
        InvalidError: as `auth.check_bind`.
    """
    context = Context(settings)
    check_ready(context)
    with context.database.reading() as session:
        check_bind(settings, session)
    return assemble_app(context)


def assemble_app(context: Context) -> FastAPI:
    """The application over a context, without a look at the database or the store."""
    settings = context.settings
    metrics = Metrics(context.database, (search_metrics,))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with one_blas_thread():
            yield
        context.close()

    app = FastAPI(
        title="Supple",
        version=version("supple"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        telemetry={"exclude": lambda scope: scope["path"] in PROBES},
    )
    app.state.context = context
    app.state.rates = Rates(settings.rate_limit)
    install(app)
    app.add_middleware(ConditionalGet)
    app.add_middleware(Guard, context=context)
    app.add_middleware(metrics.middleware)
    app.add_middleware(RootPath, prefix=settings.root_path)
    app.add_middleware(RequestLog)  # added last, so it comes first
    app.include_router(health)

    @app.get("/metrics", tags=["health"], summary="Get metrics", response_class=Response)
    def get_metrics() -> Response:
        """Requests, jobs, searches and workers, in Prometheus' text format."""
        return metrics.response()

    v1 = APIRouter(prefix="/v1")
    slices = (supernets, predictors, devices, measurement_jobs, searches, candidates, exports, finetunes)
    for endpoints in slices:
        v1.include_router(endpoints.router)
    app.include_router(v1)
    pages.install(app)
    docs.install(app)
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: SecurityHeaders(build())  # type: ignore[method-assign]  # also around errors
    return app
