"""The cache that a process of the service keeps between requests."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.context import Cache


def test_a_value_is_made_once_by_threads_that_need_it_at_the_same_time() -> None:
    cache: Cache[object] = Cache(2)
    start, calls = threading.Barrier(8), []

    def make() -> object:
        calls.append(1)
        return object()

    def get(_: int) -> object:
        start.wait(10)
        return cache.get("a", make)

    with ThreadPoolExecutor(8) as threads:
        values = list(threads.map(get, range(8)))
    assert len(calls) == 1
    assert len(set(values)) == 1


def test_another_key_does_not_wait() -> None:
    cache: Cache[str] = Cache(2)
    making, release = threading.Event(), threading.Event()

    def make_slowly() -> str:
        making.set()
        assert release.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(cache.get, "a", make_slowly)
        assert making.wait(10)
        assert cache.get("b", lambda: "fast") == "fast"
        release.set()
        assert slow.result(10) == "slow"


def test_the_least_recently_used_value_is_dropped() -> None:
    cache: Cache[str] = Cache(2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: f"first {key}")  # type: ignore[misc]
    assert cache.get("a", lambda: "again") == "first a"
    assert cache.get("b", lambda: "again") == "again"


def test_a_value_that_could_not_be_made_is_made_at_the_next_call() -> None:
    cache: Cache[str] = Cache(2)

    def fail() -> str:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - raised as it is
        cache.get("a", fail)
    assert cache.get("a", lambda: "made") == "made"
