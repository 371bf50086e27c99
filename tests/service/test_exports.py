import errno
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from service.context import Context
from service.errors import StoreFullError
from service.exports import queries
from service.exports.job import build_export, extract_candidate, store_export
from service.jobs.queue import MOST_ATTEMPTS
from service.storage.tables import Export


def run(name: str, function: Callable[[], Any]) -> Any:
    """A step as a worker runs it."""
    return function()


@pytest.fixture
def candidate(client: TestClient, supernet: str) -> str:
    best: dict[str, Any] = client.post("/v1/searches", json={"max_flops": 1e6, "budget": 100}).json()["best"]
    return str(best["id"])


def files(context: Context) -> set[Path]:
    return {path for path in Path(context.store.location).rglob("*") if path.is_file()}


def enqueued(context: Context) -> set[str]:
    table = "workflow_status" if context.database.is_sqlite else "dbos.workflow_status"
    with context.database.reading() as session:
        return set(session.scalars(text(f"SELECT workflow_uuid FROM {table}")))


def download(client: TestClient, candidate: str, **headers: str) -> Any:
    return client.get(f"/v1/candidates/{candidate}/onnx", headers=headers)


def test_a_file_is_built_on_the_first_request_and_then_served(
    client: TestClient, context: Context, candidate: str
) -> None:
    for _ in range(2):
        waiting = download(client, candidate)
        assert waiting.status_code == 202
        assert waiting.headers["retry-after"] == "1"
        assert waiting.json()["status"] == "queued"
    with context.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Export)) == 1

    build_export(context, run, f"{candidate}:fp32:0")
    file = client.get(waiting.headers["location"])
    assert file.status_code == 200
    assert file.headers["content-type"] == "application/octet-stream"
    assert file.headers["content-disposition"].startswith('attachment; filename="untrained-digits-')
    assert file.headers["content-disposition"].endswith('-fp32.onnx"')

    arch = client.get(f"/v1/candidates/{candidate}").json()["arch"]
    metadata = {entry.key: entry.value for entry in onnx.load(io.BytesIO(file.content)).metadata_props}
    assert f'"resolution": {arch["resolution"]}' in metadata["architecture"]
    assert "predicted_accuracy" in metadata
    assert "verified_accuracy" not in metadata
    session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
    images = np.zeros((2, 1, arch["resolution"], arch["resolution"]), np.float32)
    (logits,) = session.run(None, {"images": images})
    assert logits.shape == (2, 10)


def test_the_etag_is_the_files_hash_and_saves_the_download(
    client: TestClient, context: Context, candidate: str
) -> None:
    download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    file = download(client, candidate)
    etag = file.headers["etag"]
    assert context.store.path(etag.strip('"')).read_bytes() == file.content
    for sent in (etag, f'"other", W/{etag}', "*"):
        same = download(client, candidate, **{"If-None-Match": sent})
        assert same.status_code == 304
        assert same.headers["etag"] == etag
        assert same.content == b""
    assert download(client, candidate, **{"If-None-Match": '"other"'}).status_code == 200


def test_a_download_can_be_resumed(client: TestClient, context: Context, candidate: str) -> None:
    download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    file = download(client, candidate)
    start = len(file.content) // 2
    rest = download(client, candidate, Range=f"bytes={start}-", **{"If-Range": file.headers["etag"]})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
    assert file.content[:start] + rest.content == file.content
    changed = download(client, candidate, Range=f"bytes={start}-", **{"If-Range": '"other"'})
    assert changed.status_code == 200


def test_a_range_outside_the_file_is_refused_and_one_of_no_known_form_is_ignored(
    client: TestClient, context: Context, candidate: str
) -> None:
    download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    file = download(client, candidate)
    size = len(file.content)
    for beyond in (f"bytes={size}-", "bytes=999999999-", "bytes=-0"):
        refused = download(client, candidate, Range=beyond)
        assert refused.status_code == 416, beyond
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["content-range"] == f"bytes */{size}"
        assert f"has {size} bytes" in refused.json()["detail"]
        assert download(client, candidate, Range=beyond, **{"If-Range": '"other"'}).status_code == 200
    for unknown in ("items=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=9-1", "bytes=-", "bytes=1-2,x"):
        whole = download(client, candidate, Range=unknown)
        assert (whole.status_code, whole.content) == (200, file.content), unknown
    last = download(client, candidate, Range="bytes=-10")
    assert (last.status_code, last.content) == (206, file.content[-10:])
    parts = download(client, candidate, Range="Bytes=0-1, 5-6")
    assert parts.status_code == 206
    assert parts.headers["content-type"].startswith("multipart/byteranges")
    some = download(client, candidate, Range=f"bytes=0-1,{size}-")
    assert (some.status_code, some.content) == (206, file.content[:2])


