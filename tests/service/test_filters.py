"""Lists that are narrowed, and the plans of their queries."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from service.context import Context
from service.storage.tables import Search
from tests.support.service import ask


def listed(client: TestClient, **query: Any) -> list[str]:
    answer = client.get("/v1/searches", params=query)
    assert answer.status_code == 200, answer.text
    return [search["id"] for search in answer.json()["items"]]


def test_searches_are_listed_by_what_they_are_about(
    client: TestClient, context: Context, supernet: str, device: str
) -> None:
    plain = ask(client, supernet=supernet, seed=1).json()["id"]
    measured = ask(client, supernet=supernet, device=device, max_latency_ms=1, seed=2).json()["id"]
    waiting = ask(client, {"Prefer": "respond-async"}, supernet=supernet, seed=3).json()["id"]
    assert listed(client) == [waiting, measured, plain]
    assert listed(client, device=device) == [measured]
    assert listed(client, device="other") == []
    assert listed(client, supernet=supernet) == [waiting, measured, plain]
    assert listed(client, supernet="other") == []
    assert listed(client, status="queued") == [waiting]
    assert listed(client, status=["queued", "done"], limit=2) == [waiting, measured]
    assert listed(client, status=["queued", "done"], limit=2, cursor=measured) == [plain]
    assert listed(client, device=device, status="queued") == []
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert listed(client, since=(now - hour).isoformat()) == [waiting, measured, plain]
    assert listed(client, since=(now + hour).isoformat()) == []
    assert listed(client, until=(now - hour).isoformat()) == []
    assert listed(client, since=(now - hour).isoformat(), until=(now + hour).isoformat(), device=device) == [measured]
    with context.database.reading() as session:
        created = session.get_one(Search, measured).created_at
    assert listed(client, since=created.isoformat()) == [waiting, measured]
    assert listed(client, until=created.isoformat()) == [plain]


@pytest.mark.parametrize(
    "query", [{"status": "lost"}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"device": "a b"}]
)
def test_a_filter_that_means_nothing_is_refused(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get("/v1/searches", params=query)
    assert answer.status_code == 422
    (name,) = query
    assert name in answer.json()["detail"]


def test_supernets_and_devices_are_narrowed(client: TestClient, supernet: str, device: str) -> None:
    client.post("/v1/devices", json={"name": "unmeasured"})
    space = client.get(f"/v1/supernets/{supernet}").json()["space_hash"]
    for query, found in (
        ({"name": "untrained digits"}, 1),
        ({"name": "x"}, 0),
        ({"space_hash": space}, 1),
        ({"space_hash": "0" * 64}, 0),
    ):
        assert len(client.get("/v1/supernets", params=query).json()["items"]) == found
    names = [row["name"] for row in client.get("/v1/devices", params={"supernet": supernet}).json()["items"]]
    assert names == [device]
    assert client.get("/v1/devices", params={"supernet": "other"}).json()["items"] == []


@pytest.mark.parametrize("query", [{"device": "board"}, {"status": "failed"}, {"supernet": "none"}, {"limit": 5}])
def test_a_list_reads_an_index_and_sorts_nothing(
    client: TestClient, context: Context, device: str, query: dict[str, Any]
) -> None:
    plans: list[str] = []
    is_sqlite = context.database.is_sqlite

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("SELECT searches."):
            return
        other = connection.connection.cursor()
        for way in () if is_sqlite else ("seqscan", "sort", "hashjoin", "mergejoin", "bitmapscan"):
            other.execute(f"SET enable_{way} = off")  # else a table of few rows is read whole
        rows = other.execute(f"EXPLAIN {'QUERY PLAN ' * is_sqlite}{statement}", parameters).fetchall()
        plans.append("\n".join(str(row[-1]) for row in rows))

    event.listen(context.database.engine, "before_cursor_execute", explain)
    assert client.get("/v1/searches", params=query).status_code == 200
    (plan,) = plans
    for whole in ("Sort", "Seq Scan", "TEMP B-TREE"):
        assert whole not in plan, plan
    assert "SCAN searches" not in plan or "SCAN searches USING INDEX" in plan, plan
