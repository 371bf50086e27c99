"""Server-sent events about jobs."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from httpx2 import Client

from service.app import create_app
from service.context import Context
from service.processes import free_port
from service.settings import Settings
from service.storage.tables import Search
from service.web import events
from tests.support.service import ask
from tests.support.waiting import wait


def queued(client: TestClient, supernet: str) -> str:
    return str(ask(client, {"Prefer": "respond-async"}, supernet=supernet).json()["id"])


def change(context: Context, search_id: str, **values: Any) -> None:
    with context.database.writing() as session:
        row = session.get_one(Search, search_id)
        for name, value in values.items():
            setattr(row, name, value)


def parsed(text: str) -> list[dict[str, Any]]:
    """The events of a stream, with their data parsed; comments left out."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append(fields | {"data": json.loads(fields["data"])})
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)


@pytest.mark.usefixtures("quick")
def test_a_stream_tells_each_state_and_ends_with_the_job(client: TestClient, context: Context, supernet: str) -> None:
    search_id = queued(client, supernet)
    states: list[dict[str, Any]] = [
        {"status": "running", "progress": {"phase": "seed", "evaluations": 10, "budget": 600}},
        {"status": "running", "progress": {"phase": "verify", "verified": 1}},
        {"status": "failed", "progress": None, "problem": {"detail": "no luck"}},
    ]

    def work() -> None:
        for state in states:
            time.sleep(0.2)
            change(context, search_id, **state)

    worker = threading.Thread(target=work)
    worker.start()
    answer = client.get(f"/v1/searches/{search_id}/events")
    worker.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    told = parsed(answer.text)
    assert [event["event"] for event in told] == ["progress", "progress", "progress", "ended"]
    assert [event["data"]["status"] for event in told] == ["queued", "running", "running", "failed"]
    assert told[1]["data"]["progress"] == {"phase": "seed", "evaluations": 10, "budget": 600}
    assert told[3]["data"]["problem"]["detail"] == "no luck"
    assert told[0]["retry"] == str(events.RECONNECT_MS)

    last = {"Last-Event-ID": told[3]["id"]}
    assert client.get(f"/v1/searches/{search_id}/events", headers=last).status_code == 204
    missed = client.get(f"/v1/searches/{search_id}/events", headers={"Last-Event-ID": told[1]["id"]})
    assert [event["event"] for event in parsed(missed.text)] == ["ended"]


@pytest.mark.usefixtures("quick")
def test_silence_is_kept_alive_and_a_connection_has_an_end(
    client: TestClient, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(events, "MOST_SECONDS", 0.3)
    search_id = queued(client, supernet)
    first = client.get(f"/v1/searches/{search_id}/events")
    assert first.text.count(": ping") >= 2
    (only,) = parsed(first.text)
    again = client.get(f"/v1/searches/{search_id}/events", headers={"Last-Event-ID": only["id"]})
    assert parsed(again.text) == []
    assert ": ping" in again.text


def test_what_is_not_there_is_no_stream(client: TestClient, supernet: str) -> None:
    assert client.get("/v1/searches/none/events").status_code == 404
    refused = client.get("/v1/candidates/none/onnx/events")
    assert refused.status_code == 404
    assert "GET /v1/candidates/none/onnx requests it" in refused.json()["detail"]


@pytest.mark.usefixtures("quick")
def test_an_export_is_watched_like_a_search(client: TestClient, context: Context, supernet: str) -> None:
    best = ask(client, supernet=supernet).json()["best"]["id"]
    assert client.get(f"/v1/candidates/{best}/onnx").status_code == 202
    context.closing.set()
    (told,) = parsed(client.get(f"/v1/candidates/{best}/onnx/events?precision=fp32").text)
    assert told["event"] == "progress"
    assert told["data"] == {"status": "queued", "progress": None, "problem": None}


@pytest.fixture
def address(settings: Settings) -> Iterator[tuple[str, Context]]:
    """A second API process on the same database, as far as its clients can tell, and its context."""
    app = create_app(settings)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait(lambda: server.started, "the server")
    yield f"http://127.0.0.1:{port}", app.state.context
    server.should_exit = True
    thread.join()


def next_event(chunks: Iterator[str]) -> dict[str, Any]:
    text = ""
    for chunk in chunks:
        text += chunk
        if "data: " in text and text.endswith("\n\n"):
            return parsed(text)[0]
    raise AssertionError(f"the stream ended after {text!r}")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_another_process_tells_it_a_client_may_leave_and_connections_are_counted(
    client: TestClient,
    context: Context,
    supernet: str,
    address: tuple[str, Context],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, other = address
    other.watchers = threading.BoundedSemaphore(1)
    search_id = queued(client, supernet)
    events_url = f"/v1/searches/{search_id}/events"
    with Client(base_url=url, trust_env=False) as browser:
        with browser.stream("GET", events_url) as stream:
            chunks = stream.iter_text()  # kept: its end would close the connection
            assert next_event(chunks)["data"]["status"] == "queued"
            refused = browser.get(events_url)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert browser.get("/healthz").status_code == 200
        # Left in the middle. Its place is free again, and a later client sees what another process wrote.
        wait(lambda: other.watchers.acquire(blocking=False), "the place of the client that left")
        other.watchers.release()
        change(context, search_id, status="cancelled")
        told = parsed(browser.get(events_url).text)
        assert [event["event"] for event in told] == ["ended"]
