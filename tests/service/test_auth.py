"""Keys: who may ask, and on which addresses the service refuses to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.app import create_app
from service.errors import ConflictError, InvalidError
from service.settings import Settings
from service.storage.database import Database
from service.storage.tables import ApiKey
from service.web.auth import COOKIE, check_bind, create_key


@pytest.fixture
def key(database: Database) -> str:
    with database.writing() as session:
        return create_key(session, "mine")


@pytest.fixture
def guarded(database_url: str, tmp_path: Path, key: str) -> Iterator[TestClient]:
    """A service on an address that others can reach."""
    settings = Settings(database_url=database_url, data_directory=tmp_path, host="0.0.0.0")
    with TestClient(create_app(settings)) as client:
        yield client


def test_only_a_known_key_opens_the_api(guarded: TestClient, key: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Digest {key}"}, {"Authorization": key}):
        answer = guarded.get("/v1/supernets", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["title"] == "A key is needed"
    assert guarded.get("/v1/supernets", headers={"Authorization": f"Bearer {key}"}).json()["items"] == []
    assert guarded.get("/v1/supernets", headers={"Cookie": f"{COOKIE}={key}"}).json()["items"] == []
    assert guarded.get("/v1/supernets", headers={"Cookie": f"{COOKIE}=wrong"}).status_code == 401


def test_health_needs_no_key(guarded: TestClient) -> None:
    assert guarded.get("/healthz").json() == {"status": "ok"}
    assert guarded.get("/readyz").json()["status"] == "ready"


def test_only_the_hash_of_a_key_is_stored(database: Database, key: str) -> None:
    with database.reading() as session:
        row = session.scalars(select(ApiKey)).one()
    assert key.startswith("supple_")
    assert len(key) > 40
    assert key not in (row.key_hash, row.name, row.id)
    assert len(row.key_hash) == 64


def test_names_of_keys_are_unique_and_not_empty(database: Database, key: str) -> None:
    with pytest.raises(ConflictError, match="named 'mine'"), database.writing() as session:
        create_key(session, "mine")
    with pytest.raises(InvalidError, match="between 1 and 64"), database.writing() as session:
        create_key(session, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_open_address_without_a_key_is_refused(database: Database, host: str) -> None:
    with database.reading() as session:
        with pytest.raises(InvalidError, match=f"host is {host}.*supple keys create.*--insecure"):
            check_bind(Settings(host=host), session)
        check_bind(Settings(host=host, insecure=True), session)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_open(database: Database, host: str) -> None:
    with database.reading() as session:
        check_bind(Settings(host=host), session)
    assert not Settings(host=host).needs_key


def test_the_service_does_not_start_on_an_open_address_without_a_key(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="no key exists"):
        create_app(Settings(database_url=database_url, data_directory=tmp_path, host="0.0.0.0"))
