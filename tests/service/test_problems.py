import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from service.context import Context
from service.web.schemas import ProblemDocument


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

    monkeypatch.setattr("service.devices.show.list_devices", fail)
    answer = client.get("/v1/devices")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_a_database_that_does_not_answer_is_unavailable(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr("service.devices.show.list_devices", fail)
    answer = client.get("/v1/devices")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


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


def test_problems_are_of_the_form_that_is_documented(client: TestClient) -> None:
    for answer in (client.get("/nothing"), client.post("/v1/devices", json={}), client.get("/v1/devices/board")):
        assert ProblemDocument.model_validate(answer.json()).status == answer.status_code


def test_an_onnx_file_can_be_asked_for_its_head(client: TestClient) -> None:
    assert client.head("/v1/candidates/nothing/onnx").status_code == 404
