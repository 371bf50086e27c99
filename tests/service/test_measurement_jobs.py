"""Probes claim the finalists of searches, measure them, and nothing of what they get wrong is stored."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text, update

from service.context import Context
from service.measurement_jobs import claims
from service.searches.job import run_search
from service.storage.tables import Device, LatencyMeasurement, LatencyModelRow, MeasurementJob, Search, now
from tests.support.databases import sqlite_unless_asked
from tests.support.service import HOST, make_result
from tests.support.worker import Steps, count, shown

CLAIM = "/v1/devices/board/jobs/claim"

database_url = sqlite_unless_asked


@dataclass
class Probe:
    """A probe on the device `board`. slowness: what networks take, times what was predicted."""

    client: TestClient
    context: Context
    slowness: float = 1.0
    spread: float = 0.001
    seed: int = 0

    def claim(self, **changes: Any) -> Any:
        return self.client.post(CLAIM, json={"host": HOST, "probe": "a test", **changes})

    def result(self, job: dict[str, Any], **changes: Any) -> dict[str, Any]:
        with self.context.database.reading() as session:
            expected = session.get_one(MeasurementJob, job["id"]).expected_ms
        ratios = {name: self.slowness * ms / 0.5 for name, ms in expected.items()}
        rng = np.random.default_rng(self.seed)
        result = make_result(job["plan_hash"], job["space_hash"], HOST, ratios, rng, spread=self.spread)
        return {**result, **changes}

    def post(self, job: dict[str, Any], **body: Any) -> Any:
        path = f"/v1/devices/board/jobs/{job['id']}/results"
        return self.client.post(path, json={"claim": job["claim"], **body})


@pytest.fixture
def probe(client: TestClient, context: Context) -> Probe:
    return Probe(client, context)


@pytest.fixture
def waiting(client: TestClient, context: Context, device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A search whose first two finalists wait for a probe on `board`, as a worker left it."""
    monkeypatch.setattr("service.searches.finalists.ROUND", 2)
    monkeypatch.setattr("service.searches.finalists.ROUNDS", 2)
    name = create_search(client, 0.05)
    run_search(context, Steps(), name)
    return name


@pytest.fixture
def search_id(client: TestClient, context: Context, device: str) -> str:
    """A search with a measurement job of two networks that no worker has exported."""
    name = create_search(client, 0.05)
    add_job(context, name)
    return name


def create_search(client: TestClient, limit: float) -> str:
    body = {"budget": 400, "verify": True, "warm_start": False, "device": "board", "max_latency_ms": limit}
    name: str = client.post("/v1/searches", json=body).json()["id"]
    return name


def add_job(context: Context, search_id: str) -> None:
    plan = context.store.put(b"a plan of " + search_id.encode())
    with context.database.writing() as session:
        search = session.get_one(Search, search_id)
        search.status = "verifying"
        (model,) = session.query(LatencyModelRow)
        job = MeasurementJob(search_id=search_id, device="board", number=0, turn=0, space_hash=model.space_hash)
        job.expected_ms, job.samples, job.plan, job.status = {"a": 0.04, "b": 0.045}, 40, plan, "queued"
        session.add(job)


def enqueued(context: Context) -> int:
    """How many jobs of searches are in the queue."""
    with context.database.reading() as session:
        query = (
            "SELECT count(*) FROM dbos.workflow_status"
            if not context.database.is_sqlite
            else ("SELECT count(*) FROM workflow_status")
        )
        return int(session.scalar(text(query)) or 0)


def expire(context: Context) -> None:
    """Let all claims expire."""
    with context.database.writing() as session:
        session.execute(update(MeasurementJob).values(expires_at=now() - timedelta(seconds=1)))


def test_a_search_waits_for_the_probe_and_goes_on_with_its_results(
    client: TestClient, context: Context, waiting: str, probe: Probe
) -> None:
    shown_first = shown(client, waiting)
    assert shown_first["status"] == "verifying"
    assert (
        "no probe there has asked for work yet; start `python probe.py" in shown_first["progress"]["waiting"]["board"]
    )
    job = probe.claim().json()
    assert job["search"] == waiting
    assert (job["networks"], job["samples"], job["threads"], job["batch_size"]) == (2, 40, 1, 1)
    assert shown(client, waiting)["progress"]["waiting"]["board"] == "probe a test measures 2 networks on board"
    with zipfile.ZipFile(io.BytesIO(client.get(job["plan"]).content)) as plan:
        networks = json.loads(plan.read("plan.json"))["models"]
        assert [network["kind"] for network in networks] == ["network"] * 2
        assert all(plan.read(network["file"]) for network in networks)
    assert probe.post(job, result=probe.result(job)).status_code == 200
    run_search(context, Steps(), waiting)
    search = shown(client, waiting)
    assert (search["status"], search["limits_hold"]) == ("done", "measured")
    assert search["limits"][0]["value"] < search["limits"][0]["upper"] <= 0.05
    assert search["best"]["measured_latency_details"]["board"]["samples"] in (40, 80, 120, 160, 200)
    assert count(context, LatencyMeasurement) == 2
    assert probe.claim().status_code == 204


