"""The accuracy predictor against closed forms and known functions."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors import accuracy as module
from evolution.predictors.accuracy import AccuracyPredictor, Link, _Pairs, learning_curve, one_hot, ranking_warning
from evolution.predictors.validation import kendall_tau
from supernet.families import preset
from supernet.space import Architecture, Genomes

SPACE = preset("mbv3-digits")
KINDS: tuple[module.Kind, ...] = ("ridge", "mlp", "mlp")


def additive(genomes: Genomes, seed: int = 0) -> Floats:
    """A log-likelihood that is a sum of one effect per choice of each living gene."""
    features = one_hot(SPACE, genomes)
    effects = np.random.default_rng(seed).normal(0, 0.02, features.shape[1])
    return np.asarray(features @ effects - 0.2, np.float64)


def saturated(log_likelihood: Floats, rng: np.random.Generator) -> Floats:
    """Accuracies that grow with the log-likelihood and hardly differ, counted on 500 images."""
    return rng.binomial(500, 1 / (1 + np.exp(-4 - 10 * (log_likelihood + 0.2)))) / 500


def test_features_are_one_hot_and_zero_for_dropped_blocks() -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 100)
    features = one_hot(SPACE, genomes)
    assert features.sum(1).tolist() == SPACE.alive(genomes).sum(1).tolist()
    starts = np.cumsum(SPACE.num_choices) - SPACE.num_choices
    for genome, row in zip(genomes[:10], features[:10], strict=True):
        for gene, alive in enumerate(SPACE.alive(genome)):
            expected = np.zeros(SPACE.num_choices[gene])
            expected[genome[gene]] = alive
            assert row[starts[gene] :][: len(expected)].tolist() == expected.tolist()


def test_ridge_recovers_an_additive_truth() -> None:
    rng = np.random.default_rng(1)
    genomes = SPACE.sample(rng, 300)
    truth = additive(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, saturated(truth, rng), truth, rng)
    fresh = SPACE.sample(rng, 1000)
    assert predictor.score(fresh) == pytest.approx(additive(fresh), abs=2e-3)
    assert predictor.card["kendall_tau"] > 0.98
    assert predictor.card["kendall_tau_accuracy"] < 0.9  # counts on 500 images are coarse, which is what the card says
    assert predictor.card["target"] == "log_likelihood"
    assert predictor.card["pairs"] == 300
    assert predictor.card["validation"] == "5-fold cross-validation"
    expected = 1 / (1 + np.exp(-4 - 10 * (additive(fresh) + 0.2)))
    assert predictor.predict(fresh) == pytest.approx(expected, abs=0.01)


def test_the_penalty_has_the_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(2)
    x = one_hot(SPACE, SPACE.sample(rng, 40)).astype(np.float64)
    y = x @ rng.normal(0, 1, x.shape[1]) + rng.normal(0, 1, 40)

    def solve(rows: Any, penalty: float) -> tuple[Floats, float]:
        centre, mean = x[rows].mean(0), y[rows].mean()
        gram = (x[rows] - centre).T @ (x[rows] - centre) + penalty * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, (x[rows] - centre).T @ (y[rows] - mean))
        return weight, float(mean - centre @ weight)

    def left_out(penalty: float) -> float:
        errors = []
        for i in range(40):
            weight, bias = solve(np.delete(np.arange(40), i), penalty)
            errors.append((x[i] @ weight + bias - y[i]) ** 2)
        return float(np.mean(errors))

    best = min(module.PENALTIES, key=left_out)
    weight, bias = solve(np.arange(40), best)
    ((fitted_weight, fitted_bias),) = module._ridge(x.astype(np.float32), y)
    assert fitted_weight[:, 0] == pytest.approx(weight, abs=1e-4)
    assert fitted_bias[0] == pytest.approx(bias, abs=1e-4)


def test_the_card_states_the_error_on_pairs_the_fit_did_not_see() -> None:
    rng = np.random.default_rng(3)
    genomes, fresh = SPACE.sample(rng, 200), SPACE.sample(rng, 2000)
    noisy = additive(genomes) + rng.normal(0, 0.03, 200)
    accuracy = 1 / (1 + np.exp(-noisy))
    predictor = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, rng)
    unseen = 1 / (1 + np.exp(-(additive(fresh) + rng.normal(0, 0.03, 2000))))
    rmse = np.sqrt(np.mean((predictor.predict(fresh) - unseen) ** 2))
    assert predictor.card["rmse"] == pytest.approx(rmse, rel=0.2)
    assert predictor.card["kendall_tau"] == pytest.approx(kendall_tau(predictor.predict(fresh), unseen), abs=0.1)
    assert predictor.card["target"] == "accuracy"


@pytest.mark.parametrize("level", [0.0, 0.5, 0.99, 1.0])
def test_predictions_are_fractions_that_keep_the_ranking_even_where_accuracy_is_saturated(level: float) -> None:
    rng = np.random.default_rng(4)
    genomes = SPACE.sample(rng, 60)
    truth = additive(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, np.full(60, level), truth, rng)
    fresh = SPACE.sample(rng, 500)
    score, predicted = predictor.score(fresh), predictor.predict(fresh)
    assert ((predicted >= 0) & (predicted <= 1)).all()
    order = np.argsort(score)
    assert (np.diff(predicted[order])[np.diff(score[order]) > 1e-9] > 0).all()
    assert predicted == pytest.approx(level, abs=0.01)


def test_the_link_increases_even_against_the_data() -> None:
    scores = np.linspace(-3, 3, 50)
    against = Link.fit(scores, 1 / (1 + np.exp(scores)))
    assert against.slope > 0
    along = Link.fit(scores, 1 / (1 + np.exp(-(2 * scores - 1))))
    assert (along.slope, along.intercept) == pytest.approx((2, -1), abs=1e-3)
    assert Link(1, 0)(np.array([-1e6, 0, 1e6])) == pytest.approx([0, 0.5, 1])


@pytest.mark.slow
def test_an_mlp_learns_what_genes_do_together() -> None:
    rng = np.random.default_rng(5)
    genomes, fresh = SPACE.sample(rng, 500), SPACE.sample(rng, 1000)

    def together(genomes: Genomes) -> Floats:
        first, kernel, resolution = SPACE.gene_of_block(0, 0), genomes[:, SPACE.gene_of_block(1, 0)], genomes[:, 0]
        signs = np.where(kernel == 0, 1, -1) * np.where(resolution == 0, 1, -1)
        return 0.2 * signs + 0.02 * genomes[:, first] - 0.5

    truth = together(genomes)

    def error(score: Floats) -> float:
        return float(np.mean((score - together(fresh)) ** 2) / together(fresh).var())

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HIDDEN", (32, 32, 32)), ("MLP_STEPS", 400), ("FOLDS", 2)):
            patch.setattr(module, name, value)
        fits = (AccuracyPredictor.fit(SPACE, genomes, np.exp(truth), truth, np.random.default_rng(0), k) for k in KINDS)
        ridge, mlp, again = fits
    assert error(ridge.score(fresh)) > 0.5
    assert error(mlp.score(fresh)) < 0.1
    assert mlp.card["kind"] == "mlp"
    assert len(mlp.layers) == 4
    assert (mlp.predict(fresh) == again.predict(fresh)).all()


def predictor() -> AccuracyPredictor:
    rng = np.random.default_rng(6)
    genomes = SPACE.sample(rng, 80)
    truth = additive(genomes)
    return AccuracyPredictor.fit(SPACE, genomes, saturated(truth, rng), truth, rng)


def test_the_score_of_ridge_is_a_sum_over_choices_and_that_of_more_layers_is_not() -> None:
    genomes = SPACE.sample(np.random.default_rng(7), 100)
    fitted = predictor()
    assert fitted.additive is not None
    weights, bias = fitted.additive
    assert one_hot(SPACE, genomes) @ weights + bias == pytest.approx(fitted.score(genomes), abs=1e-5)
    space = preset("mbv3-imagenet-w1.0")
    assert AccuracyPredictor.from_once_for_all(space, once_for_all_layers(), {}).additive is None


def test_it_survives_a_file_and_refuses_another_space(tmp_path: Path) -> None:
    saved = predictor()
    (tmp_path / "predictor.npz").write_bytes(saved.to_bytes())
    loaded = AccuracyPredictor.load(tmp_path / "predictor.npz", SPACE)
    genomes = SPACE.sample(np.random.default_rng(7), 100)
    assert (loaded.predict(genomes) == saved.predict(genomes)).all()
    assert loaded.card == saved.card
    assert saved.to_bytes() == loaded.to_bytes()
    with pytest.raises(ValueError, match="is the predictor of space"):
        AccuracyPredictor.load(tmp_path / "predictor.npz", preset("mbv3-digits", classes=7))


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


def test_pairs_that_are_none_are_refused() -> None:
    rng = np.random.default_rng(8)
    genomes, good = SPACE.sample(rng, 20), np.full(20, 0.9)
    for arguments, message in [
        ((genomes[:5], good[:5], None), "5 genomes, 5 accuracies; at least 10"),
        ((genomes, good[:19], None), "20 genomes, 19 accuracies"),
        ((genomes, good * 100, None), "fraction in .* largest given is 90"),
        ((genomes, np.append(good[1:], np.nan), None), "fraction"),
        ((genomes, good, good[:19]), "20 finite log-likelihoods"),
        ((genomes, good, np.append(good[1:], -np.inf)), "20 finite log-likelihoods"),
    ]:
        with pytest.raises(ValueError, match=message):
            AccuracyPredictor.fit(SPACE, *arguments, rng)


def test_kendall_tau_of_a_constant_is_none() -> None:
    assert kendall_tau(np.arange(5.0), np.ones(5)) is None
    assert kendall_tau(np.arange(5.0), np.arange(5.0)) == pytest.approx(1)


def once_for_all_layers(seed: int = 0) -> list[module.Layer]:
    rng = np.random.default_rng(seed)
    sizes = list(pairwise((128, 400, 400, 400, 1)))
    layers = [(rng.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32), np.zeros(o, np.float32)) for i, o in sizes]
    layers[-1][1][:] = 0.7
    layers[-1][0][:] *= 0.05
    return layers


def once_for_all_features(arch: Architecture) -> list[int]:
    """As documented: 20 x 3 kernel sizes, 20 x 3 expansion ratios, zeros for dropped blocks, 8 resolutions."""
    slots = [stage[b] if b < len(stage) else (0, 0) for stage in arch.stages for b in range(4)]
    kernels = [int(kernel == choice) for kernel, _ in slots for choice in (3, 5, 7)]
    ratios = [int(ratio == choice) for _, ratio in slots for choice in (3, 4, 6)]
    return kernels + ratios + [int(arch.resolution == side) for side in range(112, 225, 16)]


def test_once_for_alls_predictor_predicts_what_its_features_say(tmp_path: Path) -> None:
    space, layers = preset("mbv3-imagenet-w1.2"), once_for_all_layers()
    genomes = space.sample(np.random.default_rng(1), 200)
    x = np.array([once_for_all_features(space.decode(genome)) for genome in genomes], np.float64)
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    expected = (x @ layers[-1][0] + layers[-1][1])[:, 0]
    assert 0 < expected.min() < expected.max() < 1
    made = AccuracyPredictor.from_once_for_all(space, layers, {"kind": "published"})
    (tmp_path / "predictor.npz").write_bytes(made.to_bytes())
    loaded = AccuracyPredictor.load(tmp_path / "predictor.npz", space)
    assert loaded.predict(genomes) == pytest.approx(expected, abs=1e-5)
    assert (loaded.predict(genomes) == loaded.score(genomes)).all()
    assert loaded.card == {"kind": "published"}


def test_a_predictor_without_a_link_still_predicts_fractions() -> None:
    wild = [(weight * 10, bias) for weight, bias in once_for_all_layers()]
    space = preset("mbv3-imagenet-w1.0")
    predictor = AccuracyPredictor.from_once_for_all(space, wild, {})
    genomes = space.sample(np.random.default_rng(2), 100)
    assert np.ptp(predictor.score(genomes)) > 1
    assert (predictor.predict(genomes) == np.clip(predictor.score(genomes), 0, 1)).all()


def test_once_for_alls_predictor_needs_its_layers_and_its_space() -> None:
    layers = once_for_all_layers()
    with pytest.raises(ValueError, match="has layers 128-400-400-400-1; these are"):
        AccuracyPredictor.from_once_for_all(preset("mbv3-imagenet-w1.2"), layers[1:], {})
    with pytest.raises(ValueError, match="is of its MobileNetV3 space, which mbv3-cifar is not"):
        AccuracyPredictor.from_once_for_all(preset("mbv3-cifar"), layers, {})


def test_a_learning_curve_falls_as_pairs_are_added_and_ends_at_the_cards_error() -> None:
    rng = np.random.default_rng(3)
    genomes = SPACE.sample(rng, 200)
    logit = one_hot(SPACE, genomes) @ rng.normal(0, 0.3, int(SPACE.num_choices.sum()))
    accuracy = 1 / (1 + np.exp(-logit - rng.normal(0, 0.05, 200)))
    curve = learning_curve(SPACE, genomes, accuracy, None, np.random.default_rng(0))
    assert [point["fitted_on"] for point in curve] == [20, 40, 80, 160]
    assert curve[-1]["rmse"] < curve[0]["rmse"] / 2
    assert curve[-1]["kendall_tau"] > curve[0]["kendall_tau"]
    card = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, np.random.default_rng(0)).card
    assert curve[-1]["rmse"] == pytest.approx(card["rmse"], rel=0.3)  # other folds
    assert 50 <= card["near_front"]["pairs"] < 120


def test_the_pairs_near_the_front_are_those_that_fewest_others_beat() -> None:
    """Accuracy is FLOPs, but for 20 pairs that are much worse: those are far from the front."""
    rng = np.random.default_rng(0)
    genomes = np.unique(SPACE.sample(rng, 120), axis=0)[:100]
    flops = CostTables(SPACE).flops(genomes)
    accuracy = 0.5 + 0.4 * (flops - flops.min()) / np.ptp(flops)
    bad = np.argsort(flops)[40:60]
    accuracy[bad] -= 0.2
    pairs = _Pairs.checked(SPACE, genomes, accuracy, None, "ridge")
    predicted = accuracy.copy()
    predicted[bad] += 0.1
    errors = pairs.errors(predicted, predicted)
    assert errors["near_front"] == {"pairs": 80, "rmse": 0.0, "kendall_tau": pytest.approx(1.0)}
    assert errors["rmse"] == pytest.approx(0.1 * np.sqrt(0.2))


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
