"""Lists and answers send the database as many statements for many rows as for one, and each row has its own values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, update

from evolution.predictors.latency import LatencyModel
from service.context import Context
from service.storage.tables import (
    AccuracyPrediction,
    Candidate,
    FineTuning,
    LatencyMeasurement,
    LatencyModelRow,
    LatencyPrediction,
    LatencyRefit,
    MeasurementJob,
    PredictorRefit,
    PredictorVersion,
    Search,
    SearchCandidate,
    Supernet,
    Verification,
    new_id,
)
from tests.support.databases import sqlite_unless_asked
from tests.support.service import HOST, add_device, ask

MANY = 20
DEVICES = ("board", "phone", "watch")
CONFIDENCE = 0.8

database_url = sqlite_unless_asked


@contextmanager
def counted(context: Context) -> Iterator[list[str]]:
    """The statements that the service sends meanwhile."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(context.database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(context.database.engine, "before_cursor_execute", note)


def get(client: TestClient, path: str, **query: Any) -> Any:
    response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def count(client: TestClient, context: Context, path: str, **query: Any) -> int:
    """How many statements a request sends, once the process has what it keeps in memory."""
    get(client, path, **query)
    with counted(context) as sent:
        get(client, path, **query)
    return len(sent)


def columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__mapper__.column_attrs}


@pytest.fixture
def devices(
    context: Context, supernet: str, measurements: dict[str, Any], latency_model: LatencyModel
) -> tuple[str, ...]:
    for name in DEVICES:
        add_device(context, name, measurements, latency_model, HOST)
    return DEVICES


