"""Reading and writing keys and browser sessions."""

from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from service.storage.tables import ApiKey, BrowserSession, now


def find(session: Session, key_hash: str) -> ApiKey | None:
    """The key with this hash."""
    return session.scalar(select(ApiKey).where(ApiKey.key_hash == key_hash))


def find_by_name(session: Session, name: str) -> ApiKey | None:
    """The key with this name."""
    return session.scalar(select(ApiKey).where(ApiKey.name == name))


def list_keys(session: Session) -> list[ApiKey]:
    """All keys by name."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.name)))


def has_valid_key(session: Session) -> bool:
    """Whether any key is valid."""
    valid = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now())
    return session.scalar(select(ApiKey.id).where(valid).limit(1)) is not None


def record_use(session: Session, key_id: str, used_at: datetime) -> None:
    """Record when a key was last used."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=used_at))


def find_session(session: Session, token_hash: str) -> BrowserSession | None:
    """The browser session whose cookie has this hash, unless it has expired."""
    found = session.get(BrowserSession, token_hash)
    return found if found is not None and found.expires_at > now() else None


def delete_session(session: Session, token_hash: str) -> None:
    """Delete a browser session, if it exists."""
    session.execute(delete(BrowserSession).where(BrowserSession.token_hash == token_hash))


def delete_sessions(session: Session, key_hash: str) -> None:
    """Delete the browser sessions of a key."""
    session.execute(delete(BrowserSession).where(BrowserSession.key_hash == key_hash))


def delete_expired_sessions(session: Session) -> None:
    """Delete the browser sessions that have expired."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now()))