def test_building_again_changes_nothing(client: TestClient, context: Context, candidate: str) -> None:
    download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    first = download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    second = download(client, candidate)
    assert second.content == first.content
    assert second.headers["etag"] == first.headers["etag"]


def test_a_file_that_differs_from_the_network_is_never_offered(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.export.parity.run_onnx", lambda data, images: np.ones((len(images), 10), np.float32))
    download(client, candidate)
    stored = files(context)
    with pytest.raises(ValueError, match="differ from torch"):
        build_export(context, run, f"{candidate}:fp32:0")
    failed = download(client, candidate)
    assert failed.status_code == 500
    assert "differ from torch" in failed.json()["detail"]
    assert failed.headers["content-type"] == "application/problem+json"
    assert files(context) == stored
    with context.database.reading() as session:
        assert session.scalars(select(Export.status)).one() == "impossible"


def test_a_file_is_at_most_as_large_as_counted_or_never_offered(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = client.get(f"/v1/candidates/{candidate}").json()["model_bytes"]
    download(client, candidate)
    build_export(context, run, f"{candidate}:fp32:0")
    assert counted - 0.01 * counted - 4096 < len(download(client, candidate).content) <= counted
    with context.database.writing() as session:
        session.delete(session.get_one(Export, (candidate, "fp32")))
    extracted = extract_candidate(context, candidate)
    patched = replace(extracted, max_bytes=counted // 2)
    monkeypatch.setattr("service.exports.job.extract_candidate", lambda *_: patched)
    download(client, candidate)
    with pytest.raises(ValueError, match=f"more than the counted bound of {counted // 2:,}"):
        build_export(context, run, f"{candidate}:fp32:0")
    refused = download(client, candidate)
    assert refused.status_code == 500
    assert "so a limit on model_bytes may not hold" in refused.json()["detail"]


def test_a_failure_that_can_pass_is_tried_again_when_asked_again(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    download(client, candidate)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFullError):
            build_export(context, run, f"{candidate}:fp32:0")
    with context.database.reading() as session:
        failed = session.scalars(select(Export)).one()
    assert (failed.status, failed.problem and failed.problem["status"]) == ("failed", 507)
    for _ in range(2):
        again = download(client, candidate)
        assert (again.status_code, again.json()["status"]) == (202, "queued")
    assert enqueued(context) == {f"export-{candidate}:fp32:0", f"export-{candidate}:fp32:1"}
    build_export(context, run, f"{candidate}:fp32:1")
    assert download(client, candidate).status_code == 200


def test_a_file_made_while_verifying_replaces_a_failure(client: TestClient, context: Context, candidate: str) -> None:
    download(client, candidate)
    with context.database.writing() as session:
        queries.finish(session, candidate, "fp32", status="failed", problem={"detail": "the store was full"})
    store_export(context, extract_candidate(context, candidate), "fp32", None)
    assert download(client, candidate).status_code == 200
    with context.database.reading() as session:
        assert session.scalars(select(Export.problem)).one() is None


def test_a_job_that_keeps_killing_its_worker_is_given_up(client: TestClient, context: Context, candidate: str) -> None:
    def die(name: str, function: Callable[[], Any]) -> Any:
        raise SystemExit

    download(client, candidate)
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            build_export(context, die, f"{candidate}:fp32:0")
    assert download(client, candidate).status_code == 202
    with pytest.raises(ValueError, match="workers died"):
        build_export(context, die, f"{candidate}:fp32:0")
    with context.database.reading() as session:
        problem = session.scalars(select(Export.problem)).one()
    assert problem
    assert "workers died" in problem["detail"]
    assert download(client, candidate).status_code == 202
    build_export(context, run, f"{candidate}:fp32:{MOST_ATTEMPTS + 1}")
    assert download(client, candidate).status_code == 200


def test_an_unknown_candidate_or_precision_is_refused(client: TestClient, candidate: str) -> None:
    assert download(client, "nothing").status_code == 404
    answer = client.get(f"/v1/candidates/{candidate}/onnx", params={"precision": "fp64"})
    assert answer.status_code == 422
    assert "precision is 'fp64'" in answer.json()["detail"]
