"""`supple serve` and its workers: whatever ends the first ends the others."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import processes
from service.app import create_app
from service.cli import serve
from service.cli.demo import demo_settings
from service.errors import UnavailableError
from service.settings import Settings
from service.upgrade import upgrade
from tests.support.waiting import wait

pytestmark = pytest.mark.slow  # it trains, or starts processes


def workers_of(pid: int) -> list[int]:
    """The workers among a process's children; what it starts for a moment is none."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [
        int(child) for child, parent, *args in rows if int(parent) == pid and "service.cli worker" in " ".join(args)
    ]


def is_gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state or state.startswith("Z")


@pytest.fixture
def service(tmp_path: Path, sqlite_template: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """`supple serve` on a free port, with its two workers started. Its log is JSON, in the file `log`."""
    (tmp_path / "supple.db").write_bytes(sqlite_template.read_bytes())
    environment = os.environ | {"SUPPLE_DATA_DIRECTORY": str(tmp_path), "SUPPLE_PORT": "0", "SUPPLE_WORKER_ID": "own"}
    environment["SUPPLE_LOG_FORMAT"] = "JSON"
    command = [sys.executable, "-P", "-m", "service.cli", "serve", "--workers", "2"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        wait(lambda: len(workers_of(process.pid)) == 2, "workers beside the service")
        yield process
    finally:
        process.kill()
        process.wait()


def worker_is_ready(directory: Path) -> bool:
    """A worker locks a file beside the database once it is about to take jobs."""
    return bool(locks(directory))


def locks(directory: Path) -> set[str]:
    return {path.stem for path in (directory / "supple.db-workers").glob("*.lock")}


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log").read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_service_leaves_no_worker(
    service: "subprocess.Popen[bytes]", tmp_path: Path, number: signal.Signals
) -> None:
    workers = workers_of(service.pid)
    wait(lambda: locks(tmp_path) == {"own-1", "own-2"}, "ready workers")
    service.send_signal(number)
    assert service.wait(40) == 0
    assert all(map(is_gone, workers))
    messages = [record["message"] for record in records(tmp_path)]
    assert any("serving on http://127.0.0.1:" in message and "with 2 workers" in message for message in messages)
    assert not [record for record in records(tmp_path) if record["level"] != "info"]


def test_a_killed_service_leaves_no_worker(service: "subprocess.Popen[bytes]") -> None:
    workers = workers_of(service.pid)
    service.kill()
    service.wait()
    wait(lambda: all(map(is_gone, workers)), "the workers' end")


def test_a_worker_that_dies_is_replaced_after_a_pause(service: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    first, second = workers_of(service.pid)
    os.kill(first, signal.SIGKILL)
    wait(lambda: len(set(workers_of(service.pid)) - {first, second}) == 1, "another worker")
    assert second in workers_of(service.pid)
    assert "a worker ended with exit code -9; starting another in 1 s" in [
        record["message"] for record in records(tmp_path)
    ]


def test_pauses_grow_while_a_worker_keeps_dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout != serve.POLL_SECONDS:
                pauses.append(timeout or 0)
                if len(pauses) == 8:
                    self.set()
            return False

    dead = SimpleNamespace(poll=lambda: 1, returncode=1)
    monkeypatch.setattr(processes, "start", lambda *_: dead)
    serve._supervise(Settings(data_directory=tmp_path), {}, Stopping())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_several_workers_have_ids_of_their_own_and_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(worker_id="w" * 64)
    assert serve._numbered(settings, 12, 20).worker_id == "w" * 61 + "-12"
    assert serve._numbered(settings, 1, 1) == settings
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert serve._share_of_cores(3) == {"OMP_NUM_THREADS": "2"}
    assert serve._share_of_cores(1) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert serve._share_of_cores(3) == {}


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    processes.stop(process, 0.1)
    assert process.returncode == -signal.SIGKILL


def test_a_child_has_the_settings_it_was_given_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = {"DATABASE_URL": "postgresql://db/other", "STORE": "/elsewhere", "HOST": "0.0.0.0", "INSECURE": "1"}
    elsewhere |= {"API_KEY": "0123456789abcdef0123"}
    for name, value in elsewhere.items():
        monkeypatch.setenv(f"SUPPLE_{name}", value)
    settings = demo_settings(tmp_path, 8123)
    assert settings.database == f"sqlite:///{tmp_path}/supple.db"
    assert settings.store_location == str(tmp_path / "store")
    assert (settings.host, settings.insecure) == ("127.0.0.1", False)
    monkeypatch.setattr(subprocess, "Popen", lambda arguments, env, stdin: env)
    environment = processes.start("serve", settings)
    assert environment["PYTHONSAFEPATH"] == "1"  # type: ignore[index]
    for name in list(os.environ):
        if name.startswith("SUPPLE_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():  # type: ignore[attr-defined]
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "supple.db").write_bytes(sqlite_template.read_bytes())
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("service", "queue"):
        (hostile / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    (hostile / "migrations").mkdir()
    (hostile / "migrations" / "__init__.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(hostile)
    worker = processes.start("worker", demo_settings(tmp_path, 0))
    try:
        wait(lambda: worker_is_ready(tmp_path) or worker.poll() is not None, "a ready worker")
        assert worker.poll() is None
    finally:
        processes.stop(worker, 10)


def test_a_worker_runs_in_a_folder_whose_name_holds_signs_of_addresses(tmp_path: Path) -> None:
    directory = tmp_path / "a?b#c%20d"
    settings = Settings(data_directory=directory, port=0)
    upgrade(settings.database)
    assert sorted(path.name for path in directory.iterdir()) == ["supple.db"]
    worker = processes.start("worker", settings)
    try:
        wait(lambda: worker_is_ready(directory) or worker.poll() is not None, "a ready worker")
        assert worker.poll() is None
        with TestClient(create_app(settings), base_url="http://localhost:8000") as client:
            wait(lambda: client.get("/readyz").json()["workers"] == 1, "a worker that the service sees")
    finally:
        processes.stop(worker, 10)
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1, port {port}: .*; choose another"):
            processes.check_port("127.0.0.1", port)
    processes.check_port("127.0.0.1", port)
    processes.check_port("localhost", 0)
