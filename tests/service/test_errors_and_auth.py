import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from service.app import create_app
from service.context import Context
from service.errors import ConflictError, InvalidError, UnavailableError
from service.settings import Settings
from service.storage.database import Database
from service.storage.tables import ApiKey
from service.web.auth import COOKIE, check_bind, create_key
from service.web.schemas import Problem


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
    assert guarded.get("/readyz").json() == {"status": "ready"}


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


def test_the_service_does_not_start_without_migrations(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="supple db upgrade"):
        create_app(Settings(data_directory=tmp_path))


def test_not_found_and_wrong_method_are_problems(client: TestClient) -> None:
    for path, method, status in (("/nothing", "GET", 404), ("/v1/supernets", "DELETE", 405), ("/v1/x/y", "GET", 404)):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_broken_json_is_a_problem(client: TestClient) -> None:
    answer = client.post("/v1/devices", content="{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unexpected_error_says_nothing_of_its_inside(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.devices.show.page", fail)
    answer = client.get("/v1/devices")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_a_database_that_does_not_answer_is_unavailable(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr("service.devices.show.page", fail)
    answer = client.get("/v1/devices")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_readiness_names_what_is_missing(client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "is_current", lambda self: False)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "supple db upgrade" in answer.json()["detail"]
    monkeypatch.undo()
    assert client.get("/readyz").status_code == 200


def test_readiness_names_no_path(client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the artifact store takes no files: Permission denied"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/probe.py"])
def test_what_is_fetched_can_be_asked_for_its_head(client: TestClient, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert head.status_code == 200
    assert head.headers["content-length"] == whole.headers["content-length"]


def test_a_wrong_method_is_told_all_that_are_right(client: TestClient) -> None:
    for path, methods in (
        ("/v1/devices", "GET, POST"),
        ("/v1/devices/board", "GET"),
        ("/v1/devices/board/measurements", "POST"),
        ("/healthz", "GET, HEAD"),
        ("/", "GET"),
    ):
        answer = client.delete(path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == methods


def test_unknown_methods_count_as_one(client: TestClient) -> None:
    for number in range(5):
        client.request(f"FOO{number}", "/v1/devices")
    text = client.get("/metrics").text
    assert 'method="other"' in text
    assert "FOO" not in text


def test_metrics_count_requests_by_route(client: TestClient) -> None:
    client.get("/v1/devices/nothing")
    client.get("/v1/devices/nothing-else")
    text = client.get("/metrics").text
    assert 'supple_requests_total{method="GET",route="/v1/devices/{name}",status="404"} 2.0' in text


def test_the_documentation_is_there(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert "<script>" not in page.text
    for address in loaded:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/searches" in paths
    assert "/v1/candidates/{candidate_id}/onnx" in paths


def test_the_openapi_document_says_how_to_sign_in_and_what_is_refused(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    refusals = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == path.startswith("/v1/")
            refused = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
            for answer in refused.values():
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
            refusals[f"{method} {path}"] = set(map(int, refused))
    assert refusals["get /healthz"] == set()
    assert refusals["get /readyz"] == {503}
    assert refusals["get /v1/probe.py"] == {401, 500, 503}
    assert refusals["get /v1/devices/{name}"] == {401, 404, 422, 500, 503}
    assert refusals["post /v1/devices"] == {401, 403, 409, 413, 422, 500, 503}
    assert refusals["post /v1/searches"] == {401, 403, 404, 409, 413, 422, 500, 503, 507}
    assert {name for name, codes in refusals.items() if 409 in codes} == {
        "post /v1/devices",
        "post /v1/devices/{name}/measurements",
        "post /v1/searches",
        "post /v1/searches/{search_id}/cancel",
    }
    assert "HTTPValidationError" not in str(document)


def test_problems_are_of_the_form_that_is_documented(client: TestClient) -> None:
    for answer in (client.get("/nothing"), client.post("/v1/devices", json={}), client.get("/v1/devices/board")):
        assert Problem.model_validate(answer.json()).status == answer.status_code


def test_an_onnx_file_can_be_asked_for_its_head(client: TestClient) -> None:
    assert client.head("/v1/candidates/nothing/onnx").status_code == 404
