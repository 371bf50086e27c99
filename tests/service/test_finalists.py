import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from evolution.predictors.latency import LatencyModel
from evolution.search import Search as Searching
from service.candidates import queries as candidates
from service.context import Context
from service.devices.probe import Runtime, fingerprint
from service.measurement_jobs.schemas import ResultIn
from service.searches import job, queries
from service.searches.finalists import FinalistResults
from service.searches.findings import find_sensitivity
from service.searches.job import run_search
from service.searches.problem import make_problem
from service.searches.question import load_question
from service.settings import Settings
from service.storage.tables import Export, LatencyMeasurement, MeasurementJob, Search, SearchState, Verification
from supernet.space import Architecture
from tests.support.databases import sqlite_unless_asked
from tests.support.service import add_device, make_result
from tests.support.worker import Steps, count, shown

database_url = sqlite_unless_asked  # the worker's steps are the same on both


@pytest.fixture
def here(context: Context, supernet: str, measurements: dict[str, Any], latency_model: LatencyModel) -> str:
    """A device that is this machine."""
    return add_device(context, "here", measurements, latency_model, fingerprint())


@pytest.fixture
def published(context: Context, supernet: str, measurements: dict[str, Any], latency_model: LatencyModel) -> str:
    """A device whose latencies come from a published table, so that nothing measures it."""
    return add_device(context, "board", measurements, latency_model, {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What networks are measured to take, by name, in units of the reference networks. `factor` is for all of them.

    noise: of each network. spread: of each sample.
    """
    factors = {"factor": 1.0, "noise": 0.0, "spread": 0.001}
    rng = np.random.default_rng(0)

    def measure(context: Context, job: MeasurementJob, runtime: Runtime) -> ResultIn:
        noise = factors["factor"] + factors["noise"] * rng.standard_normal(len(job.expected_ms))
        ratios = {name: factors[name] * more for name, more in zip(job.expected_ms, noise.tolist(), strict=True)}
        result = make_result(job.plan, job.space_hash, fingerprint(), ratios, rng, spread=factors["spread"])
        return ResultIn.model_validate(result)

    monkeypatch.setattr("service.searches.measuring.measure_here", measure)
    return factors


def ask(client: TestClient, clock: dict[str, float] | None = None, **body: Any) -> str:
    """The id of a search that a worker is to verify."""
    answer = client.post("/v1/searches", json={"budget": 400, "verify": True, "warm_start": False, **body})
    assert answer.status_code == 202
    return str(answer.json()["id"])


def after_searching(
    context: Context, client: TestClient, clock: dict[str, float], search_id: str, device: str
) -> Steps:
    """Run the search's first step, and make the clock show what was predicted then (the reference takes 0.5 ms)."""
    steps = Steps()
    steps.die_at = "choose"
    with pytest.raises(SystemExit):
        run_search(context, steps, search_id)
    steps.die_at = ""
    with context.database.reading() as session:
        search = session.get_one(Search, search_id)
        ids = [candidate.id for candidate in queries.members(session, search_id)]
        predicted = candidates.predicted_on_devices(session, ids, search.latency_models)
    clock.update({one: costs["latency_ms"][device] / 0.5 for one, costs in predicted.items()})
    return steps


def test_the_winner_is_the_best_verified_one_that_holds_the_limit_as_measured(
    client: TestClient, context: Context, here: str, clock: dict[str, float]
) -> None:
    clock["noise"] = 0.05
    search_id = ask(client, device=here, max_latency_ms=0.05)
    steps = after_searching(context, client, clock, search_id, here)
    run_search(context, steps, search_id)
    search = shown(client, search_id)
    best = search["best"]
    assert search["status"] == "done"
    assert search["limits_hold"] == search["limits"][0]["holds"] == "measured"
    assert search["limits"][0]["value"] == best["measured_latency_ms"][here] <= 0.05
    assert best["measured_latency_ms"] != best["predicted_latency_ms"]
    assert best["verified_images"] == 50
    with context.database.reading() as session:
        measured = session.scalars(select(LatencyMeasurement)).all()
        holding = [row.candidate_id for row in measured if row.measured_latency_ms <= 0.05]
        verified = {row.candidate_id: row.verified_accuracy for row in session.scalars(select(Verification))}
    assert best["verified_accuracy"] == max(verified[one] or 0 for one in holding)
    with context.database.reading() as session:
        problem = make_problem(context, load_question(session, context, session.get_one(Search, search_id)))
    winner = problem.tables.space.encode(Architecture.from_json(best["arch"]))
    assert search["sensitivity"] == [part.to_json() for part in find_sensitivity(problem, winner)]
    assert client.get(best["onnx"]).status_code == 200


def test_when_all_are_slower_than_predicted_the_next_ones_leave_room(
    client: TestClient, context: Context, here: str, clock: dict[str, float]
) -> None:
    clock["factor"] = 1.3
    search_id = ask(client, device=here, max_latency_ms=0.06)
    steps = after_searching(context, client, clock, search_id, here)
    run_search(context, steps, search_id)
    search = shown(client, search_id)
    assert search["status"] == "done"
    assert "conclude 1" in steps.ran
    assert search["best"]["measured_latency_ms"][here] <= 0.06
    assert search["best"]["predicted_latency_ms"][here] <= 0.06 / 1.3 + 1e-9


def test_when_none_holds_as_measured_no_winner_is_named(
    client: TestClient, context: Context, here: str, clock: dict[str, float]
) -> None:
    clock["factor"] = 15.0
    search_id = ask(client, device=here, max_latency_ms=0.05)
    steps = after_searching(context, client, clock, search_id, here)
    run_search(context, steps, search_id)
    search = shown(client, search_id)
    assert search["status"] == "not_verified"
    assert search["best"] is None
    assert search["limits_hold"] is None
    assert "measured latency_ms on here is" in search["problem"]["detail"]
    assert "the limit 0.05" in search["problem"]["detail"]
    assert search["problem"]["closest"] in {one["id"] for one in search["front"]} | set(clock)


def test_a_finalist_that_was_not_measured_is_said_to_be_that(
    client: TestClient, context: Context, here: str, clock: dict[str, float]
) -> None:
    search_id = ask(client, device=here, max_latency_ms=0.05)
    after_searching(context, client, clock, search_id, here)
    with context.database.reading() as session:
        one, other = [candidate.id for candidate in queries.members(session, search_id)][:2]
        found = replace(
            FinalistResults.load(session, context, search_id, [one, other]),
            measured={one: {f"latency_ms@{here}": 0.04}},
            upper={one: {f"latency_ms@{here}": 0.041}},
            devices=frozenset({here}),
        )
    assert found.violations(one) == []
    assert found.violations(other) == ["latency_ms on here was not measured"]


def test_a_verified_answer_is_stored_but_not_one_that_a_worker_on_the_device_would_measure(
    client: TestClient, context: Context, published: str, here: str, clock: dict[str, float]
) -> None:
    for name, repeated in ((here, 200), (published, 202)):
        body = {"device": name, "max_latency_ms": 0.05, "budget": 400, "verify": True}
        asked = client.post("/v1/searches", json=body)
        assert asked.status_code == 202
        run_search(context, after_searching(context, client, clock, asked.json()["id"], name), asked.json()["id"])
        assert shown(client, asked.json()["id"])["status"] == "done"
        again = client.post("/v1/searches", json=body)
        assert again.status_code == repeated
        assert (again.json()["answered_from"] == asked.json()["id"]) == (repeated == 200)


@pytest.mark.parametrize("warm_start", [True, False])
def test_what_is_verified_already_competes_unless_a_request_ignores_what_is_stored(
    client: TestClient, context: Context, supernet: str, warm_start: bool
) -> None:
    earlier = ask(client, max_flops=1e6)
    run_search(context, Steps(), earlier)
    rival = shown(client, earlier)["best"]["id"]
    with context.database.writing() as session:
        session.get_one(Verification, rival).verified_accuracy = 1.0

    later = ask(client, max_flops=2e6, warm_start=warm_start)
    steps = Steps()
    run_search(context, steps, later)
    search = shown(client, later)
    assert (search["best"]["id"] == rival) == warm_start
    if warm_start:
        assert search["best"]["verified_accuracy"] == 1.0
        assert search["best"]["flops"] <= 1e6
        assert search["sensitivity"]
        assert rival not in {member["id"] for member in search["front"]}

    below = ask(client, max_flops=5e5, warm_start=warm_start)
    run_search(context, Steps(), below)
    assert shown(client, below)["best"]["id"] != rival  # it exceeds this limit


def test_progress_tells_verifying_and_measuring_apart_with_totals(
    client: TestClient, context: Context, here: str, clock: dict[str, float]
) -> None:
    search_id = ask(client, device=here, max_latency_ms=0.05)
    steps = after_searching(context, client, clock, search_id, here)
    reported = []

    class Watched(Steps):
        def __call__(self, name: str, function: Any) -> Any:
            result = steps(name, function)
            reported.append(shown(client, search_id)["progress"])
            return result

    run_search(context, Watched(), search_id)
    totals = {"round": 1, "rounds": 4, "finalists": 5}
    assert {"phase": "verify", "verified": 4, **totals} in reported
    assert {"phase": "measure", "verified": 5, **totals} in reported


def test_what_nothing_can_measure_holds_as_predicted(client: TestClient, context: Context, published: str) -> None:
    search_id = ask(client, device=published, max_latency_ms=0.05)
    run_search(context, Steps(), search_id)
    search = shown(client, search_id)
    assert search["status"] == "done"
    assert search["limits_hold"] == "predicted"
    assert search["best"]["verified_accuracy"] is not None
    assert search["best"]["measured_latency_ms"] is None
    assert count(context, LatencyMeasurement) == 0


@pytest.mark.slow
def test_the_probe_really_measures_here(client: TestClient, context: Context, here: str) -> None:
    search_id = ask(client, device=here, max_latency_ms=1000.0)
    run_search(context, Steps(), search_id)
    best = shown(client, search_id)["best"]
    details = best["measured_latency_details"][here]
    assert details["wall_ms"] > 0
    assert details["reference_ms"] > 0
    assert details["device_reference_ms"] == 0.5
    assert best["measured_latency_ms"][here] == details["ratio"] * 0.5 > 0


def test_a_minimum_accuracy_must_hold_as_verified(client: TestClient, context: Context, supernet: str) -> None:
    search_id = ask(client, objective="flops", min_accuracy=0.93, max_flops=3e6)
    run_search(context, Steps(), search_id)
    search = shown(client, search_id)  # the bundle is untrained: one in ten images is right
    assert search["status"] == "not_verified"
    assert "verified accuracy is 0." in search["problem"]["detail"]
    assert "min_accuracy 0.93" in search["problem"]["detail"]


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_worker_that_dies_anywhere_loses_no_more_than_the_step_it_was_in(
    client: TestClient, context: Context, published: str
) -> None:
    search_id = ask(client, device=published, max_latency_ms=0.05)
    steps = Steps()
    for die_at in ("search", "choose", "verify", "measure", "conclude"):
        steps.die_at = die_at
        with pytest.raises(SystemExit):
            run_search(context, steps, search_id)
        assert shown(client, search_id)["status"] == ("running" if die_at == "search" else "verifying")
    steps.die_at = ""
    with context.database.writing() as session:
        session.get_one(Search, search_id).attempts = 1
    run_search(context, steps, search_id)
    assert shown(client, search_id)["status"] == "done"
    assert len(steps.ran) == len(set(steps.ran))
    assert count(context, Verification) == count(context, Export) == 5


def test_steps_that_were_done_but_not_recorded_are_done_again_without_harm(
    client: TestClient, context: Context, published: str
) -> None:
    search_id = ask(client, device=published, max_latency_ms=0.05)
    run_search(context, Steps(), search_id)
    first = shown(client, search_id)
    with context.database.writing() as session:
        row = session.get_one(Search, search_id)
        row.status, row.finished_at = "running", None
    run_search(context, Steps(), search_id)
    again = shown(client, search_id)
    assert {**again, "finished_at": None} == {**first, "finished_at": None}
    assert count(context, Verification) == 5


def test_a_search_that_keeps_killing_its_worker_is_given_up(
    client: TestClient, context: Context, published: str
) -> None:
    search_id = ask(client, device=published, max_latency_ms=0.05)
    steps = Steps()
    steps.die_at = "search"
    for _ in range(5):
        with pytest.raises(SystemExit):
            run_search(context, steps, search_id)
    with pytest.raises(ValueError, match="workers died"):
        run_search(context, steps, search_id)
    search = shown(client, search_id)
    assert search["status"] == "failed"
    assert "5 workers died" in search["problem"]["detail"]


def test_an_unexpected_error_ends_the_search_and_says_no_more(
    client: TestClient, context: Context, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.searches.finalists.verify", fail)
    search_id = ask(client, device=published, max_latency_ms=0.05)
    with pytest.raises(KeyError):
        run_search(context, Steps(), search_id)
    search = shown(client, search_id)
    assert search["status"] == "failed"
    assert "secret" not in str(search)


def test_a_cancelled_search_stops_at_its_next_step(client: TestClient, context: Context, published: str) -> None:
    search_id = ask(client, device=published, max_latency_ms=0.05)
    steps = Steps()
    steps.die_at = "verify"
    with pytest.raises(SystemExit):
        run_search(context, steps, search_id)
    assert client.post(f"/v1/searches/{search_id}/cancel").status_code == 200
    steps.die_at = ""
    run_search(context, steps, search_id)
    assert shown(client, search_id)["status"] == "cancelled"
    assert count(context, Verification) == 0


def test_a_long_search_goes_on_where_it_was_saved_and_gives_the_same_answer(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SAVE_SECONDS", 0.0)
    body = {"max_flops": 2e6, "budget": 3000, "strategy": "evolution", "verify": False, "warm_start": False}
    whole = client.post("/v1/searches", json=body).json()
    answer = client.post("/v1/searches", json=body, headers={"Prefer": "respond-async"})
    search_id = answer.json()["id"]

    run, generations = Searching.run, []

    def interrupted(self: Searching) -> Iterator[Any]:
        for progress in run(self):
            generations.append(progress.generation)
            yield progress
            if len(generations) == 4:
                raise SystemExit

    monkeypatch.setattr(Searching, "run", interrupted)
    with pytest.raises(SystemExit):
        run_search(context, Steps(), search_id)
    stopped = shown(client, search_id)
    assert stopped["progress"]["evaluations"] > 0
    assert count(context, SearchState) == 1
    run_search(context, Steps(), search_id)
    assert generations[4] > generations[3]
    resumed = shown(client, search_id)
    for field in ("best", "front", "evaluations", "status", "limits_hold"):
        assert resumed[field] == whole[field]
    assert count(context, SearchState) == 0


def test_a_bundle_without_held_out_images_says_so(
    client: TestClient, context: Context, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.evaluation.evaluate.Evaluator.evaluate", lambda *_: None)
    search_id = ask(client, device=published, max_latency_ms=0.05)
    run_search(context, Steps(), search_id)
    best = shown(client, search_id)["best"]
    assert best["verified_accuracy"] is None
    assert best["verified_images"] is None
    assert best["verified_accuracy_reason"] == "the bundle has no held-out images"


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_worker_process_answers_while_the_client_waits(
    client: TestClient, context: Context, settings: Settings, published: str
) -> None:
    environment = {
        **os.environ,
        "SUPPLE_DATABASE_URL": settings.database,
        "SUPPLE_DATA_DIRECTORY": str(settings.data_directory),
        "OMP_NUM_THREADS": "1",
    }
    program = "from service.worker import run_worker; from service.settings import Settings; run_worker(Settings())"
    worker = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        answer = client.post(
            "/v1/searches",
            json={"budget": 400, "verify": True, "device": published, "max_latency_ms": 0.05},
            headers={"Prefer": "wait=60"},
        )
        assert answer.status_code == 201
        assert answer.json()["status"] == "done"
        other = answer.json()["front"][0]
        deadline = time.monotonic() + 30
        while (file := client.get(other["onnx"])).status_code == 202 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert file.status_code == 200
    finally:
        worker.kill()
        worker.wait()
