"""API keys. Only a key's hash is stored; the key itself is shown once, when it is created.

A key has 256 random bits. Nobody can guess it, so one round of SHA-256 is enough protection.
"""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy.orm import Session

from service.errors import ConflictError, InvalidError, NotFoundError
from service.keys import queries
from service.keys.scopes import read_scopes
from service.storage.tables import ApiKey, now

PREFIX = "supple_"
MAX_DAYS = 3650


def create_key(session: Session, name: str, scopes: Iterable[str], days: int | None = None) -> str:
    """Create a key and return it. It cannot be read again later.

    days: how long it is valid; None: until it is revoked.

    Raises:
        ConflictError: a key has this name.
        InvalidError: the name is empty, longer than 64 characters or not printable; a scope is unknown; `days` is below
            1 or above 3650.
    """
    if not 0 < len(name) <= 64:
        raise InvalidError(f"the key's name has {len(name)} characters; use between 1 and 64")
    if not name.isprintable():
        raise InvalidError(f"the key's name is {name!r}; use printable characters")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise InvalidError(f"the key is to be valid for {days} days; use between 1 and {MAX_DAYS}, or no limit")
    chosen = read_scopes(scopes)
    if queries.find_by_name(session, name) is not None:
        raise ConflictError(f"there is a key named {name!r}; choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    expires_at = None if days is None else now() + timedelta(days=days)
    session.add(ApiKey(name=name, key_hash=hash_key(key), scopes=" ".join(chosen), expires_at=expires_at))
    return key


def revoke_key(session: Session, name: str) -> None:
    """Delete a key and the browser sessions that it opened. They are refused from now on.

    Raises:
        NotFoundError: no key has this name.
    """
    key = queries.find_by_name(session, name)
    if key is None:
        raise NotFoundError(f"there is no key named {name!r}; `supple keys list` shows all")
    queries.delete_sessions(session, key.key_hash)
    session.delete(key)


def hash_key(key: str) -> str:
    """64 hexadecimal digits: what is stored of a key or of a browser session."""
    return hashlib.sha256(key.encode()).hexdigest()


def has_expired(key: ApiKey) -> bool:
    """Whether a key is valid no longer."""
    return key.expires_at is not None and key.expires_at <= now()