def test_networks_near_the_limit_get_more_samples_until_it_is_decided_or_they_have_200(
    client: TestClient, context: Context, waiting: str, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.searches.finalists.ROUNDS", 1)
    probe.spread = 0.2  # far wider than the distance of the finalists from the limit
    taken = []
    while (answer := probe.claim()).status_code == 200:
        job = answer.json()
        taken.append(job["networks"])
        probe.seed += 1
        assert probe.post(job, result=probe.result(job)).status_code == 200
        run_search(context, Steps(), waiting)
        with context.database.reading() as session:
            rows = session.query(LatencyMeasurement).all()
        near = [row for row in rows if row.details["lower_ms"] <= 0.05 < row.details["upper_ms"]]
        if shown(client, waiting)["status"] != "verifying":
            break
    assert taken[0] == 2
    assert len(taken) > 1
    assert all(row.details["samples"] == 200 for row in near)
    assert max(row.details["samples"] for row in rows) > 40


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_the_last_result_lets_a_worker_go_on(
    context: Context, search_id: str, probe: Probe, client: TestClient
) -> None:
    job = probe.claim().json()
    assert client.post(f"/v1/devices/board/jobs/{job['id']}/renew", json={"claim": job["claim"]}).status_code == 200
    before = enqueued(context)
    assert probe.post(job, result=probe.result(job)).status_code == 200
    assert enqueued(context) == before + 1
    with context.database.reading() as session:
        stored = session.get_one(MeasurementJob, job["id"])
    assert (stored.status, stored.claim, stored.expires_at) == ("done", None, None)
    assert set(json.loads(context.store.path(str(stored.result)).read_bytes())["measurements"]) == {"a", "b"}


def test_two_probes_of_one_device_get_different_jobs(
    client: TestClient, context: Context, search_id: str, probe: Probe
) -> None:
    first = probe.claim().json()
    assert probe.claim().status_code == 204
    other = create_search(client, 0.06)
    add_job(context, other)
    second = probe.claim().json()
    assert (first["search"], second["search"]) == (search_id, other)
    foreign = probe.post({**first, "claim": second["claim"]}, result=probe.result(first))
    assert foreign.status_code == 409
    assert "does not hold measurement job" in foreign.json()["detail"]
    for job in (first, second):
        assert probe.post(job, result=probe.result(job)).status_code == 200


def test_an_expired_claim_puts_the_job_back_and_its_results_are_refused(
    context: Context, search_id: str, probe: Probe
) -> None:
    first = probe.claim().json()
    expire(context)
    late = probe.post(first, result=probe.result(first))
    assert late.status_code == 409
    assert "expired" in late.json()["detail"]
    second = probe.claim().json()
    assert second["id"] == first["id"]
    assert second["claim"] != first["claim"]
    late = probe.post(first, result=probe.result(first))
    assert late.status_code == 409
    assert probe.post(second, result=probe.result(second)).status_code == 200
    again = probe.post(second, result=probe.result(second))
    assert again.status_code == 409
    assert "which is done" in again.json()["detail"]


def test_a_job_that_no_probe_finishes_fails_and_so_do_its_finalists(
    client: TestClient, context: Context, waiting: str, probe: Probe
) -> None:
    for _ in range(claims.MOST_CLAIMS):
        assert probe.claim().status_code == 200
        expire(context)
    assert probe.claim().status_code == 204
    failed = client.get("/v1/devices/board/jobs").json()["items"][-1]
    assert failed["status"] == "failed"
    assert failed["error"].startswith("it was claimed 5 times, the last one by a test, and each claim expired")
    while shown(client, waiting)["status"] == "verifying":
        run_search(context, Steps(), waiting)
        if (answer := probe.claim()).status_code == 200:  # the next rounds cannot be measured either
            assert probe.post(answer.json(), error="convolution is not supported").status_code == 200
    search = shown(client, waiting)
    assert search["status"] == "not_verified"
    assert "latency_ms on board could not be measured: convolution is not" in search["problem"]["detail"]


def change_ratios(by: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(result: dict[str, Any]) -> dict[str, Any]:
        networks = {
            name: {"wall_ms": by * one["wall_ms"], "ratios": [by * ratio for ratio in one["ratios"]]}
            for name, one in result["measurements"].items()
        }
        return {"measurements": networks}

    return change


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda result: {"plan": "0" * 64}, 422, "plan of the result is 000"),
        (lambda result: {"space_hash": "1" * 64}, 422, "space_hash of the result is 111"),
        (lambda result: {"threads": 2}, 422, "threads of the result is 2, the job's is 1"),
        (lambda result: {"host": {"machine": "a phone"}}, 409, "with machine 'a test'; the probe has 'a phone'"),
        (lambda result: {"measurements": {}}, 422, "is not measured"),
        (
            lambda result: {"measurements": {**result["measurements"], "x": {"wall_ms": 1.0, "ratios": [1.0] * 5}}},
            422,
            "x",
        ),
        (lambda result: {"reference_ms": 0.0005}, 422, "1,000 times less"),
        (lambda result: {"reference_ms": 0.0005}, 422, "are these seconds?"),
        (lambda result: {"reference_ms": -1.0}, 422, "reference_ms is -1.0"),
        (change_ratios(0.001), 422, "by prediction, 1,000 times less"),
        (change_ratios(1000.0), 422, "by prediction, 1,000 times more"),
        (lambda result: {"measurements": {"a": "garbage"}}, 422, "garbage"),
    ],
)
def test_a_result_that_cannot_be_right_is_refused_and_nothing_is_stored(
    client: TestClient,
    context: Context,
    search_id: str,
    probe: Probe,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    status: int,
    message: str,
) -> None:
    job = probe.claim().json()
    files = sorted(path for path in Path(context.store.location).rglob("*") if path.is_file())
    result = probe.result(job)
    answer = probe.post(job, result={**result, **change(result)})
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
    assert sorted(path for path in Path(context.store.location).rglob("*") if path.is_file()) == files
    assert count(context, LatencyMeasurement) == 0
    (shown_job,) = client.get("/v1/devices/board/jobs").json()["items"]
    assert shown_job["status"] == "claimed"
    assert probe.post(job, result=result).status_code == 200  # the claim still holds the job


