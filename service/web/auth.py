"""Keys: who may call. Only a key's hash is stored; the key itself is shown once, when it is made.

A key has 256 random bits, so one round of SHA-256 protects it: there is nothing to guess.
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
BEARER = HTTPBearer(auto_error=False, description="Needed where the service can be reached by others.")  # for OpenAPI
COOKIE = "supple_key"  # where a browser keeps a key; the pages set it so that no other site's form sends it


def create_key(session: Session, name: str) -> str:
    """A new key under a name of its own. It cannot be read again later.

    Raises:
        ConflictError: there is a key of this name. InvalidError: no name, or one of more than 64 characters.
    """
    if not 0 < len(name) <= 64:
        raise InvalidError(f"the key's name has {len(name)} characters; between 1 and 64 are needed")
    if session.scalar(select(ApiKey.id).where(ApiKey.name == name)):
        raise ConflictError(f"there is a key named {name!r}; choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    session.add(ApiKey(name=name, key_hash=_hash(key)))
    return key


def check_bind(settings: Settings, session: Session) -> None:
    """Refuse to serve an address that others can reach while nobody could be asked for a key.

    Raises:
        InvalidError: the host is not loopback, there is no key, and `insecure` is not set.
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
    """Let a request pass if none is needed, or if it carries a known key. For `dependencies=[Depends(require_key)]`.

    A key comes as `Authorization: Bearer KEY`, or from a browser in the pages' cookie.

    Raises:
        UnauthorizedError: neither.
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
