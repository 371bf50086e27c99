"""What is refused before a body is read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from service.app import create_app
from service.keys.keys import create_key
from service.settings import Settings
from service.storage.database import Database
from service.web.guard import BODY_BYTES
from tests.support.service import LOCAL

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def key(database: Database) -> str:
    with database.writing() as session:
        return create_key(session, "mine", ["admin"])


@pytest.fixture
def guarded(database_url: str, tmp_path: Path, key: str) -> Iterator[TestClient]:
    """A service on an address that others can reach."""
    settings = Settings(database_url=database_url, data_directory=tmp_path, host="0.0.0.0")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def unread() -> Iterator[bytes]:
    """A body that nobody may read."""
    raise AssertionError("the body was read")
    yield b""


def pieces(count: int) -> Iterator[bytes]:
    """A body of `count` KiB, sent in chunks."""
    yield b'"'
    for _ in range(count):
        yield b"x" * 1024


@pytest.mark.parametrize("path", ["/v1/devices", "/v1/searches", "/v1/devices/board/measurements", "/v1/nothing"])
def test_a_key_is_asked_for_before_the_body_is_understood(guarded: TestClient, path: str, key: str) -> None:
    for content in ("{", "x" * (BODY_BYTES + 1)):
        answer = guarded.post(path, content=content, headers=JSON)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    known = {**JSON, "Authorization": f"Bearer {key}"}
    assert guarded.post(path, content="{", headers=known).status_code in (404, 422)


def test_a_database_that_does_not_answer_for_keys_is_unavailable(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr("service.web.guard.identify", fail)
    answer = guarded.post("/v1/devices", json={})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_large_bodies_are_refused_unread(client: TestClient) -> None:
    for path in ("/v1/devices", "/v1/searches", "/searches", "/login"):
        answer = client.post(path, content=unread(), headers={"Content-Length": str(BODY_BYTES + 1), **JSON})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["connection"] == "close"
        assert answer.json()["detail"] == "the body has more than 65,536 bytes, the limit for this request"


@pytest.mark.parametrize("form", [False, True])
def test_a_body_in_chunks_is_refused_where_it_grows_too_large(client: TestClient, form: bool) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else JSON
    path = "/searches" if form else "/v1/devices"
    assert client.post(path, content=pieces(65), headers=headers).status_code == 413
    assert client.post(path, content=pieces(63), headers=headers).status_code != 413


def test_measurements_may_be_larger(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/v1/devices/board/measurements"
    assert client.post(path, content=pieces(200), headers=JSON).status_code == 422
    monkeypatch.setattr("service.web.guard.MEASUREMENT_BYTES", 100 << 10)
    assert client.post(path, content=pieces(101), headers=JSON).status_code == 413


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", ""])
def test_an_open_service_answers_to_its_own_machines_names_alone(client: TestClient, host: str) -> None:
    for path in ("/", "/v1/devices", "/healthz"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 421
        assert "localhost" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.1.2.3", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/v1/devices", headers={"Host": host}).status_code == 200


def test_a_service_with_keys_or_declared_insecure_answers_to_any_name(
    guarded: TestClient, key: str, settings: Settings
) -> None:
    headers = {"Host": "supple.example", "Authorization": f"Bearer {key}"}
    assert guarded.get("/v1/devices", headers=headers).status_code == 200
    with TestClient(create_app(settings.model_copy(update={"insecure": True}))) as insecure:
        assert insecure.get("/v1/devices", headers=headers).status_code == 200


def test_another_sites_page_changes_nothing(client: TestClient) -> None:
    body = {"name": "board"}
    for site in ("cross-site", "same-site"):
        answer = client.post("/v1/devices", json=body, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 403
        assert site in answer.json()["detail"]
        assert client.get("/v1/devices/board", headers={"Sec-Fetch-Site": site}).status_code == 404
    for site in ("same-origin", "none"):
        assert client.post("/v1/devices", json=body, headers={"Sec-Fetch-Site": site}).status_code == 201


def test_a_browser_that_names_only_the_origin_of_a_page_is_understood(client: TestClient) -> None:
    for origin, status in (("https://elsewhere.example", 403), ("null", 403), (LOCAL, 201)):
        assert client.post("/v1/devices", json={"name": "board"}, headers={"Origin": origin}).status_code == status


def test_a_browsers_session_opens_the_api_to_its_pages_alone(guarded: TestClient, key: str) -> None:
    assert guarded.post("/login", data={"key": key}, follow_redirects=False).status_code == 303
    assert guarded.get("/v1/devices").status_code == 200
    assert guarded.post("/v1/devices", json={"name": "board"}).status_code == 403
    own = {"Sec-Fetch-Site": "same-origin"}
    assert guarded.post("/v1/devices", json={"name": "board"}, headers=own).status_code == 201
