"""Searches that measure subnets on held-out images instead of predicting their accuracy."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

import supple
from evolution.search import STRATEGIES
from service.bundles.search import search_bundle
from service.candidates import queries as candidates
from service.context import Context
from service.pages.show import GAP
from service.searches import job
from service.searches.inherited import check_measurable, measure_subnets
from service.searches.job import run_search
from service.storage.store import unpack
from service.storage.tables import Search, SearchState, Supernet, Verification
from service.supernets.register import register_supernet
from supernet.bundle import Bundle
from supernet.evaluation.evaluate import Evaluator
from supernet.evaluation.metrics import METRICS
from supernet.space import Architecture
from tests.support.command_line import Run, refused
from tests.support.worker import Steps, count, shown

BODY: dict[str, Any] = {"evaluate": "inherited", "evaluations": 12, "max_flops": 1_000_000}


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle_path, tmp_path / "copy"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The resolutions of the subnets that were scored, in order."""
    seen, evaluate = [], Evaluator.evaluate

    def counted(self: Evaluator, network: Any, resolution: int) -> Any:
        seen.append(resolution)
        return evaluate(self, network, resolution)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    return seen


def post(client: TestClient, **body: Any) -> Any:
    """The response to a request that ignores what is stored as answers."""
    return client.post("/v1/searches", json={"warm_start": False, **body})


def create(client: TestClient, **body: Any) -> str:
    """The id of a search that waits for a worker."""
    answer = post(client, **body)
    assert answer.status_code == 202
    return str(answer.json()["id"])


def scores_of(bundle: Bundle, arch: dict[str, Any]) -> Any:
    """What a subnet scores when it is measured once more."""
    genome = bundle.space.encode(Architecture.from_json(arch))[None]
    ((_, scored),) = measure_subnets(bundle.evaluator(), bundle.space, genome)
    return scored


# Without a server.


@pytest.mark.parametrize("metric", METRICS)
def test_the_answer_is_the_best_of_what_was_measured(bundle: Bundle, metric: Any) -> None:
    answer = search_bundle(bundle, {"flops": 1e6}, evaluations=10, evaluate="inherited", metric=metric)
    best, lines = answer["best"], bundle.path.with_name("copy.pairs.jsonl").read_text().splitlines()
    assert answer["evaluations"] == len(lines) == 10
    assert best["inherited"][metric] == max(json.loads(line)[metric] for line in lines)
    assert best["flops"] <= 1e6
    assert all(member["inherited"]["images"] == 50 for member in answer["front"])
    scored = scores_of(bundle, best["arch"])
    assert best["inherited"] == {name: getattr(scored, name) for name in (*METRICS, "images")}
    assert best["verified_accuracy"] == scored.accuracy
    assert best["predicted_accuracy"] != scored.accuracy
    assert (answer["request"]["evaluate"], answer["request"]["metric"]) == ("inherited", metric)
    assert answer["predictor_warning"] is None


def test_the_same_seed_gives_the_same_answer_and_nothing_is_measured_twice(bundle: Bundle, measured: list[int]) -> None:
    def search(seed: int) -> Any:
        answer = supple.search(bundle, {"flops": 1e6}, evaluations=10, evaluate="inherited", seed=seed)
        return {name: value for name, value in answer.items() if name != "elapsed_ms"}

    first = search(3)
    assert len(measured) == 10
    assert search(3) == first
    assert len(measured) == 10
    bundle.path.with_name("copy.pairs.jsonl").unlink()
    assert search(3) == first
    assert len(measured) == 20
    assert search(4)["front"] != first["front"]


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"exact"}))
def test_every_strategy_but_exact_can_measure(
    client: TestClient, context: Context, supernet: str, strategy: str, measured: list[int]
) -> None:
    search_id = create(client, **BODY, strategy=strategy)
    run_search(context, Steps(), search_id)
    search = shown(client, search_id)
    assert search["status"] == "done"
    assert search["evaluations"] == len(measured) == 12


def test_scores_of_an_earlier_release_are_measured_again_where_they_lack_the_metric(
    bundle: Bundle, measured: list[int]
) -> None:
    def search(metric: Any) -> Any:
        return search_bundle(bundle, {"flops": 1e6}, evaluations=5, evaluate="inherited", metric=metric)

    search("accuracy")
    pairs = bundle.path.with_name("copy.pairs.jsonl")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    older = [{name: line[name] for name in ("of", "genome", "accuracy", "log_likelihood", "images")} for line in lines]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in older))
    search("accuracy")
    assert len(measured) == 5
    assert search("f1_macro")["best"]["inherited"]["f1_macro"] is not None
    assert len(measured) == 10


