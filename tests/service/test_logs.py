"""What a process logs, and for which request or job."""

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.logs import log_context, set_up_logs
from service.web.request_log import HEADER


@pytest.fixture
def restored() -> Iterator[None]:
    """The logging that pytest set up, put back afterwards."""
    root, engine, supple = logging.getLogger(), logging.getLogger("dbos"), logging.getLogger("supple")
    before = root.handlers[:], root.level, engine.handlers[:], engine.propagate, supple.level, sys.excepthook
    yield
    root.handlers, engine.handlers, engine.propagate = before[0], before[2], before[3]
    root.setLevel(before[1])
    supple.setLevel(before[4])
    sys.excepthook = before[5]
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("restored")
def test_a_json_record_is_one_line_with_context_extras_and_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    log = logging.getLogger("supple.test")
    with log_context(request_id="r1"), log_context(job_id="j1", nothing=""):
        try:
            raise KeyError("two\nlines")
        except KeyError:
            log.exception("broken %s", "here\nand there", extra={"elapsed_ms": 3})
    log.debug("too quiet")
    logging.getLogger("library").info("too quiet")
    (record,) = lines(capsys)
    assert record["level"] == "error"
    assert record["logger"] == "supple.test"
    assert record["message"] == "broken here\nand there"
    assert record["time"].endswith("+00:00")
    assert (record["request_id"], record["job_id"], record["elapsed_ms"]) == ("r1", "j1", 3)
    assert "nothing" not in record
    assert "KeyError" in record["exception"]


@pytest.mark.usefixtures("restored")
def test_people_read_lines_that_name_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("plain", "warning")
    with log_context(request_id="r1"):
        logging.getLogger("supple.test").warning("look")
        logging.getLogger("supple.test").info("too quiet")
    logging.getLogger("dbos").error("the engine")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("WARNING supple.test: look [request_id=r1]")
    assert second.endswith("ERROR dbos: the engine")


@pytest.mark.usefixtures("restored")
def test_an_uncaught_error_is_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    error = ValueError("nobody caught me")
    sys.excepthook(ValueError, error, None)
    (record,) = lines(capsys)
    assert record["level"] == "critical"
    assert "nobody caught me" in record["exception"]


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("a.trace:1/2+3=@x_-", True), ("x" * 128, True), ("x" * 129, False), ('"quoted"', False), ("", False)],
)
def test_a_request_keeps_a_sane_name_and_gets_another_otherwise(
    client: TestClient, sent: str, is_kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "supple.requests")
    answer = client.get("/v1/devices/none", headers={HEADER: sent})
    assert (answer.headers[HEADER] == sent) == is_kept
    assert len(answer.headers[HEADER]) >= 18
    (record,) = (record for record in caplog.records if record.name == "supple.requests")
    assert vars(record)["status"] == 404
    assert vars(record)["path"] == "/v1/devices/none"


def test_an_unexpected_error_is_a_problem_with_the_name_of_the_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.devices.show.list_devices", break_down)
    answer = client.get("/v1/devices", headers={HEADER: "mine"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "mine" == answer.headers[HEADER]
    assert "secret" not in answer.text


def test_refusals_before_the_routes_have_a_name_too(client: TestClient) -> None:
    answer = client.post("/v1/devices", headers={"Sec-Fetch-Site": "cross-site", HEADER: "mine"}, json={})
    assert answer.status_code == 403
    assert answer.headers[HEADER] == "mine"