@pytest.mark.parametrize("body", [{}, {"result": None}, {"error": ""}, {"claim": "x", "error": "no"}])
def test_results_are_a_result_or_an_error(context: Context, search_id: str, probe: Probe, body: dict[str, Any]) -> None:
    job = probe.claim().json()
    assert probe.post({**job, "claim": body.get("claim", job["claim"])}, **body).status_code == 422


def test_a_cancelled_search_takes_its_jobs_along(
    client: TestClient, context: Context, search_id: str, probe: Probe
) -> None:
    job = probe.claim().json()
    assert client.post(f"/v1/searches/{search_id}/cancel").status_code == 200
    assert probe.claim().status_code == 204
    late = probe.post(job, result=probe.result(job))
    assert late.status_code == 409
    assert "which is cancelled" in late.json()["detail"]
    run_search(context, Steps(), search_id)
    assert shown(client, search_id)["status"] == "cancelled"


def test_another_runtime_makes_the_numbers_stale_and_another_machine_is_refused(
    client: TestClient, context: Context, search_id: str, probe: Probe
) -> None:
    with context.database.writing() as session:
        session.execute(text('UPDATE latency_models SET host = \'{"machine": "a test", "runtime": "ort 1"}\''))
    answer = probe.claim(host={"machine": "a test", "runtime": "ort 2"})
    assert answer.status_code == 409
    assert "runtime 'ort 1'; the probe has 'ort 2'. Measure its plan again" in answer.json()["detail"]
    search = shown(client, search_id)
    assert (
        "measured with ort 1, and its probe now has ort 2; measure its plan again" in search["device_warnings"]["board"]
    )
    assert "Measure its plan again" in search["progress"]["waiting"]["board"]
    answer = probe.claim(host={"machine": "a phone", "runtime": "ort 1"})
    assert answer.status_code == 409
    assert "Register this machine under a name of its own" in answer.json()["detail"]


def test_a_search_says_since_when_no_probe_was_seen(
    client: TestClient, context: Context, search_id: str, probe: Probe
) -> None:
    with context.database.writing() as session:
        session.execute(update(Device).values(seen_at=now() - timedelta(hours=3), seen_host=HOST))
    assert "has asked for work since 20" in shown(client, search_id)["progress"]["waiting"]["board"]
    assert probe.client.post("/v1/devices/phone/jobs/claim", json={"host": {}}).status_code == 404
    assert client.get("/v1/devices/board/jobs/none/plan").status_code == 404