def test_the_command_shows_the_score_and_refuses_what_does_not_go_together(bundle: Bundle, run: Run) -> None:
    command = ("search", str(bundle.path), "--max-flops", "1M", "--evaluations", "6", "--evaluate", "inherited")
    ran = run(*command, "--metric", "log_likelihood")
    assert ran.code == 0
    assert "inherited log likelihood" in ran.stdout
    assert "on 50 held-out images" in ran.stdout
    assert "6 architectures scored on held-out images" in ran.stdout
    refused(run("search", str(bundle.path), "--metric", "top5"), 2, "set --evaluate to 'inherited'")
    both = (*command, "--metric", "f1_macro", "--minimise", "flops", "--min-accuracy", "0.1")
    refused(run(*both), 2, "--min-accuracy is on accuracy")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("holdout.npz", "no held-out images"),
        ("calibration.npz", "no calibration images"),
        ("weights.safetensors", "no weights"),
    ],
)
def test_a_bundle_that_lacks_what_measuring_needs_is_refused(
    bundle: Bundle, context: Context, client: TestClient, file: str, words: str
) -> None:
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][file]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"{words}; search it by prediction"):
        search_bundle(Bundle.open(bundle.path), {}, evaluate="inherited")
    with context.database.writing() as session:
        register_supernet(session, context.store, bundle.path)
    answer = post(client, **BODY)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_top5_needs_more_than_five_classes() -> None:
    files = {"weights.safetensors": "", "calibration.npz": "", "holdout.npz": ""}
    manifest = {"name": "fruit", "files": files, "classes": ["apple", "pear", "plum", "fig", "lime"]}
    with pytest.raises(ValueError, match="always 1 with the 5 classes of the bundle fruit"):
        check_measurable(manifest, "top5")
    check_measurable({**manifest, "classes": [*manifest["classes"], "kiwi"]}, "top5")


# With a server.


def test_a_job_measures_and_stores_every_score(client: TestClient, context: Context, supernet: str) -> None:
    asked = client.post("/v1/searches", json={**BODY, "metric": "log_likelihood"})
    assert asked.status_code == 202
    search_id = asked.json()["id"]
    run_search(context, Steps(), search_id)
    search = shown(client, search_id)
    best = search["best"]
    assert (search["status"], search["evaluations"], search["progress"]) == ("done", 12, None)
    assert (search["request"]["evaluate"], search["request"]["metric"]) == ("inherited", "log_likelihood")
    assert best["verified_accuracy"] == best["inherited"]["accuracy"]
    assert best["predicted_accuracy"] != best["verified_accuracy"]
    with context.database.reading() as session:
        scored = candidates.evaluations(session, session.get_one(Supernet, supernet))
        evaluated = unpack(context.store.path(session.get_one(Search, search_id).evaluated or "").read_bytes())
    assert best["inherited"]["log_likelihood"] == max(scores.log_likelihood for scores in scored.values())
    by_genome = [scored[genome.tobytes()].log_likelihood for genome in evaluated["genomes"]]
    assert evaluated["inherited_log_likelihood"] == pytest.approx(by_genome, rel=1e-12)
    assert "predicted_accuracy" not in evaluated
    again = client.post("/v1/searches", json={**BODY, "metric": "log_likelihood"})
    assert (again.status_code, again.json()["answered_from"]) == (200, search_id)


