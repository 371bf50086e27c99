"""Keys: who may ask for what, and on which addresses the service refuses to start."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import select, update
from starlette.routing import BaseRoute

from service.app import create_app
from service.errors import ConflictError, InvalidError, NotFoundError
from service.keys.keys import create_key, hash_key, revoke_key
from service.keys.scopes import SCOPES
from service.settings import Settings
from service.storage.database import Database
from service.storage.tables import ApiKey, BrowserSession, now
from service.web.auth import COOKIE, check_bind, require_scope

OPEN_PATHS = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/static", "/login", "/logout"}
OWN_KEY = "0123456789abcdef0123456789abcdef"


def make_key(database: Database, name: str, *scopes: str) -> str:
    with database.writing() as session:
        return create_key(session, name, scopes)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key(database: Database) -> str:
    return make_key(database, "mine", "search")


@pytest.fixture
def guarded_settings(database_url: str, tmp_path: Path) -> Settings:
    """Of a service on an address that others can reach."""
    return Settings(database_url=database_url, data_directory=tmp_path, host="0.0.0.0")


@pytest.fixture
def guarded(guarded_settings: Settings, key: str) -> Iterator[TestClient]:
    with TestClient(create_app(guarded_settings), base_url="https://supple.example") as client:
        yield client


def test_only_a_known_key_opens_the_api(guarded: TestClient, key: str) -> None:
    for headers in ({}, bearer("wrong"), {"Authorization": f"Digest {key}"}, {"Authorization": key}):
        answer = guarded.get("/v1/supernets", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["title"] == "A key is needed"
    assert guarded.get("/v1/supernets", headers=bearer(key)).json()["items"] == []
    for cookie in (key, hash_key(key), "wrong"):
        assert guarded.get("/v1/supernets", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_health_needs_no_key(guarded: TestClient) -> None:
    assert guarded.get("/healthz").json() == {"status": "ok"}
    assert guarded.get("/readyz").json()["status"] == "ready"


# Scopes.


def all_routes(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and route of everything that an application serves."""
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            context = route.include_context  # type: ignore[attr-defined]
            yield from all_routes(included.routes, prefix + context.prefix)
        else:
            yield prefix + str(getattr(route, "path", "")), route


def declared(route: Any) -> list[str]:
    """The scopes that a route declares."""
    dependencies = getattr(route, "dependencies", [])
    return [
        scope for one in dependencies if one.dependency is require_scope for scope in getattr(one, "scopes", None) or []
    ]


def test_every_route_declares_one_scope_or_is_known_to_need_none(client: TestClient) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    routes = list(all_routes(app.routes))
    undeclared = {path for path, route in routes if len(declared(route)) != 1 or declared(route)[0] not in SCOPES}
    assert undeclared == OPEN_PATHS
    assert len(routes) > 25


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("read", {"GET /v1/devices"}),
        ("search", {"GET /v1/devices", "POST /v1/searches"}),
        ("device", {"GET /v1/devices", "POST /v1/devices", "POST /v1/devices/board/measurements"}),
        (
            "admin",
            {
                "GET /v1/devices",
                "POST /v1/searches",
                "POST /v1/devices",
                "POST /v1/devices/board/measurements",
                "POST /v1/supernets",
            },
        ),
    ],
)
def test_a_key_opens_what_its_scope_says(
    scope: str, allowed: set[str], guarded: TestClient, database: Database
) -> None:
    headers = bearer(make_key(database, scope, scope))
    requests = ["GET /v1/devices", "POST /v1/searches", "POST /v1/devices", "POST /v1/devices/board/measurements"]
    opened = set()
    for request in (*requests, "POST /v1/supernets"):
        method, path = request.split()
        answer = guarded.request(
            method, path, json={"bundle_hash": "0" * 64} if method == "POST" else None, headers=headers
        )
        if answer.status_code == 403:
            assert f"the key '{scope}' lacks the scope" in answer.json()["detail"]
        else:
            opened.add(request)
    assert opened == allowed


def test_a_reader_sees_the_pages_and_cannot_search_there(guarded: TestClient, database: Database) -> None:
    guarded.post("/login", data={"key": make_key(database, "reader", "read")})
    assert guarded.get("/").status_code == 200
    page = guarded.post("/searches", data={"max_flops": "1M"})
    assert page.status_code == 403
    assert "lacks the scope" in page.text


