"""A supernet that came without weights or without images, with a device whose table was published."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from service.context import Context
from service.devices.measurements import add_model
from service.devices.register import register_device
from service.devices.schemas import DeviceIn, MeasurementsIn
from service.errors import ConflictError, InvalidError
from service.searches.measuring import measured_devices
from service.searches.question import Question
from service.searches.request import SearchRequest
from service.storage.tables import Export, LatencyModelRow, Search, Supernet
from service.supernets.register import register_supernet
from supernet.bundle import Bundle
from supernet.bundle_writing import write_bundle
from supernet.evaluation.views import Views
from supernet.space import Architecture

PUBLISHED = {"runtime": "as published", "threads": 1, "batch_size": 1}


def table(tables: CostTables) -> dict[int, dict[str, float]]:
    """Times of two of the three resolutions."""
    keys = sorted({key for key in tables.block_keys if key is not None})
    return {side: {key: 0.01 * side + number / 1e4 for number, key in enumerate(keys)} for side in (12, 16)}


def variant(bundle_path: Path, folder: Path, tables: CostTables, **changes: Any) -> Bundle:
    """The untrained bundle with a published device, without weights and images unless the changes say otherwise."""
    whole = Bundle.open(bundle_path)
    assert whole.predictor_path is not None
    model = LatencyModel.from_published(tables, table(tables), "a test")
    fields: dict[str, Any] = {
        "name": "published",
        "space": whole.space,
        "supernet": None,
        "classes": tuple(whole.classes),
        "normalization": whole.normalization,
        "calibration": None,
        "holdout": None,
        "views": Views(),
        "predictor": whole.predictor_path.read_bytes(),
        "report": {"corners": {}},
        "provenance": {"dataset": "noise"},
        "devices": {"phone": {**PUBLISHED, "latency_model": model.to_json()}},
    }
    return write_bundle(folder / "published", **{**fields, **changes})


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path, tables: CostTables) -> Bundle:
    return variant(bundle_path, tmp_path, tables)


def registered(context: Context, bundle: Bundle) -> str:
    with context.database.writing() as session:
        return register_supernet(session, context.store, bundle.path).id


def versions(client: TestClient) -> list[int]:
    return [model["version"] for model in client.get("/v1/devices/phone").json()["latency_models"]]


def test_registering_a_bundle_registers_its_devices_once(client: TestClient, context: Context, bundle: Bundle) -> None:
    first = registered(context, bundle)
    assert registered(context, bundle) == first
    assert client.post("/v1/supernets", json={"bundle_hash": bundle.hash}).status_code == 201
    device = client.get("/v1/devices/phone").json()
    assert {field: device[field] for field in PUBLISHED} == PUBLISHED
    (model,) = device["latency_models"]
    assert (model["version"], model["host"], model["card"]["networks"]) == (1, {}, 0)
    assert "the error is unknown" in model["card"]["validation"]
    with context.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(LatencyModelRow)) == 1


def test_what_was_measured_since_stays_the_newest(
    client: TestClient,
    context: Context,
    bundle: Bundle,
    measurements: dict[str, Any],
    latency_model: LatencyModel,
) -> None:
    registered(context, bundle)
    with context.database.writing() as session:
        add_model(session, context.store, "phone", MeasurementsIn(**measurements), latency_model)
    assert versions(client) == [2]
    registered(context, bundle)
    assert versions(client) == [2]


def test_a_device_of_the_same_name_and_other_settings_is_a_conflict(context: Context, bundle: Bundle) -> None:
    with context.database.writing() as session:
        register_device(session, DeviceIn.model_validate({"name": "phone", "threads": 4}))
    with pytest.raises(ConflictError, match=r"device 'phone' has .* import the latency tables again with another"):
        registered(context, bundle)
    with context.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Supernet)) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"latency_model": {}},
        {"latency_model": {"space": "0" * 64}},
        {"threads": "many"},
        {"latency_model": None},
    ],
)
def test_a_device_that_cannot_be_read_is_refused(
    broken: dict[str, Any], context: Context, bundle_path: Path, tmp_path: Path, tables: CostTables
) -> None:
    model = LatencyModel.from_published(tables, table(tables), "a test").to_json()
    device = {**PUBLISHED, "latency_model": model, **broken}
    with pytest.raises(InvalidError, match="the bundle's device 'phone' cannot be read: "):
        registered(context, variant(bundle_path, tmp_path, tables, devices={"phone": device}))


def test_it_is_searched_under_the_published_latencies(
    client: TestClient, context: Context, bundle: Bundle, tables: CostTables
) -> None:
    supernet = registered(context, bundle)
    body = {"supernet": supernet, "device": "phone", "max_latency_ms": 1.2, "budget": 300}
    answer = client.post("/v1/searches", json=body)
    assert answer.status_code == 201, answer.text
    best = answer.json()["best"]
    model = LatencyModel.from_published(tables, table(tables), "a test")
    genome = tables.space.encode(Architecture.from_json(best["arch"]))
    assert best["predicted_latency_ms"] == {"phone": pytest.approx(float(model.predict(genome[None])[0]))}
    assert best["predicted_latency_ms"]["phone"] <= 1.2
    assert best["resolution"] in (12, 16)
    assert answer.json()["limits_hold"] == "predicted"
    for field in ("verified_accuracy", "measured_latency_ms"):
        assert best[field] is None
        assert "was made without a checkpoint" in best[f"{field.removesuffix('_ms')}_reason"]
    bound = {"supernet": supernet, "limits": [{"cost": "latency_ms", "device": "phone", "max": 1.2, "confidence": 0.9}]}
    refused = client.post("/v1/searches", json=bound)
    assert refused.status_code == 422
    assert "its error is unknown; leave the confidence out" in refused.json()["detail"]
    beyond = client.post("/v1/searches", json={**body, "resolution": 8})
    assert beyond.status_code == 422
    assert "cannot be predicted" in beyond.json()["detail"]
    page = client.get(f"/searches/{answer.json()['id']}")
    assert page.status_code == 200
    assert "There is no file to download: Supernet" in page.text
    assert "Download ONNX" not in page.text
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("with_weights", "message"),
    [
        (
            False,
            "was made without a checkpoint, so it can be searched but neither verified nor exported; make a bundle",
        ),
        (
            True,
            "has no calibration images to recalibrate batch norm with; give its bundle images .* --batch-norm stored",
        ),
    ],
)
def test_what_needs_weights_or_images_is_refused_without(
    with_weights: bool,
    message: str,
    client: TestClient,
    context: Context,
    bundle_path: Path,
    tmp_path: Path,
    tables: CostTables,
) -> None:
    supernet = Bundle.open(bundle_path).supernet() if with_weights else None
    name = registered(context, variant(bundle_path, tmp_path, tables, supernet=supernet))
    body = {"supernet": name, "max_flops": 1e6, "budget": 100}
    best = client.post("/v1/searches", json=body).json()["best"]
    for refused in (client.post("/v1/searches", json={**body, "verify": True}), client.get(best["onnx"])):
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert re.search(message, refused.json()["detail"])
    with context.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Export)) == 0
        assert session.scalar(select(func.count()).select_from(Search)) == 1


def test_its_host_is_no_machine_that_could_measure(client: TestClient, context: Context, bundle: Bundle) -> None:
    registered(context, bundle)
    with context.database.reading() as session:
        (model,) = session.scalars(select(LatencyModelRow))
        question = Question(session.scalars(select(Supernet)).one(), None, SearchRequest(""), {"phone": model})
        assert measured_devices(session, question) == []
