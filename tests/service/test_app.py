"""Starting, readiness and metrics."""

import errno
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.context import Context
from service.errors import UnavailableError
from service.jobs.locks import count_workers, lock_patiently, try_lock
from service.settings import Settings
from service.storage.database import Database


def test_the_service_does_not_start_without_migrations(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="supple db upgrade"):
        create_app(Settings(data_directory=tmp_path))


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


def test_readiness_counts_the_workers_that_live(client: TestClient, context: Context) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["workers"] == 0
    assert "no worker runs" in answer.json()["detail"]
    assert "supple worker" in answer.json()["detail"]
    workers = [lock_patiently(context.database, name) for name in ("a", "b")]
    assert client.get("/readyz").json() == {"status": "ready", "workers": 2, "detail": None}
    for worker in workers:
        worker.release()
    assert client.get("/readyz").json()["workers"] == 0


def test_a_lock_file_that_a_killed_worker_left_counts_as_no_worker(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL drops a dead worker's lock by itself")
    directory = Path(f"{database.engine.url.database}-workers")
    directory.mkdir()
    (directory / "dead.lock").touch()
    assert count_workers(database) == 0


def test_a_look_at_a_peer_counts_as_no_worker(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("beside SQLite a locked file is a living worker")
    peer = try_lock(database, "peer")
    assert peer is not None
    assert count_workers(database) == 0
    peer.release()


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
