"""Browser sessions. A browser's cookie holds a random token, never the key; the database holds the token's hash."""

import hashlib
import hmac
import secrets
from datetime import timedelta

from sqlalchemy.orm import Session

from service.keys import queries
from service.keys.keys import hash_key
from service.storage.tables import BrowserSession, now

SESSION_DAYS = 7


def open_session(session: Session, key: str) -> str:
    """Open a browser session with a valid key. Returns the token for the cookie. Sessions that expired are deleted."""
    queries.delete_expired_sessions(session)
    token = secrets.token_urlsafe(32)
    session.add(
        BrowserSession(
            token_hash=hash_key(token), key_hash=hash_key(key), expires_at=now() + timedelta(days=SESSION_DAYS)
        )
    )
    return token


def form_token(token: str) -> str:
    """What every form of a session carries. Pages of other sites cannot know it, as they cannot read the cookie."""
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()
