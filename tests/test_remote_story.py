"""A device elsewhere, from nothing to a verified answer, over HTTP with a key; and its accidents."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.client import Client
from service.context import store_of
from service.devices import probe
from service.keys.keys import create_key
from service.settings import Settings
from service.storage.database import Database
from service.storage.tables import MeasurementJob, now
from service.supernets.register import register_supernet
from tests.support.waiting import wait

pytestmark = pytest.mark.slow  # it starts processes


@dataclass
class Remote:
    """A service that needs a key, and how to run a probe on a machine that is not the worker's.

    The probe may use one core, so that its fingerprint differs from the worker's.
    """

    address: str
    key: str
    supernet: str
    database: Database
    folder: Path

    def start_probe(self, *options: str, key: str = "") -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", probe.__file__, "--server", self.address, "--key", key or self.key]
        return subprocess.Popen(
            [*command, "--device", "board", *options],
            cwd=self.folder,
            stderr=open(self.folder / "probe.log", "ab"),
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )

    @property
    def said(self) -> str:
        """What probes printed."""
        return (self.folder / "probe.log").read_text()

    @property
    def server(self) -> probe.Server:
        return probe.Server(self.address, self.key)

    def jobs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.server.get("/v1/devices/board/jobs")["items"]
        return items

    def search(self, body: dict[str, Any]) -> str:
        """The id of a new search."""
        return str(json.loads(self.server.call("/v1/searches", body)[2])["id"])

    def shown(self, search: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.server.get(f"/v1/searches/{search}")
        return shown

    def waiting(self, search: str) -> str:
        """What a search waits for on the device."""
        return str(((self.shown(search)["progress"] or {}).get("waiting") or {}).get("board", ""))


@pytest.fixture
def remote(tmp_path: Path, sqlite_template: Path, bundle_path: Path) -> Iterator[Remote]:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the probe and the worker need different numbers of cores")
    (tmp_path / "supple.db").write_bytes(sqlite_template.read_bytes())
    settings = Settings(data_directory=tmp_path)
    database = Database(settings.database)
    with database.writing() as session:
        key = create_key(session, "probe", ["device", "search"])
        supernet = register_supernet(session, store_of(settings), bundle_path).id
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "SUPPLE_DATA_DIRECTORY": str(tmp_path),
        "SUPPLE_HOST": "0.0.0.0",
        "SUPPLE_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-P", "-m", "service.cli", "serve"], env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        with Client(address, key) as client:
            wait(client.is_ready, "the service")
        yield Remote(address, key, supernet, database, tmp_path)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        database.close()


def test_a_device_elsewhere_is_registered_measured_and_verified_in_spite_of_accidents(remote: Remote) -> None:
    measuring = ("--supernet", remote.supernet, "--networks", "12", "--samples", "10")
    assert remote.start_probe(*measuring, key="supple_wrong").wait(60) == 2
    assert "this key is not known" in remote.said

    first = remote.start_probe(*measuring)
    journal = remote.folder / "board.json.journal"
    wait(lambda: journal.is_file() and journal.read_text().count("\n") > 20, "samples in the journal")
    first.kill()
    first.wait()
    assert remote.start_probe(*measuring).wait(120) == 0
    assert "continuing from board.json.journal" in remote.said
    assert not journal.exists()
    measured = json.loads((remote.folder / "board.json").read_text())

    networks = sorted(network["ms"] for network in measured["networks"])
    body = {"device": "board", "max_latency_ms": networks[len(networks) // 2], "verify": True}
    search = remote.search(body)
    wait(lambda: bool(remote.waiting(search)), "a measurement job")
    assert "no probe there has asked for work yet" in remote.waiting(search)

    killed = remote.start_probe("--serve")
    wait(lambda: remote.jobs()[0]["status"] == "claimed", "the claim")
    killed.kill()
    killed.wait()
    assert "measures" in remote.waiting(search)
    with remote.database.writing() as session:  # as if the lease were over
        session.execute(update(MeasurementJob).values(expires_at=now()))
    serving = [remote.start_probe("--serve", "--idle", "15") for _ in range(2)]
    until = time.monotonic() + 120
    while (answer := remote.shown(search))["status"] == "verifying" and time.monotonic() < until:
        time.sleep(0.2)
    assert answer["status"] == "done", answer
    assert answer["limits"][0]["holds"] == "measured"
    assert answer["limits"][0]["value"] <= answer["limits"][0]["upper"] <= body["max_latency_ms"]
    assert answer["best"]["verified_accuracy"] is not None
    assert [process.wait(60) for process in serving] == [0, 0]
    assert {job["status"] for job in remote.jobs()} == {"done"}
