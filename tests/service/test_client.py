"""The client against a service that is real, or one that answers as it is told."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console

from service.cli.demo import show_progress
from service.cli.display import Bar
from service.client import Client, ServiceError


class Answers(HTTPServer):
    """Answers every request with the next of `answers`, and the last one again and again."""

    answers: list[tuple[int, Any]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Answers)
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        answers = self.server.answers
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 - the base class names it so

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answers]:
    server = Answers(("127.0.0.1", 0), Handler)
    server.answers = [(200, {})]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("address", ["here", "127.0.0.1:8000", "ftp://host", "http://host:port"])
def test_what_is_no_address_is_refused_as_bad_input(address: str) -> None:
    with pytest.raises(ServiceError, match=f"'{address}'") as raised:
        Client(address)
    assert raised.value.status == 400


def test_a_service_that_is_not_there_is_named(server: Answers) -> None:
    with Client("http://127.0.0.1:1") as client:
        assert not client.is_ready()
        with pytest.raises(ServiceError, match=r"the service at http://127\.0\.0\.1:1 does not answer") as raised:
            client.get_device("board")
    assert raised.value.status == 503


def test_what_answers_without_json_is_no_service_of_ours(server: Answers) -> None:
    for status in (200, 500):
        server.answers = [(status, b"<html>")]
        with Client(server.address) as client, pytest.raises(ServiceError, match="is it a Supple service"):
            client.get_device("board")


def test_a_refusal_is_told_in_the_services_words(server: Answers) -> None:
    server.answers = [(422, {"detail": "no such limit"})]
    with Client(server.address) as client, pytest.raises(ServiceError, match="no such limit") as raised:
        client.search({})
    assert raised.value.status == 422


def test_a_search_is_watched_until_it_ends(server: Answers) -> None:
    running = {"id": "s", "status": "running", "progress": {"phase": "verify", "verified": 2}}
    server.answers = [(202, {"id": "s", "status": "queued", "progress": None}), (200, running)]
    server.answers.append((200, {"id": "s", "status": "done"}))
    seen: list[Any] = []
    with Client(server.address) as client:
        assert client.search({}, lambda search: seen.append(search["status"]))["status"] == "done"
    assert seen == ["queued", "running"]


def test_a_search_without_a_worker_does_not_wait_for_ever(server: Answers) -> None:
    server.answers = [(202, {"id": "s", "status": "queued", "progress": None})]
    with Client(server.address) as client:
        with pytest.raises(ServiceError, match="search s is still queued after 0 s; check that a worker runs"):
            client.search({}, seconds=0)
        with pytest.raises(ServiceError, match="/f is not built after 0 s; check that a worker runs"):
            client.download("/f", seconds=0)
        server.answers = [(202, {}), (200, b"onnx")]
        assert client.download("/f") == b"onnx"


def test_whether_a_service_takes_measurements_is_known_before(server: Answers) -> None:
    space = {"name": "tiny"}
    device = {"threads": 2, "batch_size": 1}
    with Client(server.address) as client:
        server.answers = [(200, device)]
        with pytest.raises(ServiceError, match=r"device 'd' has threads 2 at .*, not 1"):
            client.check_measurable("d", space, threads=1, batch_size=1)
        server.answers = [(404, {}), (200, {"items": [{"id": "a"}], "next": None}), (200, {"space": {"name": "other"}})]
        with pytest.raises(ServiceError, match=r"no supernet at .* has the search space 'tiny'"):
            client.check_measurable("d", space, threads=1, batch_size=1)
        pages = [(200, {"items": [{"id": "b"}], "next": "b"}), (200, {"items": [{"id": "a"}], "next": None})]
        server.answers = [(404, {}), pages[0], (200, {"space": {"name": "other"}}), pages[1], (200, {"space": space})]
        client.check_measurable("d", space, threads=1, batch_size=1)


def test_a_search_is_shown_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    request = {"budget": 3000}
    phases = [
        None,
        {"phase": "explore", "evaluations": 1500, "budget": 3000, "best_predicted_accuracy": 0.9871},
        {"phase": "verify", "verified": 5},
    ]
    shown = []
    for count in range(1, len(phases) + 1):
        with Bar(Console(width=160)) as bar:
            for progress in phases[:count]:
                show_progress({"status": "queued", "request": request, "progress": progress}, bar)
        shown.append(capsys.readouterr().out)
    assert "0%" in shown[0]
    assert "50%" in shown[1]
    assert "best predicted accuracy 0.987" in shown[1]
    assert re.search(r"search +\S+ 100%", shown[2])
    assert re.search(r"verify +\S+ +25%", shown[2])
