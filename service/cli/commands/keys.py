"""`supple keys`: keys for the HTTP API."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from service.cli.console import JsonOption, err, out, print_json
from service.cli.inputs import current_database, read_settings
from service.keys import keys as api_keys
from service.keys import queries
from service.keys.keys import has_expired
from service.keys.scopes import MEANINGS, SCOPES
from service.storage.tables import ApiKey

if TYPE_CHECKING:
    ScopeOption = str
else:
    ScopeOption = StrEnum("ScopeOption", list(SCOPES))

keys = typer.Typer(help="Keys for the HTTP API.", no_args_is_help=True)


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who or what will use the key.")],
    scope: Annotated[
        list[ScopeOption] | None,
        typer.Option(
            help="What its holder may do. Repeat it for further scopes. "
            + " ".join(f"{name}: {meaning}." for name, meaning in MEANINGS.items()),
            show_default="search",
        ),
    ] = None,
    days: Annotated[int | None, typer.Option(help="How many days it is valid.", show_default="until revoked")] = None,
) -> None:
    """Create a key for the HTTP API. It is shown once; the database stores only its hash."""
    with current_database(read_settings()) as database, database.writing() as session:
        key = api_keys.create_key(session, name, scope or ["search"], days)
    out.print(key, highlight=False)
    err.print("Send it as `Authorization: Bearer KEY`. It cannot be shown again.")


@keys.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List the keys: their scopes, when they expire, and when they were last used, to the minute."""
    with current_database(read_settings()) as database, database.reading() as session:
        rows = queries.list_keys(session)
    if as_json:
        print_json([_as_json(row) for row in rows])
        return
    table = Table("name", "scopes", "created", "expires", "last used")
    for row in rows:
        expires = _time(row.expires_at) + (" (expired)" if has_expired(row) else "")
        table.add_row(row.name, row.scopes, _time(row.created_at), expires, _time(row.last_used_at))
    out.print(table if rows else "there are no keys; `supple keys create NAME` makes one")


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="The name of the key.")]) -> None:
    """Delete a key and end the browser sessions that it opened."""
    with current_database(read_settings()) as database, database.writing() as session:
        api_keys.revoke_key(session, name)
    out.print(f"the key {name} is no longer valid", highlight=False)


def _as_json(key: ApiKey) -> dict[str, Any]:
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "last_used_at")}
    shown = {name: time and time.isoformat(timespec="seconds") for name, time in times.items()}
    return {"name": key.name, "scopes": key.scopes.split(), **shown, "expired": has_expired(key)}


def _time(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"
