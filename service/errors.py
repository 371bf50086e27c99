"""Errors and their one way out: `application/problem+json` (RFC 9457).

The service raises `SuppleError`; the libraries underneath raise `ValueError`, which is translated here, at the edge.
"""

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
        """The problem document."""
        return {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.more}


class NotFoundError(SuppleError):
    """Nothing has this name."""

    status, title = 404, "Not found"


class ConflictError(SuppleError):
    """What is asked contradicts what is stored."""

    status, title = 409, "Conflict"


class InvalidError(SuppleError):
    """The request is well formed and cannot be done as asked."""

    status, title = 422, "Unprocessable request"


class InfeasibleError(SuppleError):
    """No architecture of the space fits the limits."""

    status, title = 422, "No architecture fits these limits"


class NotVerifiedError(SuppleError):
    """Predictions held the limits; what was measured and verified does not."""

    status, title = 422, "No finalist holds every limit as measured and verified"


class UnauthorizedError(SuppleError):
    """A key is needed and none that is known was sent."""

    status, title = 401, "A key is needed"


class UnavailableError(SuppleError):
    """Something the service stands on does not work just now."""

    status, title = 503, "Not available now"


class StoreFullError(SuppleError):
    """The artifact store cannot take a file."""

    status, title = 507, "The artifact store is full"


def make_problem_document(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """A problem document titled after its HTTP status. more: further members, JSON-able."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}


def problem_document_of(error: Exception) -> dict[str, Any]:
    """Any error as a problem document. Of one that nobody could act on it says no more than that it happened."""
    if isinstance(error, SuppleError):
        return error.problem_document()
    if isinstance(error, ValueError) and not isinstance(error, ValidationError):  # those are of values we made
        return make_problem_document(422, shortened(str(error), 1_000))
    return make_problem_document(500, "an unexpected error, which the service's log describes")


def shortened(text: str, most: int = 80) -> str:
    """`text`, cut where it is longer, so that nobody gets back all they sent."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


class InputError(ValueError):
    """An argument cannot be used. The message names the argument, its value and what to do.

    arguments: names in the message's backquotes, such as `max_flops`; the command line prints --max-flops instead.
    """

    def __init__(self, message: str, *arguments: str) -> None:
        super().__init__(message)
        self.arguments = arguments
