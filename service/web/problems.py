"""Errors as HTTP responses: `application/problem+json` (RFC 9457)."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from service.errors import SuppleError, make_problem_document, problem_document_of, shortened
from service.logs import request_id
from service.storage.database import explain_error

log = logging.getLogger("supple")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_ERRORS = 20  # listed per request
KEY = "[key]"  # pydantic's place of a name in a dictionary, after the name


def problem_response(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response."""
    # The document may echo half a surrogate pair, which UTF-8 cannot encode.
    content = json.dumps(problem, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, problem["status"], headers=dict(headers or {}), media_type="application/problem+json")


def _field(location: Sequence[Any]) -> str:
    """`("body", "limits", 0, "max")` as `limits[0].max`; a name in a dictionary as the dictionary."""
    if location[-1] == KEY:
        return _field(location[:-2])
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
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        unit = "character" if isinstance(value, str) else "item"
        message = f"at least {least} {unit}{'' if least == 1 else 's'} must be there"
    if error["loc"][-1] == KEY:
        field = f"a name in {field}"
    shown = f" is {shortened(repr(value))}" if isinstance(value, str | int | float | bool | None) else ""
    return f"{field}{shown}: {message[:1].lower()}{message[1:]}"


Explanation = tuple[dict[str, Any], dict[str, str]]  # a problem document, and the response's headers


def _explain_supple_error(request: Request, error: Exception) -> Explanation:
    assert isinstance(error, SuppleError)
    headers = {401: {"WWW-Authenticate": 'Bearer realm="supple"'}, 503: {"Retry-After": "1"}}.get(error.status, {})
    if (seconds := error.more.get("retry_after")) is not None:
        headers = {"Retry-After": str(seconds)}
    return error.problem_document(), headers


def _explain_invalid_request(request: Request, error: Exception) -> Explanation:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": "body" if e["type"] == "json_invalid" else _field(e["loc"]), "message": _sentence(e)}
        for e in error.errors()[:MAX_ERRORS]
    ]
    return make_problem_document(422, "; ".join(e["message"] for e in errors), errors=errors), {}


def _explain_http_exception(request: Request, error: Exception) -> Explanation:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return make_problem_document(error.status_code, error.detail), headers


def _methods(request: Request) -> set[str]:
    """The methods that a request's path allows. The router has one route per method."""
    scopes = ({**request.scope, "method": method} for method in METHODS)
    return {
        scope["method"]
        for scope in scopes
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)
    }


def _explain_database_error(request: Request, error: Exception) -> Explanation:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    assert isinstance(error, OperationalError)
    cause, _ = explain_error(error)
    return make_problem_document(503, f"the database {cause}; try again"), {"Retry-After": "1"}


def _explain_unfit_data(request: Request, error: Exception) -> Explanation:
    log.debug("%s %s", request.method, request.url.path, exc_info=error)
    return make_problem_document(422, "the database cannot hold a value of this request; send printable text"), {}


def _explain_error(request: Request, error: Exception) -> Explanation:
    problem = problem_document_of(error)
    is_unexpected = problem["status"] >= 500
    if is_unexpected and (name := request_id()):
        problem["request_id"] = name
    level = logging.ERROR if is_unexpected else logging.DEBUG
    log.log(level, "%s %s", request.method, request.url.path, exc_info=error)
    return problem, {}


PROBLEMS: dict[type[Exception], Callable[[Request, Exception], Explanation]] = {
    SuppleError: _explain_supple_error,
    RequestValidationError: _explain_invalid_request,
    HTTPException: _explain_http_exception,
    ValueError: _explain_error,
    DataError: _explain_unfit_data,
    OperationalError: _explain_database_error,
    Exception: _explain_error,
}


def explain(request: Request, error: Exception) -> Explanation:
    """An error's problem document and the headers of its response. Logs the details that the document leaves out."""
    make = next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)
    return make(request, error)


async def answer(request: Request, error: Exception) -> Response:
    """The response to any error."""
    return problem_response(*explain(request, error))


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    for kind in PROBLEMS:
        app.add_exception_handler(kind, answer)
