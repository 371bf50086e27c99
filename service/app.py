"""The HTTP service: `create_app` puts the slices together."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from service.candidates import endpoints as candidates
from service.context import Context
from service.devices import endpoints as devices
from service.errors import UnavailableError
from service.exports import endpoints as exports
from service.pages import docs
from service.pages import router as pages
from service.searches import endpoints as searches
from service.settings import Settings
from service.supernets import endpoints as supernets
from service.web.auth import BEARER, check_bind, require_key
from service.web.dependencies import ContextOf
from service.web.guard import Guard
from service.web.metrics import Metrics
from service.web.problems import install

log = logging.getLogger("supple")

DESCRIPTION = """Which network fits this budget on this device? POST a search, get an architecture back.

Predicted values come from models, verified ones from held-out images, measured ones from the device; no field ever
holds two of them. FLOPs are multiply-adds. Accuracies are fractions in [0, 1], latencies milliseconds.
Errors are `application/problem+json`."""

health = APIRouter(tags=["health"])


@health.head("/healthz", include_in_schema=False)
@health.get("/healthz")
def alive() -> dict[str, str]:
    """Whether this process answers."""
    return {"status": "ok"}


@health.head("/readyz", include_in_schema=False)
@health.get("/readyz", responses={503: {"description": "`detail` says what is not ready."}})
def ready(context: ContextOf) -> dict[str, str]:
    """Whether it can do its work: the database answers and is at this release's version, and the store takes files."""
    check_ready(context)
    return {"status": "ready"}


def check_ready(context: Context) -> None:
    """Raise UnavailableError, or StoreFullError, for what is not ready."""
    try:
        with context.database.reading() as session:
            session.execute(text("SELECT 1"))
        current = context.database.is_current()
    except SQLAlchemyError as error:
        raise UnavailableError("the database does not answer") from error
    if not current:
        raise UnavailableError("the database is not at this release's version; run `supple db upgrade`")
    try:
        context.store.check()
    except OSError as error:
        log.error("no file can be kept at %s: %s", context.store.root, error)
        raise UnavailableError(f"the artifact store takes no files: {error.strerror}") from error


def create_app(settings: Settings) -> FastAPI:
    """The service, ready to serve.

    Raises:
        UnavailableError, StoreFullError: what `check_ready` finds. InvalidError: an address that must not be served
        without a key (`auth.check_bind`).
    """
    context = Context(settings)
    check_ready(context)
    with context.database.reading() as session:
        check_bind(settings, session)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        context.close()

    app = FastAPI(title="Supple", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.context = context
    install(app)
    app.add_middleware(Guard, context=context)
    app.add_middleware(metrics.middleware)
    app.include_router(health)

    @app.get("/metrics", tags=["health"], response_class=Response)
    def prometheus() -> Response:
        """Counts and times of requests, for Prometheus."""
        return metrics.response()

    v1 = APIRouter(prefix="/v1", dependencies=[Depends(require_key), Depends(BEARER)])
    for part in (supernets, devices, searches, candidates, exports):
        v1.include_router(part.router)
    app.include_router(v1)
    pages.install(app)
    docs.install(app)
    return app