# Expiry, last use, revocation.


def test_a_key_ends(guarded: TestClient, database: Database) -> None:
    with database.writing() as session:
        key = create_key(session, "short", ["read"], days=1)
    guarded.post("/login", data={"key": key})
    assert guarded.get("/v1/devices", headers=bearer(key)).status_code == 200
    with database.writing() as session:
        session.execute(update(ApiKey).where(ApiKey.name == "short").values(expires_at=now() - timedelta(seconds=1)))
    answer = guarded.get("/v1/devices", headers=bearer(key))
    assert answer.status_code == 401
    assert "this key expired at 20" in answer.json()["detail"]
    assert guarded.get("/v1/devices").status_code == 401  # nor does the session go on


def test_the_last_use_is_recorded(guarded: TestClient, database: Database, key: str) -> None:
    def last_use() -> Any:
        with database.reading() as session:
            return session.scalar(select(ApiKey.last_used_at).where(ApiKey.name == "mine"))

    guarded.get("/v1/devices", headers=bearer("wrong"))
    assert last_use() is None
    guarded.get("/v1/devices", headers=bearer(key))
    first = last_use()
    assert now() - first < timedelta(minutes=1)
    guarded.get("/v1/devices", headers=bearer(key))
    assert last_use() == first, "it was written again within a minute"
    with database.writing() as session:
        session.execute(update(ApiKey).values(last_used_at=first - timedelta(hours=1)))
    guarded.get("/v1/devices", headers=bearer(key))
    assert last_use() >= first


def test_a_revoked_key_and_its_sessions_are_refused_at_once(guarded: TestClient, database: Database, key: str) -> None:
    guarded.post("/login", data={"key": key})
    assert guarded.get("/").status_code == 200
    with database.writing() as session:
        revoke_key(session, "mine")
    assert guarded.get("/v1/devices", headers=bearer(key)).status_code == 401
    assert guarded.get("/").status_code == 401
    with database.reading() as session:
        assert session.scalar(select(BrowserSession.token_hash)) is None
    with pytest.raises(NotFoundError, match=r"no key named 'mine'.*supple keys list"), database.writing() as session:
        revoke_key(session, "mine")


# What is stored.


def test_only_hashes_of_keys_and_sessions_are_stored(guarded: TestClient, database: Database, key: str) -> None:
    guarded.post("/login", data={"key": key})
    token = guarded.cookies[COOKIE]
    with database.reading() as session:
        row, opened = session.scalars(select(ApiKey)).one(), session.scalars(select(BrowserSession)).one()
    assert key.startswith("supple_")
    assert len(key) > 40
    assert token != key
    stored = [str(value) for each in (row, opened) for value in vars(each).values()]
    assert not any(secret in text for secret in (key, token) for text in stored)
    assert (row.key_hash, opened.token_hash) == (hash_key(key), hash_key(token))


@pytest.mark.parametrize(
    ("name", "scopes", "days", "error", "message"),
    [
        ("mine", ["read"], None, ConflictError, "there is a key named 'mine'"),
        ("", ["read"], None, InvalidError, "0 characters; use between 1 and 64"),
        ("a\x1b[1m", ["read"], None, InvalidError, "printable"),
        ("new", [], None, InvalidError, "needs a scope; choose from read"),
        ("new", ["root"], None, InvalidError, "'root' is no scope; choose from read, search, device, admin"),
        ("new", ["read"], 0, InvalidError, "valid for 0 days; use between 1"),
    ],
)
def test_keys_that_cannot_be_made_are_refused(
    name: str, scopes: list[str], days: int | None, error: type[Exception], message: str, database: Database, key: str
) -> None:
    with pytest.raises(error, match=message), database.writing() as session:
        create_key(session, name, scopes, days)


