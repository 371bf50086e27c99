"""A plan is built by a worker on the first request and then served; the one-file probe does the rest over HTTP."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service.context import Context
from service.errors import NotFoundError
from service.jobs.queue import MOST_ATTEMPTS
from service.storage.tables import PlanRow
from service.supernets.plans import PlanFailedError, build_plan


def run(name: str, function: Callable[[], Any]) -> Any:
    """A step as a worker runs it."""
    return function()


@pytest.mark.slow
@pytest.mark.parametrize("networks", [0, 5])
def test_a_plan_is_built_on_the_first_request_and_then_served(
    client: TestClient, context: Context, supernet: str, networks: int
) -> None:
    where = f"/v1/supernets/{supernet}/plan?networks={networks}"
    for _ in range(2):
        waiting = client.get(where)
        assert (waiting.status_code, waiting.json()["status"]) == (202, "queued")
        assert waiting.headers["location"] == where
    build_plan(context, run, f"{supernet}:{networks}:1")
    answer = client.get(where)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
        kinds = [entry["kind"] for entry in json.loads(file.read("plan.json"))["models"]]
    assert (kinds == ["network"] * 5) if networks else ({"block", "edge", "empty", "network"} == set(kinds))
    assert client.get(where).headers["etag"] == answer.headers["etag"]


def test_a_plan_asked_for_before_an_upgrade_is_built(client: TestClient, context: Context, supernet: str) -> None:
    where = f"/v1/supernets/{supernet}/plan?networks=5"
    assert client.get(where).status_code == 202
    build_plan(context, run, f"{supernet}:5")  # releases before wrote no attempts
    assert client.get(where).status_code == 200


def test_a_plan_that_cannot_be_is_refused_with_the_reason(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_plan(*_: Any, **__: Any) -> None:
        raise ValueError("999 networks asked for; 1 to 700 can be chosen")

    where = f"/v1/supernets/{supernet}/plan?networks=999"
    assert client.get(where).status_code == 202
    monkeypatch.setattr("service.devices.measure.make_plan", make_plan)
    with pytest.raises(ValueError, match="999 networks"):
        build_plan(context, run, f"{supernet}:999:1")
    answer = client.get(where)
    assert (answer.status_code, answer.json()["detail"]) == (422, "999 networks asked for; 1 to 700 can be chosen")


def test_a_plan_that_failed_is_built_again_on_the_next_request(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"/v1/supernets/{supernet}/plan"
    assert client.get(where).status_code == 202
    monkeypatch.setattr(context, "tables", lambda _: (_ for _ in ()).throw(NotFoundError("the store lost it")))
    with pytest.raises(NotFoundError):
        build_plan(context, run, f"{supernet}:0:1")
    with context.database.reading() as session:
        (plan,) = session.scalars(select(PlanRow))
        assert (plan.status, plan.attempts) == ("failed", 2)
    told = client.get(where)
    assert (told.status_code, told.json()["detail"]) == (500, "the store lost it")
    assert client.get(where).status_code == 202
    with context.database.reading() as session:
        (plan,) = session.scalars(select(PlanRow))
        assert (plan.status, plan.attempts) == ("queued", 3)


def test_a_plan_whose_workers_die_again_and_again_fails_with_the_reason(
    client: TestClient, context: Context, supernet: str
) -> None:
    def die(name: str, function: Callable[[], Any]) -> Any:
        raise KeyboardInterrupt

    where = f"/v1/supernets/{supernet}/plan"
    assert client.get(where).status_code == 202
    for _ in range(MOST_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            build_plan(context, die, f"{supernet}:0:1")
        assert client.get(where).status_code == 202
    with pytest.raises(PlanFailedError):
        build_plan(context, run, f"{supernet}:0:1")
    told = client.get(where)
    assert (told.status_code, told.json()["title"]) == (500, "The plan could not be built")
    assert told.json()["detail"] == "5 workers died while building this plan; their logs say why"
    assert client.get(where).status_code == 202


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/supernets/none/plan", 404), ("/v1/supernets/SUPERNET/plan?networks=-1", 422)]
)
def test_what_is_no_plan_is_refused(client: TestClient, supernet: str, path: str, status: int) -> None:
    assert client.get(path.replace("SUPERNET", supernet)).status_code == status
