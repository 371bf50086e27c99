"""What the command line says of an error, in one line, and the exit code that goes with it."""

import re

from service.errors import SuppleError

BAD_INPUT = 2
ENVIRONMENT = 1  # the machine, the database or the network does not let us


class InputError(ValueError):
    """What was typed cannot be used; the message names the option and the value."""


def explained(error: Exception) -> tuple[str, int] | None:
    """The line to print and the exit code; None for an error that nobody foresaw, whose traceback is worth reading."""
    if isinstance(error, SuppleError):
        return one_line(error), ENVIRONMENT if error.status >= 500 else BAD_INPUT
    if isinstance(error, ValueError):
        return one_line(error), BAD_INPUT
    if isinstance(error, OSError):
        return one_line(error), ENVIRONMENT
    return None


def one_line(error: object) -> str:
    """An error's message without its line breaks."""
    return re.sub(r"\s*\n\s*", "; ", str(error).strip())


def without_password(database_url: str) -> str:
    """An address of a database as it may be printed, well-formed or not: whatever could hold a password is left out."""
    address = database_url.partition("?")[0]
    if "@" not in address:
        return address
    scheme, found, _ = address.partition("://")
    return f"{scheme + found if found else ''}***@{address.rpartition('@')[2]}"
