"""The input of commands, checked before any work: settings, the database, architectures. And errors, explained."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from service.candidates import queries
from service.errors import InputError, SuppleError, UnavailableError, without_password
from service.settings import Settings
from service.storage.database import Database, explain_error
from supernet.space import Architecture, SearchSpace


def read_settings(**options: Any) -> Settings:
    """Settings from the environment. Options override them, except those that are None.

    Raises:
        InputError: a setting is invalid; the message names it, its value and what it may be.
    """
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise InputError("; ".join(map(_fault, error.errors()))) from None  # its traceback would show a secret
    try:
        url = make_url(settings.database)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            f"SUPPLE_DATABASE_URL is {without_password(settings.database)!r}, which is not the address of a database; "
            "write sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
        ) from error
    if url.get_backend_name() != "sqlite":
        _check_password(settings.database)
    return settings


def _fault(fault: Mapping[str, Any]) -> str:
    """What is wrong with a setting. Secrets are not shown."""
    name = str(fault["loc"][0])
    secret = name in Settings.model_fields and Settings.model_fields[name].annotation is SecretStr
    shown = "" if secret else f" is {fault['input']!r}"
    return f"SUPPLE_{name.upper()}{shown}: {fault['msg']}"


def _check_password(database_url: str) -> None:
    """Refuse a password with an @. It would end there, and the rest would be taken for the host and be printed."""
    rest = re.sub(r"^[\w+]+://([^:/]*(:[^@]*)?@)?", "", database_url)  # as SQLAlchemy reads it
    if "@" in rest.partition("=")[0]:
        raise InputError(
            f"SUPPLE_DATABASE_URL is {without_password(database_url)!r}, whose password holds an @; write it as %40 "
            "and a % as %25, or leave the password out and set PGPASSWORD"
        )


@contextmanager
def naming_database(settings: Settings) -> Iterator[None]:
    """Turn errors of the database into one that names the database.

    Raises:
        UnavailableError: the database does not answer, or its file is not a database.
    """
    try:
        yield
    except DBAPIError as error:
        _, advice = explain_error(error)
        raise UnavailableError(
            f"the database at {without_password(settings.database)} cannot be used: {one_line(error.orig)}; {advice}"
        ) from error


@contextmanager
def current_database(settings: Settings) -> Iterator[Database]:
    """The database, after a check that it answers.

    Raises:
        UnavailableError: the database does not answer, or it is not at this release's version.
    """
    with naming_database(settings):
        database = Database(settings.database)
        try:
            if not database.is_current():
                raise UnavailableError(
                    f"the database at {without_password(settings.database)} is not at this release's version; "
                    "run `supple db upgrade`"
                )
            database.check_sessions()
            yield database
        finally:
            database.close()


def check_database(settings: Settings) -> None:
    """Check that the database can be used, before long work. Raises what `current_database` raises."""
    with current_database(settings):
        pass


def read_arch(text: str, space: SearchSpace) -> Architecture:
    """The architecture that `--arch` names: `largest`, `smallest`, JSON, a file of JSON, or an id in the database.

    The JSON may also be the answer of a search, whose best architecture is meant, or anything else with an `arch`.

    Raises:
        InputError: the text is none of these. ValueError: the JSON does not describe an architecture.
    """
    if text in ("largest", "smallest"):
        corner: Architecture = getattr(space, text)()
        return corner
    if text.lstrip().startswith("{"):
        return _arch_of_json(text, "--arch")
    if re.fullmatch("[0-9a-f]{16}|[0-9a-f]{32}", text) and not Path(text).exists():
        return _arch_of_id(text, space)
    try:
        return _arch_of_json(Path(text).read_text(), f"--arch {text}")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(
            f"--arch is {text!r}: {why}; give `largest`, `smallest`, JSON, a file of JSON, or an architecture's id"
        ) from error


def read_json(option: str, path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{option} is {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{option} is {str(path)!r}, which is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("host"), dict):
        raise InputError(f"{option} is {str(path)!r}, which is not what a probe writes: it has no host")
    return data


def read_numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers between commas, such as one for each channel of an image; None for None.

    Raises:
        InputError: something between the commas is no number.
    """
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; write numbers between commas, such as 0.5,0.5,0.5") from error


def read_sizes(option: str, text: str | None) -> list[int] | None:
    """Whole numbers between commas, such as image sizes, pixels; None for None.

    Raises:
        InputError: something between the commas is no whole number.
    """
    try:
        return None if text is None else [int(size) for size in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; write whole numbers between commas, such as 128,192") from error


def _arch_of_json(text: str, name: str) -> Architecture:
    try:
        data = json.loads(text)
        if isinstance(data, dict):
            data = data.get("best") or data
            data = data.get("arch", data)
        return Architecture.from_json(data)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error


def _arch_of_id(text: str, space: SearchSpace) -> Architecture:
    """The architecture with an id. An id is a hash, so it has to be looked up in the database."""
    for corner in (space.largest(), space.smallest()):
        if space.id(corner) == text:
            return corner
    settings = read_settings()
    url = make_url(settings.database)
    advice = "give the architecture as JSON, as the search printed it"
    where = without_password(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise InputError(f"--arch is the id {text}, and there is no database at {where} to look it up in; {advice}")
    with current_database(settings) as database, database.reading() as session:
        arch = queries.architecture(session, text)
    if arch is None:
        raise InputError(f"--arch is the id {text}, which is not in the database at {where}; {advice}")
    return Architecture.from_json(arch)


BAD_INPUT = 2
ENVIRONMENT = 1  # the machine, the database or the network prevents it


def explain(error: Exception) -> tuple[str, int] | None:
    """The message to print and the exit code. None for an unforeseen error, whose traceback is worth reading."""
    message = one_line(error)
    if isinstance(error, SuppleError):
        return message, ENVIRONMENT if error.status >= 500 else BAD_INPUT
    if isinstance(error, InputError):
        for name in error.arguments:
            message = message.replace(f"`{name}`", "--" + name.replace("_", "-"))
    if isinstance(error, ValueError):
        return message, BAD_INPUT
    if isinstance(error, OSError):
        return message, ENVIRONMENT
    return None


def one_line(error: object) -> str:
    """An error's message without its line breaks."""
    return re.sub(r"\s*\n\s*", "; ", str(error).strip())