@pytest.fixture
def searches(client: TestClient, context: Context, devices: tuple[str, ...]) -> list[str]:
    """The ids of searches, oldest first: one for a front on all devices, and copies that name others as the best.

    Every other copy used newer models, which predict another accuracy and other latencies. Two searches share each best
    candidate; the second one measured it. The last search has no answer.
    """
    limits = [{"cost": "latency_ms", "max": 1.0, "device": name, "confidence": CONFIDENCE} for name in devices]
    first = ask(client, limits=limits, objective="pareto", objectives=["flops"]).json()
    members = [item["id"] for item in first["front"]][: MANY // 2]
    assert len(members) == MANY // 2
    names = sorted(new_id() for _ in range(MANY + 1))  # ids of one millisecond are in no order
    with context.database.writing() as session:
        template = columns(session.get_one(Search, first["id"]))
        newer = [columns(row) for row in session.scalars(select(LatencyModelRow)).all()]
        for row in newer:
            row |= {"id": f"new-{row['device']}", "version": 2}
        session.add_all(LatencyModelRow(**row) for row in newer)
        session.flush()
        for place, name in enumerate(members):
            session.add(AccuracyPrediction(candidate_id=name, predictor_version="new", number=place, **accuracy(place)))
            session.add(Verification(candidate_id=name, verified_accuracy=place / 100, images=50))
            session.add_all(
                LatencyPrediction(candidate_id=name, latency_model_id=row["id"], predicted_latency_ms=place + 1.0)
                for row in newer
            )
            session.add_all(fine_tuning(name, number) for number in range(2))
        for number in range(MANY):
            row = {**template, "id": names[number], "best_candidate_id": members[number // 2], "idempotency_key": None}
            if number % 2:
                models = {model["device"]: model["id"] for model in newer}
                row |= {"predictor_version": "new", "latency_models": models}
            session.add(Search(**row))
            session.flush()
            session.add(SearchCandidate(search_id=row["id"], candidate_id=members[number // 2], place=0, on_front=True))
            session.flush()
            if number % 2:
                key = {"search_id": row["id"], "candidate_id": members[number // 2], "device": "phone"}
                session.add(LatencyMeasurement(**key, measured_latency_ms=number + 0.5, details=DETAILS))
        session.add(Search(**{**template, "id": names[-1], "best_candidate_id": None, "status": "failed"}))
    return [first["id"], *names[:-1]]


DETAILS = {"ratio": 2.0, "spread": 0.01, "wall_ms": 1.0, "reference_ms": 0.5, "samples": 40}


def accuracy(place: int) -> dict[str, float]:
    return {"predicted_accuracy": 0.5 + place / 100, "predicted_accuracy_std": 0.01 * (place + 1)}


def fine_tuning(candidate: str, number: int) -> FineTuning:
    plan = {"from_scratch": False, "epochs": 1, "learning_rate": None, "distillation": None, "seed": number}
    return FineTuning(id=f"{candidate[:14]}{number:02}", candidate_id=candidate, plan=plan, status="queued")


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_list_of_searches_shows_what_each_search_used(
    client: TestClient, context: Context, supernet: str, searches: list[str]
) -> None:
    items = get(client, "/v1/searches", limit=MANY + 2)["items"]
    assert [item["id"] for item in items[1:]] == searches[::-1]
    assert items[0]["best"] is None
    with context.database.reading() as session:
        row = session.get_one(Supernet, supernet)
        tables, predictor = context.tables(row), context.predictor(row)
        models = session.scalars(select(LatencyModelRow).where(LatencyModelRow.version == 1)).all()
        predicted = {model.device: context.latency_model(model, tables) for model in models}
        genomes = {row.id: np.frombuffer(row.genome, np.int8)[None] for row in session.scalars(select(Candidate))}
    by_id = {item["id"]: item for item in items}
    for number, name in enumerate(searches[1:]):
        best = by_id[name]["best"]
        place, genome = number // 2, genomes[best["id"]]
        if number % 2:
            expected: dict[str, Any] = accuracy(place)
            assert best["predicted_latency_ms"] == dict.fromkeys(DEVICES, place + 1.0)
            assert best["latency_models"] == {device: f"new-{device}" for device in DEVICES}
            assert best["measured_latency_ms"] == {"phone": number + 0.5}
        else:
            expected = {"predicted_accuracy": predictor.predict(genome)[0]}
            assert best["predicted_latency_ms"] == {
                device: model.predict(genome)[0] for device, model in predicted.items()
            }
            assert best["measured_latency_ms"] is None
        assert expected.items() <= best.items()
        assert best["predicted_latency_bound_ms"] == {
            device: model.upper_bound(genome, CONFIDENCE)[0] for device, model in predicted.items()
        }
        assert best["verified_accuracy"] == place / 100
        assert {row["seed"] for row in best["finetunes"]} == {0, 1}
        if not number % 2:  # the newer version of the predictor has no file
            whole = get(client, f"/v1/searches/{name}")
            assert {key: whole[key] for key in by_id[name]} == by_id[name]


def test_lists_of_searches_take_as_many_statements_as_one(
    client: TestClient, context: Context, searches: list[str]
) -> None:
    one = count(client, context, "/v1/searches", limit=1, cursor=get(client, "/v1/searches", limit=1)["next"])
    assert (
        count(client, context, "/v1/searches", limit=MANY, cursor=get(client, "/v1/searches", limit=1)["next"]) == one
    )
    assert one <= 12


def test_a_front_and_an_answer_take_as_many_statements_as_with_one_member(
    client: TestClient, context: Context, searches: list[str]
) -> None:
    with context.database.writing() as session:  # the second search has one member
        session.execute(update(Search).values(predictor_version=session.get_one(Search, searches[0]).predictor_version))
    large, small = searches[:2]
    for path in ("", "/front"):
        assert len(get(client, f"/v1/searches/{small}/front")) == 1 < len(get(client, f"/v1/searches/{large}/front"))
        few, many = (count(client, context, f"/v1/searches/{name}{path}") for name in (small, large))
        assert abs(many - few) <= 1  # the best candidate of one of them is not on its front
        assert many <= 16


def test_an_answer_takes_as_many_statements_on_many_devices_as_on_one(
    client: TestClient, context: Context, devices: tuple[str, ...]
) -> None:
    counts = []
    for names in (devices[:1], devices):
        limits = [{"cost": "latency_ms", "max": 1.0, "device": name, "confidence": CONFIDENCE} for name in names]
        search = ask(client, limits=limits).json()["id"]
        counts.append(count(client, context, f"/v1/searches/{search}"))
        with context.database.writing() as session:
            session.get_one(Search, search).status = "verifying"
            session.add_all(measurement_job(session, search, device, 0) for device in names)
        assert set(get(client, f"/v1/searches/{search}")["progress"]["waiting"]) == set(names)
        counts.append(count(client, context, f"/v1/searches/{search}"))
    assert counts[:2] == counts[2:]


def measurement_job(session: Any, search: str, device: str, number: int) -> MeasurementJob:
    space_hash = session.scalars(select(LatencyModelRow.space_hash)).first()
    values = {"space_hash": space_hash, "expected_ms": {"a": 0.04}, "samples": 40, "plan": "0" * 64, "status": "queued"}
    return MeasurementJob(search_id=search, device=device, number=number, turn=0, **values)


def test_lists_of_measurement_jobs_take_as_many_statements_as_one(
    client: TestClient, context: Context, searches: list[str]
) -> None:
    with context.database.writing() as session:
        session.add_all(measurement_job(session, searches[0], "board", number) for number in range(MANY))
    one = count(client, context, "/v1/devices/board/jobs", limit=1)
    assert len(get(client, "/v1/devices/board/jobs", limit=MANY)["items"]) == MANY
    assert count(client, context, "/v1/devices/board/jobs", limit=MANY) == one


def test_lists_of_devices_and_supernets_take_as_many_statements_as_one(
    client: TestClient, context: Context, supernet: str, devices: tuple[str, ...], searches: list[str]
) -> None:
    with context.database.writing() as session:
        row = columns(session.get_one(Supernet, supernet))
        for number in range(MANY):
            session.add(Supernet(**{**row, "id": f"net-{number}", "bundle_hash": f"{number:064}"}))
        for model in session.scalars(select(LatencyModelRow).where(LatencyModelRow.version == 1)).all():
            session.add(
                LatencyRefit(
                    device=model.device,
                    space_hash=model.space_hash,
                    old_model=model.id,
                    networks=20,
                    old_error=0.1,
                    new_error=0.2,
                )
            )
    for path, many in (("/v1/devices", len(devices)), ("/v1/supernets", MANY)):
        assert len(get(client, path, limit=many)["items"]) == many
        assert count(client, context, path, limit=many) == count(client, context, path, limit=1)


def test_a_list_of_predictors_takes_as_many_statements_as_one(
    client: TestClient, context: Context, supernet: str
) -> None:
    counts = []
    for start, end in ((0, 1), (1, MANY)):
        with context.database.writing() as session:
            for number in range(start, end):
                values = {"supernet_id": supernet, "version": f"{number:016}"}
                session.add(PredictorVersion(**values, file="1" * 64, pairs="2" * 64, card={"rmse": 0.01}))
                session.add(PredictorRefit(supernet_id=supernet, old_version="a", status="failed"))
        assert len(get(client, f"/v1/supernets/{supernet}/predictors")["refits"]) == end
        counts.append(count(client, context, f"/v1/supernets/{supernet}/predictors"))
    assert counts[0] == counts[1]


def test_fronts_on_many_devices_take_as_many_statements_as_on_one(
    client: TestClient, context: Context, supernet: str, searches: list[str], devices: tuple[str, ...]
) -> None:
    path = "/v1/fronts/devices"
    assert len(get(client, path, supernet=supernet, device=devices)) == len(devices)
    one = count(client, context, path, supernet=supernet, device=devices[:1])
    assert count(client, context, path, supernet=supernet, device=devices) == one
    for device in devices:
        alone = get(client, "/v1/fronts", supernet=supernet, device=device)
        assert get(client, path, supernet=supernet, device=devices)[device] == alone


def test_the_front_page_takes_as_many_statements_as_with_one_answer(
    client: TestClient, context: Context, searches: list[str]
) -> None:
    def front_page() -> int:
        assert client.get("/").status_code == 200
        with counted(context) as sent:
            assert client.get("/").status_code == 200
        return len(sent)

    many = front_page()
    with context.database.writing() as session:
        session.execute(update(Search).where(Search.id != searches[-1]).values(best_candidate_id=None))
    assert front_page() == many
