"""The whole story with the store on an S3 server: register, search, verify, export, download."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import httpx2
import numpy as np
import pytest

from service import processes
from service.client import Client, ServiceError
from service.settings import Settings
from supernet.export.parity import run_onnx
from tests.support.command_line import Ran
from tests.support.waiting import wait

pytestmark = pytest.mark.slow  # it starts processes


@pytest.fixture
def settings(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = Settings(data_directory=tmp_path / "data", store=f"{s3}/story", port=processes.free_port())
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(settings.data_directory))
    monkeypatch.setenv("SUPPLE_STORE", settings.store)
    return settings


@pytest.fixture
def supernet(settings: Settings, bundle_path: Path, run: Callable[..., Ran]) -> str:
    for command in (["db", "upgrade"], ["register", str(bundle_path)]):
        ran = run(*command)
        assert ran.code == 0, ran.stderr
    return ran.stdout.split()[1]


@pytest.fixture
def client(settings: Settings, supernet: str) -> Iterator[Client]:
    shutil.rmtree(settings.data_directory / "store-cache")  # as on another machine
    process = processes.start("serve", settings)
    try:
        with Client(f"http://127.0.0.1:{settings.port}") as client:
            wait(client.is_ready, "the service")
            yield client
    finally:
        processes.stop(process, 30)


def test_the_whole_story(
    client: Client,
    settings: Settings,
    supernet: str,
    run: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = client.search({"supernet": supernet, "max_flops": 1_000_000, "verify": True, "evaluations": 300})
    assert answer["status"] == "done", answer["problem"]
    best = answer["best"]
    assert best["verified_images"] == 50
    onnx = client.download(best["onnx"])
    side = best["arch"]["resolution"]
    assert run_onnx(onnx, np.zeros((2, 1, side, side), np.float32)).shape == (2, 10)

    files, root = fsspec.core.url_to_fs(settings.store, use_listings_cache=False)
    digest = hashlib.sha256(onnx).hexdigest()
    name = f"{root}/objects/{digest[:2]}/{digest}"
    assert files.cat_file(name) == onnx
    assert files.exists(f"{root}/bundles")

    address = f"http://127.0.0.1:{settings.port}{best['onnx']}"
    part = httpx2.get(address, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, onnx[10:20])
    assert part.headers["etag"] == f'"{digest}"'

    cache = settings.data_directory / "store-cache"
    shutil.rmtree(cache / "objects")
    (cache / "objects").mkdir()
    assert client.download(best["onnx"]) == onnx, "it was not fetched again"
    shutil.rmtree(cache / "objects")
    (cache / "objects").mkdir()
    files.pipe_file(name, onnx[:-1] + b"?")
    with pytest.raises(ServiceError, match="a file in the artifact store was altered"):
        client.download(best["onnx"])
    files.pipe_file(name, onnx)

    files.pipe_file(f"{root}/objects/00/{'0' * 64}", b"nothing names this")
    removed = run("gc", "--hours", "0")
    assert "1 of" in removed.stdout, removed.stdout + removed.stderr
    assert client.download(best["onnx"]) == onnx

    assert run("backup", str(tmp_path / "backup.tar")).code == 0
    monkeypatch.setenv("SUPPLE_STORE", f"{settings.store}-restored")
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "restored"))
    assert run("restore", str(tmp_path / "backup.tar")).code == 0
    assert files.cat_file(f"{root}-restored/objects/{digest[:2]}/{digest}") == onnx


@pytest.mark.usefixtures("supernet")
def test_a_server_that_does_not_answer_is_named(bundle_path: Path) -> None:
    """In a process of its own, because fsspec keeps the client of the server that runs."""
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-P", "-m", "service.cli", "register", str(bundle_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, "the artifact store does not answer" in ran.stderr) == (1, True), ran.stderr
    assert "127.0.0.1:1" in ran.stderr
