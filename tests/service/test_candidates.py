from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.pareto import non_dominated
from evolution.predictors.latency import LatencyModel
from service.app import create_app
from service.context import Context
from tests.support.service import HOST, add_device, ask

ROUNDING = 1e-6  # of predictions in single precision, made together with others or alone


def test_a_candidate_is_shown_as_the_newest_models_see_it(
    client: TestClient, device: str, measurements: dict[str, Any]
) -> None:
    best = ask(client, device=device, max_latency_ms=0.05).json()["best"]
    shown = client.get(f"/v1/candidates/{best['id']}").json()
    assert shown == {**best, "predicted_accuracy": pytest.approx(best["predicted_accuracy"], abs=ROUNDING)}
    slower = {key: 2 * ms for key, ms in measurements["blocks"].items()}
    networks = [{**network, "ms": 2 * network["ms"]} for network in measurements["networks"]]
    client.post(f"/v1/devices/{device}/measurements", json={**measurements, "blocks": slower, "networks": networks})
    now = client.get(f"/v1/candidates/{best['id']}").json()
    assert now["predicted_latency_ms"][device] == pytest.approx(2 * best["predicted_latency_ms"][device], rel=0.05)
    assert now["latency_models"] != best["latency_models"]
    assert client.get("/v1/candidates/nothing").status_code == 404


def test_the_front_over_everything_stored_is_not_dominated_by_any_search(
    client: TestClient, supernet: str, device: str
) -> None:
    searches = [ask(client, device=device, max_latency_ms=ms, seed=1).json() for ms in (0.04, 0.06, 0.09)]
    front = client.get("/v1/fronts", params={"supernet": supernet, "device": device}).json()
    points = np.array([[-one["predicted_accuracy"], one["predicted_latency_ms"][device]] for one in front["items"]])
    assert non_dominated(points).all()
    assert (np.diff(points[:, 1]) > 0).all()
    for search in searches:
        for one in search["front"]:
            point = np.array([-one["predicted_accuracy"], one["predicted_latency_ms"][device]])
            assert (points <= point + ROUNDING).all(1).any()
    assert front["candidates"] >= len(front["items"])
    assert front["predictor"] == front["items"][0]["predictor"]
    by_flops = client.get("/v1/fronts", params={"supernet": supernet, "x": "flops"}).json()
    assert (np.diff([one["flops"] for one in by_flops["items"]]) > 0).all()


def test_fronts_of_several_searches_are_merged(client: TestClient, supernet: str, device: str) -> None:
    body: dict[str, Any] = {"objective": "pareto", "objectives": ["latency_ms", "flops"], "device": device}
    searches = [ask(client, **body, seed=seed).json() for seed in range(3)]
    query = {"supernet": supernet, "x": "latency_ms", "y": "flops", "device": device}
    merged = client.get("/v1/fronts", params=query).json()
    assert merged["reference"] == searches[0]["hypervolume"]["reference"]
    assert all(merged["hypervolume"] > search["hypervolume"]["per_generation"][-1] for search in searches)

    def points(front: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
        accuracy, flops = ([one[field] for one in front] for field in ("predicted_accuracy", "flops"))
        return np.column_stack([np.negative(accuracy), [one["predicted_latency_ms"][device] for one in front], flops])

    together = points([one for search in searches for one in search["front"]])
    assert len(non_dominated(points(merged["items"]))) == merged["size"]
    best = np.unique(together[non_dominated(together)], axis=0)
    assert np.isclose(best[:, None], points(merged["items"]), rtol=ROUNDING).all(2).any(1).all()


def test_one_call_gives_a_front_for_each_device(
    client: TestClient,
    context: Context,
    supernet: str,
    device: str,
    measurements: dict[str, Any],
    latency_model: LatencyModel,
) -> None:
    slow = replace(latency_model, block_ms={key: 3 * ms for key, ms in latency_model.block_ms.items()})
    add_device(context, "slow", measurements, slow, HOST)
    limits = [
        {"cost": "latency_ms", "device": device, "max": 0.05},
        {"cost": "latency_ms", "device": "slow", "max": 0.11},
    ]
    search = ask(client, limits=limits, strategy="evolution").json()
    assert [limit["value"] <= limit["max"] for limit in search["limits"]] == [True, True]
    changes = {row["cost"]: (row["gained"], row["lost"]) for row in search["sensitivity"]}
    assert changes[search["binding"]] == max(changes.values()) > (0, 0)
    members = {member["id"]: member for member in search["front"]}
    for name in (device, "slow"):
        front = [members[one] for one in search["device_fronts"][name]]
        points = np.array([[-one["predicted_accuracy"], one["predicted_latency_ms"][name]] for one in front])
        assert non_dominated(points).all()
        assert (np.diff(points[:, 1]) > 0).all()
        assert points[:, 0].min() == -search["best"]["predicted_accuracy"]
    fronts = client.get("/v1/fronts/devices", params={"supernet": supernet}).json()
    assert list(fronts) == [device, "slow"]
    for name in fronts:
        one = client.get("/v1/fronts", params={"supernet": supernet, "device": name}).json()
        assert fronts[name] == one
    two = client.get("/v1/fronts/devices", params={"supernet": supernet, "device": ["slow", device]}).json()
    assert list(two) == ["slow", device]
    assert client.get("/v1/fronts/devices", params={"supernet": supernet, "device": "none"}).status_code == 404


BAD_FRONTS = [
    ({}, 422, "latency_ms needs a device"),
    ({"x": "flops", "y": "flops"}, 422, "x and y are both flops"),
    ({"x": "flops", "y": "latency_ms"}, 422, "latency_ms needs a device"),
    ({"x": "flops", "device": "board"}, 422, "the same on every device"),
    ({"device": "phone"}, 404, "no device 'phone'"),
    ({"x": "watts"}, 422, "x is 'watts'"),
    ({"supernet": "other", "x": "flops"}, 404, "no supernet 'other'"),
]


def test_a_front_that_was_asked_for_before_has_what_another_process_added(
    client: TestClient, context: Context, supernet: str, device: str
) -> None:
    def count() -> int:
        return int(client.get("/v1/fronts", params={"supernet": supernet, "x": "flops"}).json()["candidates"])

    ask(client, max_flops=5e5)
    before = count()
    assert count() == before
    with TestClient(create_app(context.settings), base_url=str(client.base_url)) as other:
        assert ask(other, max_flops=6e5, seed=7).status_code == 201
    assert count() > before


def test_bad_fronts_are_refused(client: TestClient, supernet: str, device: str) -> None:
    for query, status, message in BAD_FRONTS:
        answer = client.get("/v1/fronts", params={"supernet": supernet, **query})
        assert answer.status_code == status, query
        assert message in answer.json()["detail"]


def test_the_front_of_nothing_is_empty(client: TestClient, supernet: str) -> None:
    front = client.get("/v1/fronts", params={"supernet": supernet, "x": "flops"}).json()
    assert front["items"] == []
    assert front["candidates"] == front["size"] == front["hypervolume"] == 0