# Addresses, and the key in the environment.


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_open_address_without_a_key_is_refused(database: Database, host: str) -> None:
    with database.writing() as session:
        with pytest.raises(InvalidError, match=f"host is {host}.*supple keys create.*--insecure"):
            check_bind(Settings(host=host), session)
        create_key(session, "expired", ["read"], days=1)
        session.execute(update(ApiKey).values(expires_at=now()))
        with pytest.raises(InvalidError, match="no valid key exists"):
            check_bind(Settings(host=host), session)
        check_bind(Settings(host=host, insecure=True), session)
        check_bind(Settings.model_validate({"host": host, "api_key": OWN_KEY}), session)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_open(database: Database, host: str) -> None:
    with database.reading() as session:
        check_bind(Settings(host=host), session)
    assert not Settings(host=host).needs_key


def test_the_service_does_not_start_on_an_open_address_without_a_key(guarded_settings: Settings) -> None:
    with pytest.raises(InvalidError, match="no valid key exists"):
        create_app(guarded_settings)


def test_a_key_in_the_environment_opens_everything_and_closes_loopback(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_API_KEY", OWN_KEY)
    own = settings.model_copy(update={"api_key": Settings().api_key})
    assert OWN_KEY not in repr(own)
    with TestClient(create_app(own), base_url="https://supple.example") as client:
        assert client.get("/v1/devices").status_code == 401
        assert client.post("/v1/supernets", json={"bundle_hash": "0" * 64}, headers=bearer(OWN_KEY)).status_code == 404
        client.post("/login", data={"key": OWN_KEY})
        assert client.get("/").status_code == 200
    monkeypatch.setenv("SUPPLE_API_KEY", OWN_KEY[::-1])
    other = settings.model_copy(update={"api_key": Settings().api_key})
    with TestClient(create_app(other), base_url="https://supple.example", cookies=client.cookies) as client:
        assert client.get("/").status_code == 401, "a session outlived the key that opened it"


def test_a_key_in_the_environment_that_could_be_guessed_is_refused_and_not_shown(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="20 to 200"):
        Settings.model_validate({"api_key": "hunter2"})
    monkeypatch.setenv("SUPPLE_API_KEY", "hunter2")
    ran = run("keys", "list")
    assert ran.code == 2
    assert "SUPPLE_API_KEY: Value error, use 20 to 200" in ran.stderr
    assert "hunter2" not in ran.stderr


# How much a key may ask.


def test_a_key_that_asks_too_often_waits(guarded_settings: Settings, database: Database, key: str) -> None:
    other = make_key(database, "other", "read")
    with TestClient(create_app(guarded_settings.model_copy(update={"rate_limit": "3/hour"}))) as client:
        assert [client.get("/v1/devices", headers=bearer(key)).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = client.post("/v1/searches", json={}, headers=bearer(key))
        assert refused.status_code == 429
        assert 3_500 < int(refused.headers["retry-after"]) <= 3_600
        assert "more requests than 3 per 1 hour" in refused.json()["detail"]
        assert client.get("/v1/devices", headers=bearer(other)).status_code == 200
        client.post("/login", data={"key": key})
        page = client.get("/")
        assert page.status_code == 429
        assert int(page.headers["retry-after"]) > 3_500
        assert client.get("/healthz").status_code == 200


def test_rates_can_be_turned_off(guarded_settings: Settings, key: str) -> None:
    with TestClient(create_app(guarded_settings.model_copy(update={"rate_limit": ""}))) as client:
        assert {client.get("/v1/devices", headers=bearer(key)).status_code for _ in range(20)} == {200}


# Headers.


def test_every_response_protects_browsers(guarded: TestClient, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("service.supernets.show.list_supernets", fail)
    broken = TestClient(guarded.app, base_url="https://supple.example", raise_server_exceptions=False)
    statuses = {}
    for path in (
        "/healthz",
        "/v1/devices",
        "/v1/probe.py",
        "/v1/nothing",
        "/v1/supernets",
        "/metrics",
        "/static/app.js",
    ):
        statuses[path] = (answer := broken.get(path, headers=bearer(key))).status_code
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert statuses["/v1/supernets"] == 500
    assert statuses["/v1/nothing"] == 404
    assert set(statuses.values()) == {200, 404, 500}
    for path, status in (("/login", 200), ("/", 401), ("/docs", 200), ("/nothing", 404)):
        page = broken.get(path, headers={"Accept": "text/html"})
        assert page.status_code == status
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
    plain = TestClient(guarded.app, base_url="http://supple.example")
    assert "strict-transport-security" not in plain.get("/healthz").headers
