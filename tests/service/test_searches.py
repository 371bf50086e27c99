import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from evolution.choices import Choices
from evolution.costs import CostTables
from evolution.feasibility import MAX_NODES, Feasibility
from evolution.limits import Constraint, Limit, constrain
from evolution.pareto import non_dominated
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from evolution.region import Region
from evolution.sensitivity import sensitivities
from service.bundles.search import search_bundle
from service.context import Context
from service.searches.answer import FINALISTS
from service.searches.endpoints import preferences
from service.searches.problem import WARM_STARTS, make_problem, solve
from service.searches.question import load_question
from service.storage.database import Database, insert_missing
from service.storage.store import unpack
from service.storage.tables import Candidate, Device, Search, SearchCandidate, Supernet, now
from supernet.bundle import Bundle
from supernet.space import Architecture, Genomes
from tests.support.postgres import empty_postgres
from tests.support.restrictions import obeys
from tests.support.service import BUDGET, ask


def count(context: Context, table: Any) -> int:
    with context.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_the_answer_is_within_every_limit_and_says_how_that_is_known(
    client: TestClient, device: str, tables: CostTables
) -> None:
    answer = ask(client, device=device, max_latency_ms=0.05, max_flops=2e6, max_params=80_000)
    assert answer.status_code == 201
    search = answer.json()
    best = search["best"]
    assert answer.headers["location"] == f"/v1/searches/{search['id']}"
    assert search["status"] == "done"
    assert search["limits_hold"] == "predicted"
    assert {limit["cost"]: limit["holds"] for limit in search["limits"]} == {
        "flops": "counted",
        "latency_ms": "predicted",
        "params": "counted",
    }
    genome = tables.space.encode(Architecture.from_json(best["arch"]))[None]
    assert best["flops"] == tables.flops(genome)[0] <= 2e6
    assert best["params"] == tables.params(genome)[0] <= 80_000
    assert best["model_bytes"] == tables.model_bytes(genome)[0]
    assert best["peak_memory_bytes"] == tables.peak_memory_bytes(genome)[0]
    assert best["predicted_latency_ms"][device] <= 0.05
    assert best["resolution"] == best["arch"]["resolution"]
    assert all(limit["value"] <= limit["max"] for limit in search["limits"])
    assert 0 < search["evaluations"] <= BUDGET


def test_an_answer_is_proven_optimal_for_a_predictor_that_is_a_sum(client: TestClient, device: str) -> None:
    answer = ask(client, device=device, max_latency_ms=0.05, max_flops=2e6).json()
    accuracy = answer["best"]["predicted_accuracy"]
    assert answer["strategy"] == "exact"
    assert answer["optimality"] == {"proven": True, "bound": accuracy, "gap": 0.0}
    other = ask(client, device=device, max_latency_ms=0.05, max_flops=2e6, strategy="evolution", warm_start=False)
    assert other.json()["optimality"] is None
    assert other.json()["strategy"] == "evolution"
    assert other.json()["best"]["predicted_accuracy"] <= accuracy
    smallest = ask(client, objective="flops", min_accuracy=accuracy).json()
    assert smallest["optimality"] == {"proven": True, "bound": smallest["best"]["flops"], "gap": 0.0}
    assert smallest["best"]["flops"] <= answer["best"]["flops"]


def test_a_search_of_an_earlier_release_has_no_certificate(client: TestClient, context: Context, device: str) -> None:
    search_id = ask(client, device=device, max_latency_ms=0.05).json()["id"]
    with context.database.writing() as session:
        search = session.get_one(Search, search_id)
        search.request = {**search.request, "strategy": "evolution"}
        findings = search.findings or {}
        search.findings = {name: findings[name] for name in findings if name not in ("optimality", "strategy")}
    shown = client.get(f"/v1/searches/{search_id}").json()
    assert shown["optimality"] is None
    assert shown["strategy"] == "evolution"


def test_a_key_of_an_earlier_release_finds_its_search(client: TestClient, context: Context, device: str) -> None:
    """That release stored the name of its default strategy."""
    body, headers = {"device": device, "max_latency_ms": 0.05}, {"Idempotency-Key": "before"}
    search_id = client.post("/v1/searches", json=body, headers=headers).json()["id"]
    with context.database.writing() as session:
        search = session.get_one(Search, search_id)
        search.request = {**search.request, "strategy": "evolution"}
    assert client.post("/v1/searches", json=body, headers=headers).json()["id"] == search_id
    other = client.post("/v1/searches", json={**body, "strategy": "random"}, headers=headers)
    assert other.status_code == 409


def test_the_answer_says_whether_any_one_or_two_changes_improve_it(
    client: TestClient, context: Context, device: str, tables: CostTables
) -> None:
    short = ask(client, device=device, max_latency_ms=0.05, strategy="evolution", budget=20).json()
    assert short["two_opt"] is False
    assert short["gained_last_1000"] is None
    full = ask(client, device=device, max_latency_ms=0.05, strategy="evolution", budget=20_000).json()
    assert full["two_opt"] is True
    assert 0 <= full["two_opt_evaluations"] < full["evaluations"]
    with context.database.reading() as session:
        problem = make_problem(context, load_question(session, context, session.get_one(Search, full["id"])))
    near = tables.moves.within_two(tables.space.encode(Architecture.from_json(full["best"]["arch"])))
    near = near[problem.region.contains(near)]
    assert len(near) > 100
    assert (
        problem.score(near).accuracy.max() <= full["best"]["predicted_accuracy"] + 1e-6
    )  # rounding moves with the batch


