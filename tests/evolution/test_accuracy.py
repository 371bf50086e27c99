"""The accuracy predictor against known functions, and in files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolution.predictors.accuracy import AccuracyPredictor, ranking_warning
from evolution.predictors.features import one_hot
from evolution.predictors.fitting import Kind
from evolution.predictors.link import Link
from supernet.families import preset
from tests.support.pairs import SPACE, additive, saturated
from tests.support.predictors import network


def test_ridge_recovers_an_additive_truth() -> None:
    rng = np.random.default_rng(1)
    genomes = SPACE.sample(rng, 300)
    truth = additive(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, saturated(truth, rng), truth, rng, "ridge")
    fresh = SPACE.sample(rng, 1000)
    assert predictor.score(fresh) == pytest.approx(additive(fresh), abs=2e-3)
    assert predictor.card["kendall_tau"] > 0.98
    assert predictor.card["kendall_tau_accuracy"] < 0.9  # counts on 500 images are coarse, which is what the card says
    assert predictor.card["target"] == "log_likelihood"
    assert predictor.card["pairs"] == 300
    assert predictor.card["validation"] == "5-fold cross-validation"
    expected = 1 / (1 + np.exp(-4 - 10 * (additive(fresh) + 0.2)))
    assert predictor.predict(fresh) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "kernel"])
@pytest.mark.parametrize("level", [0.0, 0.5, 0.99, 1.0])
def test_predictions_are_fractions_that_keep_the_ranking_even_where_accuracy_is_saturated(
    level: float, kind: Kind
) -> None:
    rng = np.random.default_rng(4)
    genomes = SPACE.sample(rng, 60)
    truth = additive(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, np.full(60, level), truth, rng, kind)
    fresh = SPACE.sample(rng, 500)
    score, predicted = predictor.score(fresh), predictor.predict(fresh)
    assert ((predicted >= 0) & (predicted <= 1)).all()
    order = np.argsort(score)
    assert (np.diff(predicted[order])[np.diff(score[order]) > 1e-9] > 0).all()
    assert predicted == pytest.approx(level, abs=0.01)


def predictor(kind: Kind = "ridge") -> AccuracyPredictor:
    rng = np.random.default_rng(6)
    genomes = SPACE.sample(rng, 80)
    truth = additive(genomes)
    return AccuracyPredictor.fit(SPACE, genomes, saturated(truth, rng), truth, rng, kind)


def test_the_score_of_ridge_is_a_sum_over_choices_and_that_of_more_layers_is_not() -> None:
    genomes = SPACE.sample(np.random.default_rng(7), 100)
    fitted = predictor()
    assert fitted.additive is not None
    weights, bias = fitted.additive
    assert one_hot(SPACE, genomes) @ weights + bias == pytest.approx(fitted.score(genomes), abs=1e-5)
    assert network(SPACE, 0).additive is None


@pytest.mark.parametrize("kind", ["ridge", "kernel"])
def test_it_survives_a_file_and_refuses_another_space(tmp_path: Path, kind: Kind) -> None:
    saved = predictor(kind)
    (tmp_path / "predictor.npz").write_bytes(saved.to_bytes())
    loaded = AccuracyPredictor.load(tmp_path / "predictor.npz", SPACE)
    genomes = SPACE.sample(np.random.default_rng(7), 100)
    assert (loaded.predict(genomes) == saved.predict(genomes)).all()
    assert (loaded.predict_std(genomes) == saved.predict_std(genomes)).all()  # type: ignore[union-attr]
    assert loaded.card == saved.card
    assert saved.to_bytes() == loaded.to_bytes()
    with pytest.raises(ValueError, match="is the predictor of space"):
        AccuracyPredictor.load(tmp_path / "predictor.npz", preset("mbv3-digits", classes=7))


def test_a_file_of_before_still_loads_and_knows_no_deviation(tmp_path: Path) -> None:
    """It holds layers and a link; its card had no comparison."""
    fitted = predictor()
    weights, bias = fitted.additive  # type: ignore[misc]
    meta = {"space": SPACE.hash, "link": [2.0, -0.5], "card": {"kind": "ridge", "pairs": 80}}
    arrays = {"w0": weights[:, None].astype(np.float32), "b0": np.array([bias], np.float32)}
    np.savez(tmp_path / "predictor.npz", allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)
    loaded = AccuracyPredictor.load(tmp_path / "predictor.npz", SPACE)
    genomes = SPACE.sample(np.random.default_rng(7), 100)
    assert (loaded.score(genomes) == fitted.score(genomes)).all()
    assert (loaded.predict(genomes) == Link(2.0, -0.5)(fitted.score(genomes))).all()
    assert loaded.predict_std(genomes) is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "predictor.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictor\.npz is not an accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "predictor.npz", SPACE)


def test_a_cut_file_is_refused_by_name(tmp_path: Path) -> None:
    whole = predictor().to_bytes()
    (tmp_path / "predictor.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not an accuracy predictor"):
        AccuracyPredictor.load(tmp_path / "predictor.npz", SPACE)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"rmse": 0.01, "kendall_tau": 0.9, "near_front": {"kendall_tau": 0.5}}, None),
        ({"rmse": None, "kendall_tau": None}, None),  # published without an error
        ({}, None),
        ({"rmse": 0.01, "kendall_tau": 0.5}, "0.50 over all, below 0.6"),
        ({"rmse": 0.01, "kendall_tau": 0.9, "near_front": {"kendall_tau": 0.2}}, "0.20 near the front, below 0.3"),
        ({"rmse": 0.01, "kendall_tau": None}, "it predicts the same for all"),
    ],
)
def test_a_poor_ranking_is_told(card: dict[str, Any], said: str | None) -> None:
    warning = ranking_warning(card)
    assert warning is None if said is None else said in (warning or "")
