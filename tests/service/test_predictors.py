"""Verified candidates are pairs: when enough have come together, a job fits the accuracy predictor again."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from evolution.predictors.pairs import MeasuredPairs
from evolution.predictors.refit import Refit
from service.bundles.fit import fit_bundle, refit_bundle
from service.bundles.search import search_bundle
from service.context import Context
from service.predictors import refit
from service.predictors.job import run_refit
from service.searches.job import run_search
from service.storage.tables import AccuracyPrediction, Candidate, PredictorRefit, Supernet
from service.supernets.register import register_supernet
from supernet.bundle import Bundle
from supernet.bundle_writing import with_predictor
from tests.support.command_line import Run, refused
from tests.support.worker import Steps, count, shown

BODY: dict[str, Any] = {"evaluate": "inherited", "evaluations": 12, "max_flops": 1_000_000, "warm_start": False}


@pytest.fixture(scope="module")
def fitted_path(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose predictor was fitted on its own pairs, 20 of them."""
    path = shutil.copytree(bundle_path, tmp_path_factory.mktemp("fitted") / "bundle")
    fit_bundle(Bundle.open(path), subnets=20, kind="ridge", seed=0)
    path.with_name("bundle.pairs.jsonl").unlink()
    return path


@pytest.fixture
def bundle(fitted_path: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(fitted_path, tmp_path / "bundle"))


