"""Who sent a request, and whether it may do that. Every route declares the scope that it needs with `needs`."""

import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from service.context import Context
from service.errors import ForbiddenError, InvalidError, UnauthorizedError
from service.keys import queries
from service.keys.keys import has_expired, hash_key
from service.keys.scopes import SCOPES, Scope, with_included
from service.keys.sessions import form_token
from service.settings import Settings
from service.storage.tables import ApiKey, now
from service.web.dependencies import ContextOf
from service.web.rates import Rates

log = logging.getLogger("supple")

BEARER = HTTPBearer(auto_error=False, description="Needed if other machines can reach the service.")  # for OpenAPI
COOKIE = "supple_session"  # holds the token of a browser session
USE_RECORDED = timedelta(minutes=1)  # a key's last use is recorded this often
CREATE = "`supple keys create NAME` makes one"


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    name: the key's. granted: the key's scopes, with those that they include. form_token: what the forms of its browser
    session carry; None if the request came without a session.
    """

    name: str
    granted: frozenset[Scope]
    form_token: str | None = None


ANYONE = Caller("", with_included(SCOPES))  # on a service that needs no keys


def check_bind(settings: Settings, session: Session) -> None:
    """Refuse to serve an address that other machines can reach if no valid key exists.

    Raises:
        InvalidError: the host is not loopback, there is no valid key, and `insecure` is not set.
    """
    if settings.needs_key and not settings.api_key.get_secret_value() and not queries.has_valid_key(session):
        raise InvalidError(
            f"host is {settings.host}, which other machines can reach, and no valid key exists; "
            "run `supple keys create NAME`, set SUPPLE_API_KEY, or serve without keys with --insecure"
        )


def needs(scope: Scope) -> Any:
    """Declare the scope that a route needs: `@router.get(..., dependencies=[needs("read")])`."""
    return Security(require_scope, scopes=[scope])


def require_scope(
    security: SecurityScopes, request: Request, context: ContextOf, _: Annotated[object, Depends(BEARER)]
) -> None:
    """Refuse a request whose key lacks the scope that the route declares. Use it through `needs`.

    Raises:
        UnauthorizedError: the request needs a key and has no valid one.
        ForbiddenError: the key lacks the scope.
        TooManyRequestsError: the key has sent too many requests.
    """
    caller = identify(request, context)
    if missing := set(security.scopes) - caller.granted:
        raise ForbiddenError(
            f"the key {caller.name!r} lacks the scope {sorted(missing)[0]!r}; "
            f"`supple keys create NAME --scope {sorted(missing)[0]}` makes one that has it"
        )


def identify(request: HTTPConnection, context: Context) -> Caller:
    """Who sent a request. A program sends its key as `Authorization: Bearer KEY`, a browser its session's cookie.

    The first call for a request looks the key up, counts the request and records the key's use.

    Raises:
        UnauthorizedError: the request needs a key and has no valid one.
        TooManyRequestsError: the key has sent too many requests.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    if known is None:
        known = _identify(request, context) if context.settings.needs_key else ANYONE
        request.state.caller = known
    return known


def check_key(context: Context, key: str) -> None:
    """Raise UnauthorizedError unless a key is valid."""
    with context.database.reading() as session:
        _find_key(session, context.settings, hash_key(key))


def _identify(request: HTTPConnection, context: Context) -> Caller:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    key, token = sent.strip() if scheme.lower() == "bearer" else "", request.cookies.get(COOKIE, "")
    if not key and not token:
        raise UnauthorizedError(f"send a key as `Authorization: Bearer KEY`; {CREATE}")
    with context.database.reading() as session:
        key_hash = hash_key(key) if key else _session_key(session, token)
        found = _find_key(session, context.settings, key_hash)
    name, scopes = ("SUPPLE_API_KEY", SCOPES) if found is None else (found.name, _scopes(found))
    rates: Rates = request.app.state.rates
    rates.count(name)
    if found is not None:
        _record_use(context, found)
    return Caller(name, with_included(scopes), None if key else form_token(token))


def _session_key(session: Session, token: str) -> str:
    """The hash of the key that opened a browser session."""
    found = queries.find_session(session, hash_key(token))
    if found is None:
        raise UnauthorizedError("this session has ended; sign in again")
    return found.key_hash


def _find_key(session: Session, settings: Settings, key_hash: str) -> ApiKey | None:
    """The key with this hash; None if it is the one in the environment. Raises UnauthorizedError if it is not valid."""
    own = settings.api_key.get_secret_value()
    if own and hmac.compare_digest(hash_key(own), key_hash):
        return None
    key = queries.find(session, key_hash)
    if key is None:
        raise UnauthorizedError(f"this key is not known; {CREATE}")
    if has_expired(key):
        raise UnauthorizedError(f"this key expired at {key.expires_at:%Y-%m-%d %H:%M} UTC; {CREATE}")
    return key


def _scopes(key: ApiKey) -> Sequence[Scope]:
    return [scope for scope in SCOPES if scope in key.scopes.split()]


def _record_use(context: Context, key: ApiKey) -> None:
    if key.last_used_at is not None and now() - key.last_used_at < USE_RECORDED:
        return
    try:
        with context.database.writing() as session:
            queries.record_use(session, key.id, now())
    except OperationalError as error:  # of a read-only or locked database, which still answers what is only read
        log.warning("the use of key %s could not be recorded: %s", key.name, error.orig)
