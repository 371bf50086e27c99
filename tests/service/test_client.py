"""The client against a service that is real, or one that answers as it is told."""

import json
import re
import threading
from collections.abc import Iterator
from email.message import Message
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
    headers: list[Message]  # of each request

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Answers)
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.server.headers.append(self.headers)
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
    server.answers, server.headers = [(200, {})], []
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


def test_a_service_on_this_machine_is_reached_past_any_proxy(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, proxy in (("HTTP_PROXY", "http://127.0.0.1:1"), ("all_proxy", "socks5://127.0.0.1:1")):
        monkeypatch.setenv(name, proxy)
        for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
            with Client(address) as client:
                assert client.is_ready()


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@proxy", "nonsense://hunter2"])
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(
        ServiceError, match=r"the proxy that ALL_PROXY names, which cannot be used: .*NO_PROXY"
    ) as raised:
        Client("http://service.example")
    assert raised.value.status == 400
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("NO_PROXY", "service.example")
    Client("http://service.example")


def test_a_proxy_that_does_not_answer_is_named(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with (
        Client("http://service.example") as client,
        pytest.raises(ServiceError, match=r"does not answer through the proxy that http_proxy names: .*NO_PROXY"),
    ):
        client.get_device("board")
    server.answers = [(200, {"name": "board"})]
    monkeypatch.setenv("http_proxy", server.address)
    with Client("http://service.example") as client:
        assert client.get_device("board") == {"name": "board"}


def test_blanks_around_a_key_are_not_sent(server: Answers) -> None:
    with Client(server.address, " supple_key\r\n") as client:
        client.get_device("board")
    assert server.headers[-1]["Authorization"] == "Bearer supple_key"


@pytest.mark.parametrize(
    ("key", "character"), [("hunter\r2", "U\\+000D"), ("hünter2", "U\\+00FC"), ("a b", "U\\+0020")]
)
def test_a_key_that_cannot_be_sent_is_not_printed(key: str, character: str) -> None:
    with pytest.raises(ServiceError, match=f"the key holds the character {character}, which no key has") as raised:
        Client("http://127.0.0.1:1", key)
    assert key not in str(raised.value)


def test_a_password_in_the_address_is_not_printed(server: Answers) -> None:
    address = server.address.replace("//", "//user:hunter2@")
    with Client(address) as client:
        for status, body in ((500, b"<html>"), (422, {"detail": "no"})):
            server.answers = [(status, body)]
            with pytest.raises(ServiceError) as raised:
                client.get_device("board")
            assert "hunter2" not in str(raised.value)
    with Client("http://user:hunter2@127.0.0.1:1") as client, pytest.raises(ServiceError) as raised:
        client.get_device("board")
    assert "hunter2" not in str(raised.value)


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


def test_a_fine_tuning_is_watched_until_it_ends(server: Answers) -> None:
    queued, running = {"id": "f", "status": "queued"}, {"id": "f", "status": "running", "progress": {"done": 1}}
    done = {"id": "f", "status": "done", "verified_accuracy": 0.9}
    server.answers = [(202, queued), (200, running), (200, done)]
    watched: list[Any] = []
    with Client(server.address) as client:
        assert client.finetune("c", {"epochs": 1}, watched.append) == done
        assert watched == [queued, running]
        server.answers = [(200, running)]
        with pytest.raises(ServiceError, match="fine-tuning f is still running after 0 s; check that a worker runs"):
            client.finetune("c", {"epochs": 1}, seconds=0)
        server.answers = [(200, {"id": "f", "status": "failed", "problem": {"detail": "no images", "status": 422}})]
        with pytest.raises(ServiceError, match="fine-tuning f failed: no images"):
            client.finetune("c", {"epochs": 1})


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
        {"phase": "verify", "verified": 5, "finalists": 20},
        {"phase": "measure", "verified": 20, "finalists": 20},
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
    assert "their latency is measured" in shown[3]