@pytest.fixture
def fitted(context: Context, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its supernet, where 10 verified candidates make a refit due."""
    monkeypatch.setattr(refit, "LEAST_NEW", 10)
    with context.database.writing() as session:
        return register_supernet(session, context.store, bundle.path).id


def predictors(client: TestClient, supernet: str) -> Any:
    return client.get(f"/v1/supernets/{supernet}/predictors").json()


def verify_some(client: TestClient, context: Context, supernet: str) -> Any:
    """A search that measures 12 subnets."""
    search_id = client.post("/v1/searches", json={**BODY, "supernet": supernet}).json()["id"]
    run_search(context, Steps(), search_id)
    return shown(client, search_id)


def only_refit(context: Context) -> str:
    with context.database.reading() as session:
        (row,) = session.query(PredictorRefit).all()
        return row.id


def test_a_better_predictor_answers_from_then_on(
    client: TestClient, context: Context, fitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that began before keeps its version; all stored candidates are predicted again."""
    ask = {"supernet": fitted, "max_flops": 1_000_000}
    before = client.post("/v1/searches", json=ask).json()
    old = before["predictor"]
    assert client.post("/v1/searches", json=ask).json()["answered_from"] == before["id"]
    body = {"supernet": fitted, "max_flops": 900_000, "warm_start": False}
    waiting = client.post("/v1/searches", json=body, headers={"Prefer": "respond-async"}).json()["id"]
    verify_some(client, context, fitted)
    known = predictors(client, fitted)
    assert (known["pairs"], known["refit_at"], known["refits"][0]["status"]) == (20, 10, "queued")
    assert 10 <= known["verified_since"] <= 12
    monkeypatch.setattr(Refit, "is_kept", True)
    run_refit(context, Steps(), only_refit(context))

    known = predictors(client, fitted)
    done, (new, bundled) = known["refits"][0], known["versions"]
    assert (done["status"], done["old_version"], done["new_version"]) == ("done", old, new["version"])
    assert done["old_errors"]["pairs"] == done["new_errors"]["pairs"] > 0
    assert (new["origin"], new["in_use"], new["card"]["pairs"]) == ("refit", True, 20 + done["new_pairs"])
    assert (bundled["version"], bundled["origin"], bundled["in_use"]) == (old, "bundle", False)
    assert (known["pairs"], known["verified_since"]) == (20 + done["new_pairs"], 0)

    after = client.post("/v1/searches", json=ask).json()
    assert (after["predictor"], after["answered_from"]) == (new["version"], None)
    run_search(context, Steps(), waiting)
    for search_id in (before["id"], waiting):
        search = shown(client, search_id)
        assert (search["status"], search["predictor"]) == ("done", old)
        assert search["best"]["predicted_accuracy"] is not None
    assert shown(client, before["id"])["best"]["predicted_accuracy"] == before["best"]["predicted_accuracy"]

    with context.database.reading() as session:
        rows = session.query(AccuracyPrediction).filter_by(predictor_version=new["version"]).all()
        predicted = {row.candidate_id: row.predicted_accuracy for row in rows}
        genomes = {row.id: np.frombuffer(row.genome, np.int8) for row in session.query(Candidate)}
        predictor = context.predictor(session.get_one(Supernet, fitted))
    assert predicted == dict(zip(genomes, predictor.predict(np.stack([*genomes.values()])).tolist(), strict=True))
    front = client.get(f"/v1/fronts?supernet={fitted}&x=flops").json()
    assert (front["predictor"], front["candidates"]) == (new["version"], len(genomes))
    page = re.sub(r"\s+", " ", client.get(f"/fronts?supernet={fitted}").text)
    assert f"predictor {new['version']}, fitted on {known['pairs']} pairs; 0 networks verified since" in page


def test_a_worse_predictor_is_not_used_and_not_tried_again_at_once(
    client: TestClient, context: Context, fitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_some(client, context, fitted)
    monkeypatch.setattr(Refit, "is_kept", False)
    run_refit(context, Steps(), only_refit(context))
    known = predictors(client, fitted)
    (done,), (version,) = known["refits"], known["versions"]
    assert (done["status"], done["new_version"]) == ("done", None)
    assert done["old_errors"] is not None
    assert done["new_errors"] is not None
    assert version["in_use"]
    assert known["verified_since"] == 0
    verify_some(client, context, fitted)  # the same subnets, which are stored
    assert count(context, PredictorRefit) == 1
    refusal = client.post(f"/v1/supernets/{fitted}/refit")
    assert refusal.status_code == 409
    assert "no candidate of supernet" in refusal.json()["detail"]


def test_a_refit_can_be_requested_once_at_a_time(
    client: TestClient, context: Context, fitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "LEAST_NEW", 1_000)
    verify_some(client, context, fitted)
    assert count(context, PredictorRefit) == 0
    first, second = (client.post(f"/v1/supernets/{fitted}/refit") for _ in range(2))
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    assert second.json()["id"] == first.json()["id"]
    assert client.post("/v1/supernets/none/refit").status_code == 404


def test_a_killed_worker_leaves_nothing_half_written(
    client: TestClient, context: Context, fitted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_some(client, context, fitted)
    steps, refit_id = Steps(), only_refit(context)
    steps.die_at = "refit"
    with pytest.raises(SystemExit):
        run_refit(context, steps, refit_id)
    assert predictors(client, fitted)["refits"][0]["status"] == "running"
    monkeypatch.setattr(Refit, "is_kept", True)
    run_refit(context, Steps(), refit_id)
    known = predictors(client, fitted)
    assert len(known["versions"]) == 2
    run_refit(context, Steps(), refit_id)  # the worker died after it had written, before its step was recorded
    assert predictors(client, fitted) == known


def test_pairs_of_other_images_are_told_apart(context: Context, client: TestClient, bundle: Bundle) -> None:
    assert bundle.pairs_path is not None
    assert bundle.predictor_path is not None
    pairs = MeasuredPairs.load(bundle.pairs_path, bundle.space)
    others = MeasuredPairs(pairs.space, pairs.genomes, pairs.accuracy, pairs.log_likelihood - 0.1)
    bundle = with_predictor(bundle, bundle.predictor_path.read_bytes(), others.to_bytes(), bundle.report)
    with context.database.writing() as session:
        supernet = register_supernet(session, context.store, bundle.path).id
    verify_some(client, context, supernet)
    refit_id = client.post(f"/v1/supernets/{supernet}/refit").json()["id"]
    with pytest.raises(Exception, match="do not compare with what is measured here"):
        run_refit(context, Steps(), refit_id)
    (failed,) = predictors(client, supernet)["refits"]
    assert failed["status"] == "failed"
    assert "supple fit" in failed["problem"]["detail"]


def test_a_bundle_without_pairs_says_so(client: TestClient, context: Context, supernet: str) -> None:
    verify_some(client, context, supernet)
    known = predictors(client, supernet)
    assert count(context, PredictorRefit) == 0
    assert "lacks the pairs that its accuracy predictor was fitted on" in known["reason"]
    assert (known["pairs"], known["refit_at"]) == (None, None)
    assert client.post(f"/v1/supernets/{supernet}/refit").status_code == 422


@pytest.mark.parametrize(("kept", "words"), [(True, "the new predictor is kept"), (False, "the old one stays")])
def test_the_command_does_the_same_for_a_bundle(
    bundle: Bundle, kept: bool, words: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(run("fit", str(bundle.path), "--refit"), 2, "nothing was measured since the predictor")
    search_bundle(bundle, {"flops": 1e6}, evaluations=12, evaluate="inherited")
    monkeypatch.setattr(Refit, "is_kept", kept)
    ran = run("fit", str(bundle.path), "--refit")
    assert ran.code == 0
    assert words in ran.stdout
    after = Bundle.open(bundle.path)
    assert (after.hash != bundle.hash) == kept
    assert after.pairs_path is not None
    assert (len(MeasuredPairs.load(after.pairs_path, after.space)) > 20) == kept


def test_the_command_needs_pairs(bundle_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks the pairs"):
        refit_bundle(Bundle.open(bundle_path), seed=0)