def test_an_answer_warns_of_a_predictor_that_ranks_badly(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(client, max_flops=2e6).json()["predictor_warning"] is None
    with context.database.reading() as session:
        predictor = context.predictor(session.get_one(Supernet, supernet))
    bad = replace(predictor, card={**predictor.card, "kendall_tau": 0.2})
    monkeypatch.setattr(context, "predictor", lambda *_: bad)
    assert "0.20 over all" in ask(client, max_flops=2e6).json()["predictor_warning"]


def test_what_is_predicted_is_never_called_measured_or_verified(client: TestClient, device: str) -> None:
    best = ask(client, device=device, max_latency_ms=0.05).json()["best"]
    assert best["predicted_accuracy"] > 0.5
    assert best["verified_accuracy"] is None
    assert best["verified_images"] is None
    assert "not verified" in best["verified_accuracy_reason"]
    assert best["measured_latency_ms"] is None
    assert "not measured" in best["measured_latency_reason"]


def test_a_predicted_accuracy_has_the_deviation_that_its_predictor_knows(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with context.database.reading() as session:
        predictor = context.predictor(session.get_one(Supernet, supernet))
    assert predictor.uncertainty is not None
    search = ask(client, max_flops=2e6).json()
    for candidate in (search["best"], *search["front"], client.get(f"/v1/candidates/{search['best']['id']}").json()):
        genome = predictor.space.encode(Architecture.from_json(candidate["arch"]))
        std = predictor.predict_std(genome[None])
        assert std is not None
        assert candidate["predicted_accuracy_std"] == pytest.approx(std[0])
    monkeypatch.setattr(AccuracyPredictor, "predict_std", lambda self, genomes: None)
    unknown = ask(client, max_flops=1.5e6).json()["best"]
    assert unknown["predicted_accuracy"] > 0.5
    assert unknown["predicted_accuracy_std"] is None


def test_the_best_is_the_most_accurate_on_the_front_and_nothing_dominates_the_front(
    client: TestClient, device: str
) -> None:
    search = ask(client, device=device, max_latency_ms=0.08).json()
    front = client.get(f"/v1/searches/{search['id']}/front").json()
    assert front == search["front"]
    accuracy = np.array([one["predicted_accuracy"] for one in front])
    latency = np.array([one["predicted_latency_ms"][device] for one in front])
    assert non_dominated(np.column_stack([-accuracy, latency])).all()
    assert (np.diff(latency) > 0).all()
    assert search["best"]["id"] == front[-1]["id"]


@pytest.mark.parametrize("limits", [{"max_flops": 5e-324}, {"max_model_bytes": 5e-324, "max_params": 1.7e308}])
def test_limits_at_the_ends_of_what_a_number_can_be_are_refused_like_others(
    client: TestClient, supernet: str, limits: dict[str, Any]
) -> None:
    answer = ask(client, supernet=supernet, **limits)
    assert answer.status_code == 422
    assert answer.json()["floors"].keys() == {name.removeprefix("max_") for name in limits}


def test_equal_questions_have_equal_answers(client: TestClient, device: str) -> None:
    first, second = (ask(client, device=device, max_latency_ms=0.05, seed=3).json() for _ in range(2))
    assert first["id"] != second["id"]
    for field in ("best", "front", "request", "evaluations", "seed"):
        assert first[field] == second[field]


def test_a_stored_request_sent_again_gives_the_stored_answer(client: TestClient, device: str) -> None:
    search = ask(client, device=device, max_latency_ms=0.05, min_accuracy=0.93, objective="flops").json()
    assert search["status"] == "done"
    again = client.post("/v1/searches", json=search["request"]).json()
    assert again["request"] == search["request"]
    assert again["best"] == search["best"]
    assert again["best"]["predicted_accuracy"] >= 0.93


def test_shorthands_and_limits_are_one_question(client: TestClient, device: str) -> None:
    short = ask(client, device=device, max_latency_ms=0.05, max_flops=2e6).json()
    long = ask(
        client,
        limits=[{"cost": "latency_ms", "device": device, "max": 0.05}, {"cost": "flops", "max": 2e6}],
    ).json()
    assert short["request"] == long["request"]
    assert short["best"] == long["best"]


def test_a_confidence_limits_the_bound(client: TestClient, device: str) -> None:
    limit = {"cost": "latency_ms", "device": device, "max": 0.05, "confidence": 0.9}
    search = ask(client, limits=[limit]).json()
    best = search["best"]
    assert search["limits_hold"] == "bound"
    assert best["predicted_latency_ms"][device] <= best["predicted_latency_bound_ms"][device] <= 0.05
    assert search["limits"][0]["value"] == best["predicted_latency_bound_ms"][device]
    too_sure = ask(client, limits=[{**limit, "confidence": 0.999}])
    assert too_sure.status_code == 422
    assert "support at most" in too_sure.json()["detail"]


def test_a_limit_with_and_one_without_a_confidence_on_one_device_each_say_their_value(
    client: TestClient, device: str
) -> None:
    limits = [{"cost": "latency_ms", "device": device, "max": 0.06, "confidence": one} for one in (None, 0.9)]
    search = ask(client, limits=limits).json()
    best = search["best"]
    assert [(limit["holds"], limit["value"]) for limit in search["limits"]] == [
        ("predicted", best["predicted_latency_ms"][device]),
        ("bound", best["predicted_latency_bound_ms"][device]),
    ]
    assert search["limits_hold"] == "predicted"


def test_without_limits_nothing_is_claimed_of_limits(client: TestClient, supernet: str) -> None:
    search = ask(client).json()
    assert search["limits_hold"] is None
    assert search["limits"] == []
    assert search["best"]["predicted_accuracy"] > 0.97


def test_an_impossible_limit_is_answered_with_the_floor_and_the_smallest(
    client: TestClient, context: Context, device: str, tables: CostTables
) -> None:
    answer = ask(client, device=device, max_latency_ms=0.001, max_flops=10)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["proven"] is True
    floor = problem["floors"]["flops"]
    assert floor == tables.flops_cost.floors.min()
    assert set(problem["floors"]) == {"flops", f"latency_ms@{device}"}
    smallest = tables.space.encode(Architecture.from_json(problem["smallest"]["arch"]))
    assert problem["smallest"]["costs"]["flops"] == tables.flops(smallest[None])[0]
    assert "raising it alone is not enough" in problem["detail"]
    assert problem["nearest"] == {name: {"max": None, "proven": True} for name in problem["floors"]}
    assert count(context, Search) == 0
    at_floor = ask(client, max_flops=floor)
    assert at_floor.status_code == 201
    assert at_floor.json()["best"]["flops"] == floor


def test_a_refusal_names_the_nearest_budget_of_each_limit(
    client: TestClient, device: str, tables: CostTables, latency_model: LatencyModel
) -> None:
    body: dict[str, Any] = {"device": device, "max_latency_ms": 0.04, "max_peak_memory_bytes": 100, "max_params": 1e6}
    problem = ask(client, **body).json()
    nearest = {name: near["max"] for name, near in problem["nearest"].items()}
    assert nearest == {f"latency_ms@{device}": None, "peak_memory_bytes": nearest["peak_memory_bytes"], "params": None}
    assert all(near["proven"] for near in problem["nearest"].values())
    some = tables.space.sample(np.random.default_rng(0), 20_000)
    some = some[(latency_model.predict(some) <= 0.04) & (tables.params(some) <= 1e6)]
    assert len(some)
    assert tables.peak_memory_cost.floors.min() <= nearest["peak_memory_bytes"] <= tables.peak_memory_bytes(some).min()
    assert problem["smallest"]["costs"]["peak_memory_bytes"] == nearest["peak_memory_bytes"]
    assert problem["smallest"]["costs"][f"latency_ms@{device}"] <= 0.04
    enough = ask(client, **{**body, "max_peak_memory_bytes": nearest["peak_memory_bytes"]})
    assert enough.status_code == 201
    assert enough.json()["best"]["peak_memory_bytes"] == nearest["peak_memory_bytes"]


def test_an_accuracy_out_of_reach_is_answered_with_the_most_accurate_found(client: TestClient, supernet: str) -> None:
    answer = ask(client, max_flops=1e6, objective="flops", min_accuracy=0.9999)
    assert answer.status_code == 201
    search = answer.json()
    assert search["min_accuracy_reached"] is False
    assert search["best"]["flops"] <= 1e6
    most = ask(client, max_flops=1e6).json()
    assert most["min_accuracy_reached"] is None
    assert search["best"]["predicted_accuracy"] == pytest.approx(most["best"]["predicted_accuracy"], abs=0.002)
    assert search["best"]["predicted_accuracy"] >= max(one["predicted_accuracy"] for one in search["front"])
    reached = ask(client, max_flops=1e6, objective="flops", min_accuracy=0.9)
    assert reached.json()["min_accuracy_reached"] is True


def test_file_size_and_peak_memory_are_limited_and_counted(
    client: TestClient, context: Context, supernet: str, tables: CostTables
) -> None:
    some = tables.space.sample(np.random.default_rng(0), 500)
    size, memory = (float(np.quantile(of(some), 0.2)) for of in (tables.model_bytes, tables.peak_memory_bytes))
    search = ask(client, max_model_bytes=size, max_peak_memory_bytes=memory, max_resolution=12).json()
    best = search["best"]
    assert best["resolution"] <= 12
    assert {limit["cost"]: (limit["value"], limit["holds"]) for limit in search["limits"]} == {
        "model_bytes": (best["model_bytes"], "counted"),
        "peak_memory_bytes": (best["peak_memory_bytes"], "counted"),
    }
    assert search["limits_hold"] == "counted"
    assert best["model_bytes"] <= size
    assert best["peak_memory_bytes"] <= memory
    assert search["request"]["max_resolution"] == 12
    assert client.post("/v1/searches", json=search["request"]).json()["best"] == best
    with context.database.reading() as session:
        problem = make_problem(context, load_question(session, context, session.get_one(Search, search["id"])))
    assert problem.tables.classes == [str(number) for number in range(10)]  # names that the file holds
    front = ask(client, objective="pareto", objectives=["model_bytes", "peak_memory_bytes"]).json()["front"]
    found = points(front, lambda one: one["model_bytes"], lambda one: one["peak_memory_bytes"])
    assert non_dominated(found).all()
    assert len(found) > 10


def test_restricted_choices_hold_for_answers_fronts_warm_starts_and_stored_answers(
    client: TestClient, context: Context, supernet: str, tables: CostTables
) -> None:
    space = tables.space
    choices: dict[str, list[float]] = {"kernel_size": [3, 5], "stage3.depth": [2], "resolution": [12, 16]}
    search = partial(ask, client, warm_start=True)
    free = search(max_flops=1.4e6).json()
    restricted = search(max_flops=1.4e6, choices=choices).json()
    assert restricted["answered_from"] is None
    assert restricted["request"]["choices"] == {"kernel_size": [3, 5], "resolution": [12, 16], "stage3.depth": [2]}
    assert restricted["best"]["predicted_accuracy"] <= free["best"]["predicted_accuracy"]
    front = search(objective="pareto", objectives=["params"], choices=choices).json()
    assert 0 < front["warm_starts"] < free["front_size"] + WARM_STARTS  # what was stored among open choices
    rows = [restricted["best"], *restricted["front"], *front["front"]]
    genomes = np.stack([space.encode(Architecture.from_json(row["arch"])) for row in rows])
    assert obeys(space, choices, genomes).all()
    with context.database.reading() as session:
        for row in session.scalars(select(Search).where(Search.id != free["id"])):
            evaluated = unpack(context.store.path(row.evaluated or "").read_bytes())["genomes"]
            assert obeys(space, choices, evaluated).all()
    again = search(max_flops=1.4e6, choices=dict(reversed(choices.items()))).json()
    assert again["answered_from"] == restricted["id"]
    assert search(max_flops=1.4e6).json()["answered_from"] == free["id"]
    unrestricted = search(max_flops=1.4e6, choices={"kernel_size": [7, 5, 3]})  # every kernel size that there is
    assert unrestricted.json()["answered_from"] == free["id"]
    refused = search(max_flops=2e5, choices=choices).json()
    assert "of mbv3-digits with kernel_size 3 or 5, resolution 12 or 16, stage3.depth 2 is below" in refused["detail"]
    assert refused["proven"] is True
    raised = search(max_flops=refused["nearest"]["flops"]["max"], choices=choices)
    assert raised.json()["best"]["flops"] == refused["floors"]["flops"]


@pytest.mark.parametrize("cost", ["model_bytes", "peak_memory_bytes"])
def test_the_least_of_what_is_counted_at_an_accuracy(client: TestClient, supernet: str, cost: str) -> None:
    most = ask(client).json()["best"]
    search = ask(client, objective=cost, min_accuracy=0.95).json()
    assert search["min_accuracy_reached"] is True
    assert search["best"]["predicted_accuracy"] >= 0.95
    assert search["best"][cost] < most[cost]
    assert search["best"][cost] == min(one[cost] for one in search["front"] if one["predicted_accuracy"] >= 0.95)
    assert [one["cost"] for one in search["sensitivity"]] == [cost]


BAD_QUESTIONS: list[tuple[dict[str, Any], str]] = [
    ({"max_flops": -1}, "max_flops is -1: input should be greater than 0"),
    ({"max_flops": "300M"}, "max_flops is '300M': input should be a valid number"),
    ({"max_flops": True}, "max_flops is True"),
    ({"max_flop": 1}, "max_flop is not a field of this request"),
    ({"limits": [{"cost": "flops"}]}, "limits[0].max is missing"),
    ({"limits": [{"cost": "watts", "max": 1}]}, "limits[0].cost is 'watts'"),
    ({"limits": [{"cost": "flops", "max": 1, "confidence": 0.4}]}, "limits[0].confidence is 0.4"),
    ({"limits": [{"cost": "flops", "max": 1e9, "device": "board"}]}, "leave device 'board' out"),
    ({"max_latency_ms": 1}, "latency_ms needs a device"),
    ({"device": "board"}, "nothing limits its latency"),
    ({"device": "phone", "max_latency_ms": 1}, "there is no device 'phone'; registered devices: board"),
    ({"objective": "flops"}, "such an objective needs it"),
    ({"min_accuracy": 0.9}, "min_accuracy goes with a cost"),
    ({"min_accuracy": 95, "objective": "flops"}, "min_accuracy is 95: input should be less than 1"),
    ({"objective": "latency_ms", "min_accuracy": 0.9}, "latency_ms as an objective needs a device"),
    ({"objective": "pareto", "objectives": ["latency_ms"]}, "latency_ms as an objective needs a device"),
    ({"objective": "pareto", "objectives": ["flops"], "min_accuracy": 0.9}, "min_accuracy goes with a cost"),
    ({"objective": "pareto", "objectives": ["flops", "flops"]}, "objectives are flops, flops; a front is of the acc"),
    (
        {"objective": "pareto", "objectives": ["latency_ms", "flops", "params"], "device": "board"},
        "a front is of the accuracy and 1 or 2 different costs",
    ),
    ({"objectives": ["flops"]}, "objectives go with the objective 'pareto', and objective is 'accuracy'"),
    ({"objective": "pareto", "objectives": ["watts"]}, "objectives[0] is 'watts'"),
    ({"objective": "pareto", "device": "board", "objectives": ["flops"]}, "nothing limits its latency"),
    (
        {
            "limits": [
                {"cost": "latency_ms", "device": "board", "max": 1, "confidence": confidence}
                for confidence in (0.8, 0.9)
            ]
        },
        "device 'board' is limited at the confidences 0.8 and 0.9; give it one",
    ),
    ({"resolution": 13}, "resolution is 13; mbv3-digits has 8, 12, 16"),
    ({"max_resolution": 7}, "max_resolution is 7; the smallest of mbv3-digits is 8"),
    ({"resolution": 16, "max_resolution": 12}, "resolution is 16 and max_resolution is 12; leave one of them out"),
    ({"max_peak_memory_bytes": "1MB"}, "max_peak_memory_bytes is '1MB': input should be a valid number"),
    ({"choices": {"colour": [1]}}, "mbv3-digits has no gene 'colour'; its genes are resolution, depth, kernel_size, e"),
    ({"choices": {"kernel_size": [3, 4]}}, "kernel_size has no choice 4; its choices are 3, 5, 7"),
    ({"choices": {"kernel_size": []}}, "choices.kernel_size: at least 1 item must be there"),
    ({"choices": {"": [3]}}, "a name in choices is '': at least 1 character must be there"),
    ({"choices": {"kernel_size": [1e308]}}, "kernel_size has no choice 1e+308; its choices are 3, 5, 7"),
    ({"choices": {"stage1.depth": [1], "depth": [2]}}, "nothing is left of stage1.depth, whose choices are 1, 2, with"),
    ({"choices": {"resolution": [8]}, "resolution": 12}, "resolution is 12, which the restricted choices exclude: res"),
    ({"strategy": "magic"}, "unknown strategy 'magic'; there are evolution, "),
    ({"strategy": ""}, "unknown strategy ''; there are evolution, "),
    ({"budget": 0}, "budget is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"supernet": "other"}, "there is no supernet 'other'"),
]


def test_bad_questions_are_refused_with_the_value_and_the_limit(
    client: TestClient, context: Context, device: str
) -> None:
    for body, message in BAD_QUESTIONS:
        answer = ask(client, **body)
        assert answer.status_code in (404, 422), body
        assert answer.headers["content-type"] == "application/problem+json"
        assert message in answer.json()["detail"]
    assert count(context, Search) == 0


def test_numbers_that_are_none_are_refused(client: TestClient, supernet: str) -> None:
    for field, value in product(("max_flops", "min_accuracy"), (math.nan, math.inf, -math.inf)):
        body = json.dumps({field: value})
        answer = client.post("/v1/searches", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert f"{field} is {value}: input should be a finite number" in answer.json()["detail"]


def test_a_device_that_was_not_measured_is_refused(client: TestClient, supernet: str) -> None:
    client.post("/v1/devices", json={"name": "new"})
    answer = ask(client, device="new", max_latency_ms=1)
    assert answer.status_code == 422
    assert "measure it with `supple probe`" in answer.json()["detail"]


def test_without_a_supernet_there_is_nothing_to_search(client: TestClient) -> None:
    answer = ask(client, max_flops=1e6)
    assert answer.status_code == 422
    assert "no supernet is registered" in answer.json()["detail"]


def test_everything_evaluated_is_kept_in_one_artifact_and_few_rows_are_written(
    client: TestClient, context: Context, device: str, tables: CostTables
) -> None:
    search = ask(client, device=device, max_latency_ms=0.05, max_flops=2e6).json()
    with context.database.reading() as session:
        row = session.get_one(Search, search["id"])
        members = session.scalars(select(SearchCandidate).order_by(SearchCandidate.place)).all()
    assert row.evaluated
    arrays = unpack(context.store.path(row.evaluated).read_bytes())
    assert len(arrays["genomes"]) == search["evaluations"]
    constraints = constrain([Limit("flops", 2e6)], tables, {})
    assert (constraints[0].cost(arrays["genomes"]) <= 2e6).all()
    assert list(arrays["cost_names"])[:2] == ["flops", f"latency_ms@{device}"]
    assert len(members) <= FINALISTS + len(search["front"])
    assert members[0].candidate_id == search["best"]["id"]
    assert sum(member.on_front for member in members) == len(search["front"])


def test_candidates_of_several_searches_are_stored_once(client: TestClient, context: Context, device: str) -> None:
    ask(client, device=device, max_latency_ms=0.05)
    before = count(context, Candidate)
    ask(client, device=device, max_latency_ms=0.05)
    assert count(context, Candidate) == before
    assert count(context, Search) == 2


def test_a_store_without_room_leaves_no_row(
    client: TestClient, context: Context, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = ask(client, device=device, max_latency_ms=0.05)
    assert answer.status_code == 507
    assert "free some and try again" in answer.json()["detail"]
    assert count(context, Search) == count(context, Candidate) == 0


def test_an_answer_says_what_a_little_more_of_each_limit_buys(
    client: TestClient, context: Context, device: str, tables: CostTables
) -> None:
    search = ask(client, device=device, max_latency_ms=0.05, max_flops=3e6).json()
    around = {one["cost"]: one for one in search["sensitivity"]}
    assert {name: one["limit"] for name, one in around.items()} == {"flops": 3e6, f"latency_ms@{device}": 0.05}
    with context.database.reading() as session:
        problem = make_problem(context, load_question(session, context, session.get_one(Search, search["id"])))
    best = tables.space.encode(Architecture.from_json(search["best"]["arch"]))
    assert search["sensitivity"] == [one.to_json() for one in sensitivities(problem, best)]
    assert any(one["gained"] > 0 and one["cheapest"]["cost"] < 0 for one in around.values())
    assert all(one["gained"] == pytest.approx(one["gained_per_unit"] * one["step"]) for one in around.values())
    least = ask(client, objective="flops", min_accuracy=0.95).json()["sensitivity"]
    assert [one["cost"] for one in least] == ["flops"]
    assert ask(client).json()["sensitivity"] == []
    assert ask(client, objective="pareto", max_flops=1e6).json()["sensitivity"] == []


# Fronts.


def points(front: list[dict[str, Any]], *costs: Callable[[dict[str, Any]], float]) -> np.ndarray[Any, Any]:
    """(K, 1 + C) of the members of a front: error, then costs."""
    return np.array([[1 - one["predicted_accuracy"], *(cost(one) for cost in costs)] for one in front])


def test_a_front_is_sought_over_all_budgets_up_to_a_limit(client: TestClient, device: str) -> None:
    search = ask(client, objective="pareto", objectives=["latency_ms"], device=device, max_latency_ms=0.09).json()
    front = points(search["front"], lambda one: one["predicted_latency_ms"][device])
    assert non_dominated(front).all()
    assert (np.diff(front[:, 1]) > 0).all()
    assert front[:, 1].max() <= 0.09
    assert search["best"] == search["front"][-1]
    assert search["strategy"] == "exact"
    assert search["optimality"]["proven"]
    volumes, reference = search["hypervolume"]["per_generation"], search["hypervolume"]["reference"]
    assert reference == {"error": 1.0, f"latency_ms@{device}": 0.09}
    assert (np.diff(volumes) >= 0).all()
    assert volumes[-1] == pytest.approx(moocore.hypervolume(front, ref=list(reference.values())))
    alone = ask(client, device=device, max_latency_ms=0.045).json()["best"]
    within = front[:, 1] <= alone["predicted_latency_ms"][device]
    assert 1 - front[within, 0].min() > alone["predicted_accuracy"] - 0.005


def test_a_front_has_up_to_three_objectives(client: TestClient, device: str, tables: CostTables) -> None:
    search = ask(client, objective="pareto", objectives=["accuracy", "latency_ms", "flops"], device=device).json()
    front = points(search["front"], lambda one: one["predicted_latency_ms"][device], lambda one: one["flops"])
    assert non_dominated(front).all()
    assert (np.diff(front[:, 1]) >= 0).all()
    assert search["strategy"] == "nsga2"
    assert search["optimality"] is None
    assert search["request"]["objectives"] == ["latency_ms", "flops"]
    reference = search["hypervolume"]["reference"]
    assert list(reference) == ["error", f"latency_ms@{device}", "flops"]
    assert reference["flops"] == tables.flops(tables.space.encode(tables.space.largest())[None])[0]


def test_of_a_large_front_members_far_apart_are_kept(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: dict[str, Any] = {"objective": "pareto", "objectives": ["flops", "params"]}
    whole = ask(client, **body).json()["front"]
    monkeypatch.setattr("service.searches.answer.MOST_ON_FRONT", 10)
    kept = ask(client, **body).json()["front"]
    assert len(kept) == 10 < len(whole)
    assert {one["id"] for one in kept} < {one["id"] for one in whole}
    for field in ("predicted_accuracy", "flops", "params"):
        for end in (min, max):
            assert end(one[field] for one in kept) == end(one[field] for one in whole)


def test_without_objectives_a_front_is_of_the_device_or_flops(client: TestClient, device: str) -> None:
    assert ask(client, objective="pareto", device=device).json()["request"]["objectives"] == ["latency_ms"]
    search = ask(client, objective="pareto").json()
    assert search["request"]["objectives"] == ["flops"]
    again = client.post("/v1/searches", json=search["request"]).json()
    assert again["request"] == search["request"]
    assert again["front"] == search["front"]


def test_a_front_starts_from_the_stored_ones_and_only_grows(client: TestClient, supernet: str) -> None:
    body: dict[str, Any] = {"objective": "pareto", "objectives": ["flops"]}
    first = ask(client, **body, budget=2000).json()
    second = remembering(client, **body, budget=300, seed=1).json()
    assert second["warm_starts"] > 0
    ends = [search["hypervolume"]["per_generation"][-1] for search in (first, second)]
    assert ends[1] >= ends[0]


# Memory.


def remembering(client: TestClient, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return client.post("/v1/searches", json={"budget": 300, **body}, headers=headers)


def cut_off(
    tables: CostTables,
    constraints: Sequence[Constraint],
    resolution: int | None,
    max_resolution: int | None,
    *,
    choices: Choices | None = None,
    known: Genomes | None = None,
) -> Region:
    """`find_region` as if no node could be spent: nothing is found but what is known."""
    region = Region(tables, constraints, resolution, max_resolution, choices)
    if known is not None:
        region.add_anchors(known)
    if not region.anchored.any():
        feasibility = Feasibility(tables, constraints, region.allowed, MAX_NODES)
        raise feasibility.refusal("of the space", False, *feasibility.nearest())
    return region


def test_a_stored_candidate_answers_where_the_search_for_one_was_cut_off(
    client: TestClient, context: Context, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = ask(client, supernet=supernet, max_flops=2e6).json()["best"]
    limits = {"max_flops": stored["flops"], "max_params": stored["params"]}
    monkeypatch.setattr("evolution.problem.find_region", cut_off)
    refused = ask(client, **limits)
    assert refused.status_code == 422
    assert refused.json()["proven"] is False
    answer = remembering(client, **limits)
    assert answer.status_code == 201
    best = answer.json()["best"]
    assert best["predicted_accuracy"] >= stored["predicted_accuracy"] - 1e-6  # rounding moves with the batch
    assert all(limit["value"] <= limit["max"] for limit in answer.json()["limits"])
    with context.database.reading() as session:
        question = load_question(session, context, session.get_one(Search, answer.json()["id"]))
    again = solve(make_problem(context, question), question)  # of the stored inputs alone
    assert again.problem.tables.space.decode(again.result.best).to_json() == best["arch"]
    assert remembering(client, max_flops=stored["flops"], max_params=1.0).status_code == 422


def test_a_warm_start_is_never_worse_and_is_an_input(
    client: TestClient, context: Context, device: str, tables: CostTables
) -> None:
    first = ask(client, max_flops=1.5e6, budget=3000).json()
    assert first["warm_starts"] == 0
    warm = remembering(client, max_flops=2e6, device=device, max_latency_ms=0.1, budget=20, seed=9).json()
    assert warm["best"]["predicted_accuracy"] >= first["best"]["predicted_accuracy"]
    with context.database.reading() as session:
        row = session.get_one(Search, warm["id"])
        question = load_question(session, context, row)
        kept = session.scalars(select(Candidate.genome).order_by(Candidate.id)).all()
    assert row.warm_start
    genomes = unpack(context.store.path(row.warm_start).read_bytes())["genomes"]
    assert len(genomes) == warm["warm_starts"] <= WARM_STARTS
    assert {genome.tobytes() for genome in genomes} <= set(kept)
    assert tables.space.encode(Architecture.from_json(first["best"]["arch"])).tolist() == genomes[0].tolist()
    again = solve(make_problem(context, question), question)  # of the stored inputs alone
    assert again.result.accuracy == warm["best"]["predicted_accuracy"]
    assert tables.space.decode(again.result.best).to_json() == warm["best"]["arch"]


def test_what_is_stored_and_outside_the_limits_starts_nothing(client: TestClient, supernet: str) -> None:
    assert ask(client, max_flops=2e6, resolution=16).json()["warm_starts"] == 0
    assert remembering(client, max_flops=2e6, resolution=8).json()["warm_starts"] == 0
    within = remembering(client, max_flops=1e6, resolution=16, budget=2).json()
    assert within["warm_starts"] > 0
    assert within["evaluations"] == 2
    assert within["best"]["flops"] <= 1e6


def test_an_answer_cut_short_by_seconds_is_not_repeated_from_storage(client: TestClient, supernet: str) -> None:
    body = {"max_flops": 1e6, "strategy": "evolution", "seconds": 1e-6}
    first, second = (client.post("/v1/searches", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["ended_by"] == second.json()["ended_by"] == "seconds"
    assert second.json()["answered_from"] is None
    accuracies = [answer.json()["best"]["predicted_accuracy"] for answer in (first, second)]
    assert accuracies[1] >= accuracies[0]


def test_the_same_request_is_answered_from_storage_and_says_so(
    client: TestClient, context: Context, device: str
) -> None:
    body: dict[str, Any] = {"device": device, "max_latency_ms": 0.05, "seed": 3}
    first = remembering(client, **body)
    assert first.status_code == 201
    assert first.json()["answered_from"] is None
    same = {"limits": [{"cost": "latency_ms", "device": device, "max": 0.05}], "seed": 3}
    for again in (remembering(client, **body), remembering(client, {"Prefer": "respond-async"}, **same)):
        assert again.status_code == 200
        assert again.headers["location"] == first.headers["location"]
        assert again.json() == {**first.json(), "answered_from": first.json()["id"]}
    assert count(context, Search) == 1
    assert client.get(first.headers["location"]).json() == first.json()
    for other in ({**body, "seed": 4}, {**body, "budget": 301}, {**body, "max_latency_ms": 0.051}):
        assert remembering(client, **other).status_code == 201
    assert count(context, Search) == 4


def test_another_version_of_a_model_is_another_question(
    client: TestClient, device: str, measurements: dict[str, Any]
) -> None:
    body: dict[str, Any] = {"device": device, "max_latency_ms": 0.05}
    assert remembering(client, **body).status_code == 201
    assert remembering(client, **body).status_code == 200
    slower = [{**network, "ms": 1.1 * network["ms"]} for network in measurements["networks"]]
    client.post(f"/v1/devices/{device}/measurements", json={**measurements, "networks": slower})
    again = remembering(client, **body)
    assert again.status_code == 201
    assert remembering(client, **body).json()["answered_from"] == again.json()["id"]


def test_without_memory_an_answer_comes_from_the_seed_alone(
    client: TestClient, context: Context, supernet: str
) -> None:
    first = ask(client, max_flops=2e6, budget=200)
    remembering(client, max_flops=2e6, budget=3000)
    second = ask(client, max_flops=2e6, budget=200)
    assert first.status_code == second.status_code == 201
    for field in ("best", "front", "evaluations", "answered_from", "warm_starts"):
        assert first.json()[field] == second.json()[field]
    assert count(context, Search) == 3


# Lists, keys, preferences.


def test_searches_are_listed_by_page_newest_first(client: TestClient, supernet: str) -> None:
    ids = [ask(client, max_flops=2e6, budget=50, seed=seed).json()["id"] for seed in range(5)]
    seen, cursor = [], None
    for _ in range(3):
        page = client.get("/v1/searches", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [search["id"] for search in page["items"]]
        cursor = page["next"]
    assert sorted(seen) == sorted(ids)
    assert seen == sorted(seen, reverse=True)
    assert cursor is None
    assert all("front" not in search and search["best"] for search in page["items"])


def test_bad_pages_are_refused(client: TestClient) -> None:
    assert client.get("/v1/searches", params={"limit": 0}).status_code == 422
    answer = client.get("/v1/searches", params={"cursor": "x"})
    assert answer.status_code == 422
    assert "`next` of an earlier page" in answer.json()["detail"]


def test_one_search_is_shown_as_it_was_answered(client: TestClient, device: str) -> None:
    answer = ask(client, device=device, max_latency_ms=0.05)
    assert client.get(answer.headers["location"]).json() == answer.json()
    for path in ("", "/front"):
        missing = client.get(f"/v1/searches/nothing{path}")
        assert missing.status_code == 404
        assert "'nothing'" in missing.json()["detail"]


def test_the_same_key_and_body_give_the_same_search(client: TestClient, context: Context, device: str) -> None:
    body = {"device": device, "max_latency_ms": 0.05}
    first, second = (ask(client, {"Idempotency-Key": "k1"}, **body) for _ in range(2))
    assert first.json() == second.json()
    assert count(context, Search) == 1
    other = ask(client, {"Idempotency-Key": "k1"}, **{**body, "seed": 5})
    assert other.status_code == 409
    assert first.json()["id"] in other.json()["detail"]


def test_the_same_key_at_the_same_time_makes_one_search(client: TestClient, context: Context, device: str) -> None:
    answers = []

    def send() -> None:
        answers.append(ask(client, {"Idempotency-Key": "k1"}, device=device, max_latency_ms=0.05))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(context, Search) == 1


def test_writers_at_the_same_time_all_succeed(client: TestClient, context: Context, device: str) -> None:
    statuses = []

    def send(seed: int) -> None:
        statuses.append(ask(client, device=device, max_latency_ms=0.05, seed=seed).status_code)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 8
    assert count(context, Search) == 8


def test_other_objectives_at_the_same_time_all_succeed(client: TestClient, context: Context, device: str) -> None:
    answers: list[tuple[int, str]] = []

    def send(first: int) -> None:
        for turn in range(4):
            objective = ("accuracy", "latency_ms", "flops", "params")[(first + turn) % 4]
            least: dict[str, Any] = {} if objective == "accuracy" else {"min_accuracy": 0.93}
            asked = ask(client, budget=200, device=device, max_latency_ms=0.09, objective=objective, **least)
            answers.append((asked.status_code, asked.text))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer for answer in answers if answer[0] != 201] == []
    assert count(context, Search) == 16


def test_rows_inserted_in_other_orders_do_not_wait_for_each_other(postgres_template: str) -> None:
    def rows(*names: str) -> list[dict[str, Any]]:
        return [{"name": name, "runtime": "r", "threads": 1, "batch_size": 1, "created_at": now()} for name in names]

    def insert() -> None:
        with database.writing() as other:
            insert_missing(other, Device, rows("z", "a"))
            done.append(True)

    done: list[bool] = []
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with empty_postgres(postgres_template) as url:
        database = Database(url)
        thread = threading.Thread(target=insert)
        with database.writing() as session:
            insert_missing(session, Device, rows("a"))
            thread.start()
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
                while not watcher.scalar(waiting):
                    time.sleep(0.01)
            insert_missing(session, Device, rows("z"))  # the other one waits for "a", and must not hold this
        thread.join()
        database.close()
    assert done == [True]


def test_a_long_search_or_one_that_may_take_its_time_becomes_a_job(client: TestClient, device: str) -> None:
    for headers, body in (({"Prefer": "respond-async"}, {}), ({}, {"budget": 25_001}), ({}, {"verify": True})):
        answer = ask(client, headers, device=device, max_latency_ms=0.05, **body)
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "1"
        search = client.get(answer.headers["location"]).json()
        assert search == answer.json()
        assert search["status"] == "queued"
        assert search["best"] is None
        assert search["front"] == []


def test_an_impossible_job_is_refused_at_once(client: TestClient, context: Context, device: str) -> None:
    assert ask(client, max_flops=10, verify=True).status_code == 422
    assert count(context, Search) == 0


def test_a_search_is_cancelled_once(client: TestClient, device: str) -> None:
    location = ask(client, device=device, max_latency_ms=0.05, verify=True).headers["location"]
    cancelled = client.post(f"{location}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    assert cancelled.json()["finished_at"]
    again = client.post(f"{location}/cancel")
    assert again.status_code == 409
    assert "is cancelled" in again.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], (False, None)),
        (["respond-async"], (True, None)),
        (["respond-async, wait=10"], (True, 10)),
        (["Wait=5", "Respond-Async"], (True, 5)),
        (['wait = "7"; strict, handling=lenient'], (False, 7)),
        (["wait=999999"], (False, 60)),
        (["wait=soon", "wait=-1, wait=1.5, wait", "handling=lenient", ",;"], (False, None)),
        (["handling=lenient; respond-async"], (False, None)),
    ],
)
def test_preferences_are_read_and_others_ignored(headers: list[str], expected: tuple[bool, int | None]) -> None:
    assert preferences(headers) == expected


def test_a_preference_that_was_followed_is_named(client: TestClient, supernet: str) -> None:
    def applied(*prefer: str) -> tuple[int, str | None]:
        headers = [("Prefer", one) for one in prefer]
        body = {"max_flops": 2e6, "budget": 50, "warm_start": False}
        answer = client.post("/v1/searches", json=body, headers=headers)
        return answer.status_code, answer.headers.get("preference-applied")

    assert applied() == (201, None)
    assert applied("wait=soon", "handling=lenient") == (201, None)
    assert applied("wait=30") == (201, None)  # nothing to wait for
    assert applied("respond-async") == (202, "respond-async")
    assert applied("respond-async", "wait=0") == (202, "respond-async, wait=0")


def test_an_empty_idempotency_key_is_refused(client: TestClient, context: Context, supernet: str) -> None:
    for _ in range(2):
        answer = ask(client, {"Idempotency-Key": ""}, max_flops=2e6)
        assert answer.status_code == 422
        assert "idempotency-key" in answer.json()["detail"]
    assert count(context, Search) == 0


# Evaluations, and their deprecated name.


def test_evaluations_and_budget_its_deprecated_name_are_the_same_question(client: TestClient, supernet: str) -> None:
    body = {"max_flops": 2e6, "seed": 5}
    first = client.post("/v1/searches", json={**body, "evaluations": 50})
    assert first.status_code == 201
    assert first.json()["evaluations"] <= 50
    for names in ({"budget": 50}, {"budget": 50, "evaluations": 50}):
        assert client.post("/v1/searches", json={**body, **names}).json()["answered_from"] == first.json()["id"]
    refused = client.post("/v1/searches", json={**body, "budget": 50, "evaluations": 60})
    assert refused.status_code == 422
    assert "evaluations is 60 and budget, its deprecated name, is 50" in refused.json()["detail"]


# The same search without a server.


@pytest.mark.parametrize(
    ("limits", "body", "options"),
    [
        ({"flops": 2e6}, {"max_flops": 2e6}, {}),
        ({"latency_ms": 0.05}, {"device": "board", "max_latency_ms": 0.05}, {"device": "FILE"}),
        (
            {},
            {"objective": "flops", "min_accuracy": 0.95},
            {"minimise": "flops", "min_accuracy": 0.95},
        ),
    ],
)
def test_an_answer_without_a_server_has_the_same_shape_and_values(
    client: TestClient,
    device: str,
    bundle_path: Path,
    measurements: dict[str, Any],
    tmp_path: Path,
    limits: dict[str, float],
    body: dict[str, Any],
    options: dict[str, Any],
) -> None:
    file = tmp_path / f"{device}.json"
    file.write_text(json.dumps(measurements))
    options = {name: str(file) if value == "FILE" else value for name, value in options.items()}
    offline = search_bundle(Bundle.open(bundle_path), limits, evaluations=300, seed=2, **options)
    online = ask(client, **body, budget=300, seed=2).json()
    for name in ("latency_models", "elapsed_ms"):  # a file instead of a model's id; another run
        offline.pop(name)
    best, front = offline.pop("best"), offline.pop("front")
    ids = {}
    for shown, candidate in zip([best, *front], [online["best"], *online["front"]], strict=True):
        ids[shown["id"]] = candidate["id"]
        assert shown.pop("id") != candidate["id"]  # of the architecture, not of the candidate
        accuracy = shown.pop("predicted_accuracy")
        assert accuracy == pytest.approx(candidate["predicted_accuracy"], abs=1e-9)  # rounding moves with the batch
        assert shown == {name: candidate[name] for name in shown}
    fronts = offline.pop("device_fronts")
    assert {name: [ids[one] for one in members] for name, members in fronts.items()} == online["device_fronts"]
    assert offline == {name: online[name] for name in offline}
