"""Exceptions, and the problem documents made of them (RFC 9457).

The service raises `SuppleError`. The libraries below it raise `ValueError`, which `problem_document_of` translates.
"""

import re
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError


class SuppleError(Exception):
    """An error that a caller can act on. The message names the value, the limit and what to do.

    more: further members of the problem document, JSON-able.
    """

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.more = more

    def problem_document(self) -> dict[str, Any]:
        """This error as a problem document."""
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.more}


class NotFoundError(SuppleError):
    """Nothing has this name."""

    status, title = 404, "Not found"


class ConflictError(SuppleError):
    """The request contradicts stored data."""

    status, title = 409, "Conflict"


class InvalidError(SuppleError):
    """The request is well formed, but it cannot be carried out."""

    status, title = 422, "Unprocessable request"


class InfeasibleError(SuppleError):
    """No architecture of the space fits the limits."""

    status, title = 422, "No architecture fits these limits"


class NotVerifiedError(SuppleError):
    """Predicted values met the limits; no finalist's measured and verified values meet them."""

    status, title = 422, "No finalist holds every limit as measured and verified"


class UnauthorizedError(SuppleError):
    """The request needs a valid key and carries none."""

    status, title = 401, "A key is needed"


class ForbiddenError(SuppleError):
    """The request's key is valid, but it may not do this."""

    status, title = 403, "Not allowed"


class TooManyRequestsError(SuppleError):
    """The key has sent too many requests. `retry_after` in the problem document: seconds to wait."""

    status, title = 429, "Too many requests"


class UnavailableError(SuppleError):
    """The database or another dependency does not work at the moment."""

    status, title = 503, "Not available now"


class DamagedError(SuppleError):
    """A file in the artifact store is not what was stored."""

    status, title = 500, "The artifact store is damaged"


class StoreFullError(SuppleError):
    """The artifact store cannot take a file."""

    status, title = 507, "The artifact store is full"


def make_problem_document(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """A problem document titled after its HTTP status. more: further members, JSON-able."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}


def problem_document_of(error: Exception) -> dict[str, Any]:
    """Any error as a problem document. An unexpected error's document does not say what happened; the log does."""
    if isinstance(error, SuppleError):
        return error.problem_document()
    # A ValidationError here is the service's own mistake: FastAPI reports invalid requests with another class.
    if isinstance(error, ValueError) and not isinstance(error, ValidationError):
        return make_problem_document(422, shortened(str(error), 1_000))
    return make_problem_document(500, "an unexpected error, which the service's log describes")


def shortened(text: str, max_length: int = 80) -> str:
    """`text`, cut to this length, so that a message does not echo a long value."""
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def without_password(address: str) -> str:
    """The address of a database or a service, well-formed or not, without the parts that could hold a password."""
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address)
    scheme = match[0] if match else ""
    rest, _, query = address[len(scheme) :].partition("?")
    if "@" in query:  # a question mark in the password would look like this
        return f"{scheme}***"
    return scheme + ("***@" if "@" in rest else "") + rest.rpartition("@")[2]


class InputError(ValueError):
    """An argument cannot be used. The message names the argument, its value and what to do.

    arguments: names in the message's backquotes, such as `max_flops`; the command line prints --max-flops instead.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments
