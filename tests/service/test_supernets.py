"""Registering and describing supernets."""

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.context import Context
from service.storage.tables import Supernet
from service.supernets.register import register_supernet
from supernet.bundle import Bundle, BundleError


def test_a_bundle_is_registered_once_and_described(client: TestClient, context: Context, bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    for _ in range(2):
        with context.database.writing() as session:
            assert register_supernet(session, context.store, bundle_path).id == bundle.hash[:16]
    (listed,) = client.get("/v1/supernets").json()["items"]
    assert listed["name"] == "untrained digits"
    assert listed["bundle_hash"] == bundle.hash
    assert listed["resolutions"] == [8, 12, 16]
    assert len(listed["classes"]) == 10
    assert listed["predictor"]["pairs"] == 200
    assert listed["predictor_warning"] is None
    one = client.get(f"/v1/supernets/{listed['id']}").json()
    assert one["space"] == bundle.space.to_json()
    assert one["provenance"]["dataset"] == "noise"
    assert one["report"] == {"corners": {}}


def test_a_bundle_in_the_store_is_registered_by_its_hash(
    client: TestClient, context: Context, bundle_path: Path
) -> None:
    bundle = Bundle.open(bundle_path)
    body = {"bundle_hash": bundle.hash}
    answer = client.post("/v1/supernets", json=body)
    assert answer.status_code == 404
    assert "supple register" in answer.json()["detail"]
    context.store.add_bundle(bundle_path, bundle.hash)
    answer = client.post("/v1/supernets", json=body)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/supernets/{bundle.hash[:16]}"
    assert client.get(answer.headers["location"]).json() == answer.json()


def test_a_bundle_in_the_store_under_another_hash_is_refused(
    client: TestClient, context: Context, bundle_path: Path
) -> None:
    bundle, other = Bundle.open(bundle_path), "0" * 64
    shutil.copytree(bundle_path, Path(context.store.location) / "bundles" / other)
    answer = client.post("/v1/supernets", json={"bundle_hash": other})
    assert answer.status_code == 422
    assert f"under {other} has the hash {bundle.hash}" in answer.json()["detail"]
    assert client.get("/v1/supernets").json()["items"] == []
    assert [path.name for path in (Path(context.store.location) / "bundles").iterdir()] == [other]


def test_an_altered_bundle_is_refused_and_nothing_is_written(
    context: Context, bundle_path: Path, tmp_path: Path
) -> None:
    altered = shutil.copytree(bundle_path, tmp_path / "altered")
    (altered / "report.json").write_text("{}")
    with pytest.raises(BundleError, match=r"report\.json was altered"), context.database.writing() as session:
        register_supernet(session, context.store, altered)
    with context.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Supernet)) == 0
    assert not list((Path(context.store.location) / "bundles").iterdir())


def test_an_unknown_supernet_is_named(client: TestClient) -> None:
    answer = client.get("/v1/supernets/nothing")
    assert answer.status_code == 404
    assert "'nothing'" in answer.json()["detail"]
