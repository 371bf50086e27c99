"""How many requests a key may send. Each process of the API counts by itself."""

import math
import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from service.errors import TooManyRequestsError


class Rates:
    """The requests that each key has sent lately. limit: such as `1200/minute`; empty: no limit."""

    def __init__(self, limit: str) -> None:
        self._item: RateLimitItem | None = parse(limit) if limit else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, name: str) -> None:
        """Count one request of a key.

        Raises:
            TooManyRequestsError: the key has reached its limit. `retry_after` says how long to wait, seconds.
        """
        if self._item is None or self._limiter.hit(self._item, name):
            return
        reset = self._limiter.get_window_stats(self._item, name).reset_time
        seconds = max(1, math.ceil(reset - time.time()))
        raise TooManyRequestsError(
            f"the key {name!r} has sent more requests than {self._item}; wait {seconds} s, or raise SUPPLE_RATE_LIMIT",
            retry_after=seconds,
        )
