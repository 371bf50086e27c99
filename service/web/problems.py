"""Errors as HTTP answers: `application/problem+json` (RFC 9457)."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from service.errors import SuppleError, _plain, log, problem_document_of, shortened

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MOST_ERRORS = 20  # of one request that are listed


def problem_response(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response."""
    content = json.dumps(problem, ensure_ascii=False).encode("utf-8", "backslashreplace")  # it may echo half a pair
    return Response(content, problem["status"], headers=dict(headers or {}), media_type="application/problem+json")


def _field(location: Sequence[Any]) -> str:
    """`("body", "limits", 0, "max")` as `limits[0].max`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
    return shortened(text.lstrip(".") or str(location[0]))


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        what = str(error["ctx"]["error"])
        return f"the body is not JSON: {what[:1].lower()}{what[1:]} at position {error['loc'][-1]}"
    field, value = _field(error["loc"]), error.get("input")
    if error["type"] == "extra_forbidden":
        return f"{field} is not a field of this request"
    if error["type"] == "missing":
        return f"{field} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = f" is {shortened(repr(value))}" if isinstance(value, str | int | float | bool | None) else ""
    return f"{field}{shown}: {message[:1].lower()}{message[1:]}"


async def _on_supple_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SuppleError)
    headers = {"WWW-Authenticate": 'Bearer realm="supple"'} if error.status == 401 else None
    return problem_response(error.problem_document(), headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": "body" if e["type"] == "json_invalid" else _field(e["loc"]), "message": _sentence(e)}
        for e in error.errors()[:MOST_ERRORS]
    ]
    return problem_response(_plain(422, "; ".join(e["message"] for e in errors), errors=errors))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        error.headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return problem_response(_plain(error.status_code, error.detail), error.headers)


def _methods(request: Request) -> set[str]:
    """The methods that the path of a request can be asked with: each is another route to the router."""
    scopes = ({**request.scope, "method": method} for method in METHODS)
    return {
        scope["method"]
        for scope in scopes
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)
    }


async def _on_database_error(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem_response(_plain(503, "the database does not answer or is locked; try again"), {"Retry-After": "1"})


async def _on_unfit_data(request: Request, error: Exception) -> Response:
    log.info("%s %s", request.method, request.url.path, exc_info=error)
    return problem_response(_plain(422, "the database cannot hold a value of this request; send printable text"))


async def _on_error(request: Request, error: Exception) -> Response:
    problem = problem_document_of(error)
    level = logging.ERROR if problem["status"] >= 500 else logging.INFO
    log.log(level, "%s %s", request.method, request.url.path, exc_info=error)
    return problem_response(problem)


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    SuppleError: _on_supple_error,
    RequestValidationError: _on_invalid_request,
    HTTPException: _on_http_exception,
    ValueError: _on_error,
    DataError: _on_unfit_data,
    OperationalError: _on_database_error,
    Exception: _on_error,
}


async def answer(request: Request, error: Exception) -> Response:
    """The problem document of any error, as `app` of `install` would answer it."""
    handle = next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)
    return await handle(request, error)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    for kind, handle in HANDLERS.items():
        app.add_exception_handler(kind, handle)