def test_a_killed_worker_loses_at_most_the_subnet_it_was_measuring(
    client: TestClient, context: Context, supernet: str, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two searches of the same question: the first one is killed in the middle, the second finds all scores stored."""
    monkeypatch.setattr(job, "SAVE_SECONDS", 0.0)
    body = {**BODY, "evaluations": 20, "strategy": "reinforce"}
    search_id = create(client, **body)
    evaluate = Evaluator.evaluate

    def killed(self: Evaluator, network: Any, resolution: int) -> Any:
        if len(measured) == 14:
            raise SystemExit
        return evaluate(self, network, resolution)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", killed)
        with pytest.raises(SystemExit):
            run_search(context, Steps(), search_id)
    progress = shown(client, search_id)["progress"]
    assert progress["evaluations"] == count(context, Verification) == 14
    assert 0 < progress["best_inherited"] <= 1
    assert progress["budget"] == 20
    assert count(context, SearchState) == 1
    run_search(context, Steps(), search_id)
    assert len(measured) == count(context, Verification) == 20
    resumed = shown(client, search_id)
    assert resumed["status"] == "done"
    again = create(client, **body)
    run_search(context, Steps(), again)
    assert len(measured) == 20
    for field in ("best", "front", "evaluations"):
        assert shown(client, again)[field] == resumed[field]


def test_a_cancelled_search_stops_after_the_subnet_it_measures(
    client: TestClient, context: Context, supernet: str, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SAVE_SECONDS", 0.0)
    search_id = create(client, **BODY)
    evaluate = Evaluator.evaluate

    def cancelled(self: Evaluator, network: Any, resolution: int) -> Any:
        if len(measured) == 4:
            assert client.post(f"/v1/searches/{search_id}/cancel").status_code == 200
        return evaluate(self, network, resolution)

    monkeypatch.setattr(Evaluator, "evaluate", cancelled)
    run_search(context, Steps(), search_id)
    assert shown(client, search_id)["status"] == "cancelled"
    assert len(measured) == 5


def test_a_search_starts_from_the_best_that_was_measured(client: TestClient, context: Context, supernet: str) -> None:
    first = create(client, **BODY)
    run_search(context, Steps(), first)
    answer = client.post("/v1/searches", json={**BODY, "max_flops": 2e6, "evaluations": 13})
    assert answer.json()["warm_starts"] == 12
    run_search(context, Steps(), answer.json()["id"])
    best = {key: shown(client, key)["best"]["inherited"]["accuracy"] for key in (first, answer.json()["id"])}
    assert best[answer.json()["id"]] >= best[first]


def test_a_verification_of_an_earlier_release_gets_the_scores_that_it_lacks(
    client: TestClient, context: Context, supernet: str, measured: list[int]
) -> None:
    search_id = create(client, **BODY)
    run_search(context, Steps(), search_id)
    with context.database.writing() as session:
        session.execute(update(Verification).values(top5=None, f1_macro=None))
    assert shown(client, search_id)["best"]["inherited"]["f1_macro"] is None
    search_id = create(client, **BODY, metric="f1_macro")
    run_search(context, Steps(), search_id)
    assert len(measured) > 12
    assert shown(client, search_id)["best"]["inherited"]["f1_macro"] is not None


def test_the_winner_of_a_verified_search_is_the_best_by_its_metric(
    client: TestClient, context: Context, supernet: str
) -> None:
    search_id = create(client, **BODY, metric="f1_macro", verify=True)
    run_search(context, Steps(), search_id)
    search = shown(client, search_id)
    with context.database.reading() as session:
        scored = candidates.evaluations(session, session.get_one(Supernet, supernet))
    assert search["status"] == "done"
    assert search["best"]["inherited"]["f1_macro"] == max(scores.f1_macro or 0.0 for scores in scored.values())
    assert client.get(search["best"]["onnx"]).status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"metric": "top5"}, "the predictor predicts accuracy"),
        ({"evaluate": "inherited", "strategy": "exact"}, "proves its answer for the predictor"),
        (
            {"evaluate": "inherited", "metric": "top5", "objective": "flops", "min_accuracy": 0.5},
            "leave one of them out",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(
    client: TestClient, supernet: str, body: dict[str, Any], words: str
) -> None:
    answer = post(client, **body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_a_request_of_before_is_stored_as_it_was(client: TestClient, supernet: str) -> None:
    assert not {"evaluate", "metric"} & set(post(client, max_flops=1e6).json()["request"])


@pytest.mark.parametrize(
    ("metric", "label", "form"), [("accuracy", "Accuracy", "{:.2%}"), ("log_likelihood", "Log-likelihood", "{:.4f}")]
)
def test_the_page_shows_the_score_and_calls_it_inherited(
    client: TestClient, context: Context, supernet: str, metric: Any, label: str, form: str
) -> None:
    search_id = create(client, **BODY, metric=metric)
    waiting = client.get(f"/searches/{search_id}").text
    assert "Waiting for a worker" in waiting
    run_search(context, Steps(), search_id)
    score = form.format(shown(client, search_id)["best"]["inherited"][metric]).replace("%", f"{GAP}%")
    page = re.sub(r"[ \n]+", " ", client.get(f"/searches/{search_id}").text)
    assert f"<title>{score} · Supple" in page
    assert f'<h2>{label}</h2> <p class="big">{score}</p> <p class="kind">inherited</p>' in page
    assert "12 architectures measured in" in page
    chart = json.loads(re.findall(r'id="front-data">(.*?)</script>', page)[0])
    assert (chart["ranked"], chart["quality"]) == ("inherited", label)
    assert {point["id"]: point["inherited"] for point in chart["points"]} == {
        member["id"]: member["inherited"][metric] for member in shown(client, search_id)["front"]
    }
