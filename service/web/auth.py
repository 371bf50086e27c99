"""API keys: who may call. Only a key's hash is stored; the key itself is shown once, when it is created.

A key has 256 random bits. Nobody can guess it, so one round of SHA-256 is enough protection.
"""

import hashlib
import secrets
from typing import Annotated

from fastapi import Cookie, Header
from fastapi.security import HTTPBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import ConflictError, InvalidError, UnauthorizedError
from service.settings import Settings
from service.storage.tables import ApiKey
from service.web.dependencies import ContextOf

PREFIX = "supple_"
BEARER = HTTPBearer(auto_error=False, description="Needed if other machines can reach the service.")  # for OpenAPI
COOKIE = "supple_key"  # holds a browser's key; the pages set it so that no other site's form sends it


def create_key(session: Session, name: str) -> str:
    """Create a key and return it. It cannot be read again later.

    Raises:
        ConflictError: a key has this name.
        InvalidError: the name is empty or longer than 64 characters.
    """
    if not 0 < len(name) <= 64:
        raise InvalidError(f"the key's name has {len(name)} characters; use between 1 and 64")
    if session.scalar(select(ApiKey.id).where(ApiKey.name == name)):
        raise ConflictError(f"there is a key named {name!r}; choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    session.add(ApiKey(name=name, key_hash=_hash(key)))
    return key


def check_bind(settings: Settings, session: Session) -> None:
    """Refuse to serve an address that other machines can reach if no key exists.

    Raises:
        InvalidError: the host is not loopback, no key exists, and `insecure` is not set.
    """
    if settings.needs_key and session.scalar(select(ApiKey.id).limit(1)) is None:
        raise InvalidError(
            f"host is {settings.host}, which other machines can reach, and no key exists; "
            "run `supple keys create NAME`, or serve without keys with --insecure"
        )


def require_key(
    context: ContextOf,
    authorization: Annotated[str, Header(include_in_schema=False)] = "",
    cookie: Annotated[str, Cookie(alias=COOKIE, include_in_schema=False)] = "",
) -> None:
    """Refuse a request without a valid key, if the settings need keys. For `dependencies=[Depends(require_key)]`.

    A request carries its key as `Authorization: Bearer KEY`; a browser carries it in the pages' cookie.

    Raises:
        UnauthorizedError: the request has no key, or its key does not exist.
    """
    if not context.settings.needs_key:
        return
    scheme, _, sent = authorization.partition(" ")
    key = sent.strip() if scheme.lower() == "bearer" else cookie
    if not key:
        raise UnauthorizedError("send a key as `Authorization: Bearer KEY`; `supple keys create NAME` makes one")
    with context.database.reading() as session:
        if session.scalar(select(ApiKey.id).where(ApiKey.key_hash == _hash(key))) is None:
            raise UnauthorizedError("this key is not known; `supple keys create NAME` makes one")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
