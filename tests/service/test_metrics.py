"""Metrics for Prometheus: those of requests are this process's own, those of jobs and searches the database's."""

import time

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from service.context import Context
from service.jobs.locks import lock_patiently
from service.storage.database import Database
from service.web import metrics
from tests.support.service import BUDGET, ask


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "KEEP_SECONDS", 0.0)


def values(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def set_job(context: Context, job_id: str, **columns: object) -> None:
    table = "workflow_status" if context.database.is_sqlite else "dbos.workflow_status"
    changed = ", ".join(f"{name} = :{name}" for name in columns)
    with context.database.writing() as session:
        session.execute(text(f"UPDATE {table} SET {changed} WHERE workflow_uuid = :id"), {**columns, "id": job_id})


def test_jobs_are_counted_with_their_ages_and_times(client: TestClient, context: Context, supernet: str) -> None:
    first, second, third, _ = (
        ask(client, {"Prefer": "respond-async"}, supernet=supernet, seed=seed).json()["id"] for seed in range(4)
    )
    now = int(1e3 * time.time())
    set_job(context, f"search-{first}", created_at=now - 90_000, started_at_epoch_ms=now - 30_000, status="PENDING")
    times = {"created_at": now - 20_000, "started_at_epoch_ms": now - 16_000, "completed_at": now - 13_500}
    set_job(context, f"search-{second}", status="SUCCESS", **times)
    set_job(context, f"search-{third}", status="ERROR", **times)
    told = values(client)
    assert told['supple_jobs{kind="search",state="queued"}'] == 1
    assert told['supple_jobs{kind="search",state="running"}'] == 1
    assert told['supple_jobs{kind="search",state="failed"}'] == 1
    assert 90 <= told['supple_oldest_job_seconds{kind="search",state="running"}'] < 120
    assert told['supple_oldest_job_seconds{kind="search",state="queued"}'] < 30
    assert told['supple_job_seconds_sum{kind="search",state="done"}'] == 2.5
    assert told['supple_job_seconds_bucket{kind="search",le="2.0",state="done"}'] == 0
    assert told['supple_job_seconds_bucket{kind="search",le="5.0",state="done"}'] == 1
    assert told['supple_job_seconds_bucket{kind="search",le="+Inf",state="done"}'] == 1
    assert told['supple_job_wait_seconds_count{kind="search"}'] == 3
    assert told['supple_job_wait_seconds_sum{kind="search"}'] == 60 + 4 + 4


def test_searches_and_workers_are_counted(client: TestClient, context: Context, supernet: str) -> None:
    spent = [ask(client, supernet=supernet, seed=seed, strategy="random").json()["evaluations"] for seed in range(2)]
    worker = lock_patiently(context.database, "one")
    told = values(client)
    assert told['supple_searches{status="done"}'] == 2
    assert told["supple_search_evaluations_total"] == sum(spent) >= BUDGET
    assert told["supple_search_seconds_total"] > 0
    assert told["supple_subnets_verified_total"] == 0
    assert told["supple_workers"] == 1
    assert told["supple_database_up"] == 1
    worker.release()


def test_without_the_database_the_rest_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Database) -> int:
        raise OperationalError("SELECT", {}, Exception("gone"))

    client.get("/v1/devices")
    monkeypatch.setattr(metrics, "count_workers", fail)
    told = values(client)
    assert told["supple_database_up"] == 0
    assert told['supple_requests_total{method="GET",route="/v1/devices",status="200"}'] == 1
    assert "supple_workers" not in told
