import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.costs import CostTables
from service.context import Context
from service.devices.plausible import check_plausible
from service.devices.schemas import MeasurementsIn
from service.errors import InvalidError
from service.settings import Settings
from service.storage.tables import LatencyModelRow
from supernet.families import preset
from tests.support.service import HOST, make_measurements


def test_a_device_is_registered_once(client: TestClient) -> None:
    for _ in range(2):
        answer = client.post("/v1/devices", json={"name": "board", "threads": 2})
        assert answer.status_code == 201
        assert answer.headers["location"] == "/v1/devices/board"
    assert answer.json() == client.get("/v1/devices/board").json()
    assert answer.json()["latency_models"] == []
    assert [device["name"] for device in client.get("/v1/devices").json()["items"]] == ["board"]
    answer = client.post("/v1/devices", json={"name": "board", "threads": 4})
    assert answer.status_code == 409
    assert "threads 2, not 4" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "a b"}, "name is 'a b'"),
        ({"name": "board", "threads": 0}, "threads is 0: input should be greater than or equal to 1"),
        ({"name": "board", "threads": "2"}, "threads is '2': input should be a valid integer"),
        ({"name": "board", "colour": "red"}, "colour is not a field of this request"),
        ({}, "name is missing"),
    ],
)
def test_bad_devices_are_refused(client: TestClient, body: dict[str, Any], message: str) -> None:
    answer = client.post("/v1/devices", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_measurements_become_a_latency_model(
    client: TestClient, context: Context, supernet: str, measurements: dict[str, Any]
) -> None:
    client.post("/v1/devices", json={"name": "board"})
    answer = client.post("/v1/devices/board/measurements", json=measurements)
    assert answer.status_code == 201
    (model,) = client.get("/v1/devices/board").json()["latency_models"]
    assert model == answer.json()
    assert model["version"] == 1
    assert model["host"] == HOST
    assert model["card"]["networks"] == 40
    assert model["card"]["mean_absolute_percentage_error"] < 3
    with context.database.reading() as session:
        artifact = session.get_one(LatencyModelRow, model["id"]).measurements
    stored = json.loads(context.store.path(artifact).read_bytes())
    assert MeasurementsIn(**stored) == MeasurementsIn(**measurements)
    assert len(stored["networks"]) == 40
    assert len(stored["blocks"]) == model["card"]["blocks"]


def test_a_card_has_the_error_of_a_second_run_and_what_was_measured_beside_latency(
    client: TestClient, supernet: str, measurements: dict[str, Any]
) -> None:
    first, *others = measurements["networks"]
    checks = [{**network, "ms": network["ms"] * 1.5} for network in others[:10]]
    networks = [{**first, "memory_bytes": 7_000, "joules": 0.25}, {**others[0], "memory_bytes": 9_000}, *others[1:]]
    client.post("/v1/devices", json={"name": "board"})
    body = {**measurements, "networks": networks, "checks": checks}
    card = client.post("/v1/devices/board/measurements", json=body).json()["card"]
    assert card["second_run"]["networks"] == 10
    assert card["second_run"]["bias_percent"] == pytest.approx(-100 / 3, abs=2)
    assert card["second_run"]["mean_absolute_percentage_error"] == pytest.approx(100 / 3, abs=2)
    assert card["mean_absolute_percentage_error"] == card["second_run"]["mean_absolute_percentage_error"]
    assert card["first_run"]["mean_absolute_percentage_error"] < 3
    assert card["memory_bytes"] == {"least": 7_000, "most": 9_000, "networks": 2}
    assert card["joules"] == {"least": 0.25, "most": 0.25, "networks": 1}


def test_measuring_again_makes_a_new_version(
    client: TestClient, device: str, tables: CostTables, measurements: dict[str, Any]
) -> None:
    again = make_measurements(tables, np.random.default_rng(7))
    answer = client.post(f"/v1/devices/{device}/measurements", json=again)
    assert answer.status_code == 201
    assert answer.json()["version"] == 2
    (model,) = client.get(f"/v1/devices/{device}").json()["latency_models"]
    assert model == answer.json()


def test_bad_measurements_are_refused_and_nothing_is_written(
    client: TestClient, supernet: str, measurements: dict[str, Any]
) -> None:
    client.post("/v1/devices", json={"name": "board"})
    network = measurements["networks"][0]
    wrong_kernel = {"resolution": 8, "stages": [[[4, 4]], [[3, 4]], [[3, 4]]]}
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"threads": 2}, 409, "measured with threads 2; device 'board' has 1"),
        ({"space_hash": "0" * 64}, 404, "no registered supernet has the search space"),
        ({"networks": []}, 422, "at least 4 pairs"),
        ({"networks": [{**network, "ms": -1.0}]}, 422, "networks[0].ms is -1.0"),
        ({"networks": [{**network, "architecture": wrong_kernel}] * 4}, 422, "kernel"),
        ({"blocks": {"xyz": 1.0}}, 422, "blocks"),
        ({"blocks": {"0" * 16: 1.0}}, 422, "runs a block that was not measured"),
        ({"surprise": 1}, 422, "surprise is not a field"),
    ]
    for change, status, message in cases:
        answer = client.post("/v1/devices/board/measurements", json={**measurements, **change})
        assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    body = json.dumps({**measurements, "reference_ms": math.nan})
    answer = client.post("/v1/devices/board/measurements", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "reference_ms is nan" in answer.json()["detail"]
    assert client.get("/v1/devices/board").json()["latency_models"] == []


def in_seconds(measured: dict[str, Any], *, blocks: bool = True) -> dict[str, Any]:
    networks = [{**network, "ms": network["ms"] / 1000} for network in measured["networks"]]
    scaled = {key: ms / 1000 for key, ms in measured["blocks"].items()} if blocks else measured["blocks"]
    return {**measured, "blocks": scaled, "networks": networks}


def test_seconds_are_not_taken_for_milliseconds(
    client: TestClient, context: Context, device: str, measurements: dict[str, Any]
) -> None:
    client.post("/v1/devices", json={"name": "new"})
    files = sorted(Path(context.store.location).rglob("*"))
    thousandfold = [{**network, "ms": network["ms"] * 1e3} for network in measurements["networks"]]
    cases = [
        ("new", in_seconds(measurements), "are these seconds? Send milliseconds"),
        ("new", in_seconds(measurements, blocks=False), "are these seconds?"),
        ("new", {**measurements, "networks": thousandfold}, "times more than the sums of their blocks'"),
        (device, {**measurements, "networks": thousandfold}, "times more than the device's latency model predicts"),
    ]
    for name, body, message in cases:
        answer = client.post(f"/v1/devices/{name}/measurements", json=body)
        assert (answer.status_code, message in answer.json()["detail"]) == (422, True), answer.text
    assert sorted(Path(context.store.location).rglob("*")) == files
    assert client.get("/v1/devices/new").json()["latency_models"] == []
    assert len(client.get(f"/v1/devices/{device}").json()["latency_models"]) == 1


@pytest.mark.parametrize(
    ("ms", "threads", "message"),
    [
        (8e-3, 1, "1 thread of any CPU; are these seconds?"),
        (8.0, 1, ""),
        (0.08, None, ""),
        (8e-3, None, "no runtime starts its .* operators in less than 0.0086"),
        (1e-5, None, "any device"),
        (8e6, None, "are these microseconds or nanoseconds?"),
    ],
)
def test_no_device_is_faster_than_its_arithmetic(ms: float, threads: int | None, message: str) -> None:
    tables = CostTables(preset("mbv3-cifar"))
    largest = tables.space.encode(tables.space.largest())[None]
    batch = round(3e8 / float(tables.flops(largest)[0]))
    error = pytest.raises(InvalidError, match=message) if message else nullcontext()
    with error:
        check_plausible(tables, largest, np.array([ms]), batch_size=batch, cpu_threads=threads)


def test_an_unknown_device_is_named_with_those_that_are_known(
    client: TestClient, device: str, measurements: dict[str, Any]
) -> None:
    for answer in (
        client.get("/v1/devices/phone"),
        client.post("/v1/devices/phone/measurements", json=measurements),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "there is no device 'phone'; registered devices: board"


def test_the_probe_is_served_as_one_file(client: TestClient, settings: Settings) -> None:
    answer = client.get("/v1/probe.py")
    assert answer.status_code == 200
    compile(answer.text, "probe.py", "exec")
    assert "import service" not in answer.text


def test_the_same_measurements_posted_again_make_no_other_version(
    client: TestClient, supernet: str, measurements: dict[str, Any], tables: CostTables
) -> None:
    client.post("/v1/devices", json={"name": "board"})
    path = "/v1/devices/board/measurements"
    first, again = (client.post(path, json=measurements).json() for _ in range(2))
    assert again == first
    other = client.post(path, json=make_measurements(tables, np.random.default_rng(7))).json()
    assert other["version"] == 2
    assert client.post(path, json=measurements).json()["version"] == 3  # not the newest: measured, and so newer
