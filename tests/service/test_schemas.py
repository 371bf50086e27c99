"""What strangers and broken clients send."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import DataError

from service.context import Context
from service.devices.register import register_device
from service.devices.schemas import DeviceIn
from service.storage.tables import Supernet

JSON = {"Content-Type": "application/json"}


def refused(client: TestClient, method: str, path: str, content: str | None = None) -> str:
    """What a refused request is told."""
    answer = client.request(method, path, content=content, headers=JSON if content else None)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail: str = answer.json()["detail"]
    return detail


@pytest.mark.parametrize("bad", ["%00", "a%00b", "a%20b", "%FF", "x" * 65, "a%0A"])
def test_an_id_of_another_shape_reaches_no_database(client: TestClient, bad: str) -> None:
    for method, path in (
        ("GET", "/v1/supernets/{}"),
        ("GET", "/v1/devices/{}"),
        ("GET", "/v1/searches/{}"),
        ("GET", "/v1/searches/{}/front"),
        ("POST", "/v1/searches/{}/cancel"),
        ("GET", "/v1/searches?cursor={}"),
        ("GET", "/v1/candidates/{}"),
        ("GET", "/v1/candidates/{}/onnx"),
        ("GET", "/v1/fronts?supernet={}"),
        ("GET", "/v1/fronts?supernet=a&device={}"),
    ):
        assert "should match pattern" in refused(client, method, path.format(bad))


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/devices", '{"name": "board", "runtime": "a\\u0000"}', "U+0000"),
        ("/v1/devices", '{"name": "board", "runtime": "a\\u001b[31m"}', "U+001B"),
        ("/v1/devices", '{"name": "board", "\\ud800": 1}', "unable to parse"),
        ("/v1/searches", '{"supernet": "\\ud800"}', "supernet"),
        ("/v1/searches", '{"supernet": "a\\u0000"}', "supernet"),
        ("/v1/searches", '{"strategy": "a\\u0000"}', "U+0000"),
    ],
)
def test_text_that_cannot_be_kept_is_refused(client: TestClient, path: str, body: str, message: str) -> None:
    assert message in refused(client, "POST", path, body)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NaN", "holds nan; send finite numbers"),
        ('[{"x": -Infinity}]', "holds -inf"),
        ("1e999", "holds inf"),
        ('"a\\u0000"', "U+0000"),
        ('{"\\ud800": 1}', "U+D800"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
    ],
)
@pytest.mark.parametrize("field", ["host", "measurements", "architecture"])
def test_free_json_is_checked_to_the_bottom(
    client: TestClient, device: str, measurements: dict[str, Any], field: str, value: str, message: str
) -> None:
    free: dict[str, Any] = {"x": "HERE"}
    change = {"networks": [{"architecture": free, "ms": 1.0}]} if field == "architecture" else {field: free}
    body = json.dumps({**measurements, **change}).replace('"HERE"', value)
    assert message in refused(client, "POST", f"/v1/devices/{device}/measurements", body)


def test_what_the_database_cannot_hold_is_the_callers_error(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("SELECT 1", {}, Exception("secret"))

    monkeypatch.setattr("service.devices.show.get_device", fail)
    assert "cannot hold" in refused(client, "GET", "/v1/devices/board")


def test_broken_json_is_explained(client: TestClient) -> None:
    answer = client.post("/v1/devices", content='{"name": }', headers=JSON)
    assert answer.json()["detail"] == "the body is not JSON: expecting value at position 9"
    assert answer.json()["errors"] == [{"field": "body", "message": answer.json()["detail"]}]


def test_little_of_a_request_is_echoed(client: TestClient) -> None:
    long = "x" * 10_000
    for body in ({"name": long}, {"name": "board", long: 1}, {long + str(number): 1 for number in range(5)}):
        assert len(client.post("/v1/devices", json=body).content) < 2_000
    many = client.post("/v1/devices", json={str(number): 1 for number in range(1_000)})
    assert len(many.json()["errors"]) == 20


def test_a_device_registered_many_times_at_once_is_one(context: Context) -> None:
    together = Barrier(8)
    body = DeviceIn.model_validate({"name": "board"})

    def register(_: int) -> str:
        together.wait()
        with context.database.writing() as session:
            return register_device(session, body).model_dump_json()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(register, range(8)))) == 1


def pages(client: TestClient, path: str, key: str) -> list[list[str]]:
    """What the pages of a list hold, two items a page."""
    found, cursor = [], ""
    while cursor is not None:
        page = client.get(f"{path}?limit=2{cursor and '&cursor='}{cursor}").json()
        found.append([item[key] for item in page["items"]])
        cursor = page["next"]
    return found


def test_devices_come_in_pages(client: TestClient) -> None:
    assert client.get("/v1/devices").json() == {"items": [], "next": None}
    for name in ("b", "d", "a", "c"):
        client.post("/v1/devices", json={"name": name})
    assert pages(client, "/v1/devices", "name") == [["a", "b"], ["c", "d"]]


def test_supernets_come_in_pages_newest_first(client: TestClient, context: Context, supernet: str) -> None:
    with context.database.writing() as session:
        first = session.get_one(Supernet, supernet)
        kept = {column.name: getattr(first, column.name) for column in Supernet.__table__.columns}
        for id_, days in (("a", 1), ("b", 2), ("d", 3), ("c", 3)):  # two at one time
            made = first.created_at + timedelta(days=days)
            session.add(Supernet(**{**kept, "id": id_, "bundle_hash": id_ * 64, "created_at": made}))
    assert pages(client, "/v1/supernets", "id") == [["c", "d"], ["b", "a"], [supernet]]
    assert "cursor is 'x'" in refused(client, "GET", "/v1/supernets?cursor=x")
