"""Fits, their errors on pairs that they did not see, and the choice among kinds."""

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor, learning_curve
from evolution.predictors.features import one_hot
from evolution.predictors.fitting import HeldOut, Kind, Pairs, choose
from evolution.predictors.validation import kendall_tau
from supernet.space import Genomes
from tests.support.pairs import SPACE, additive, middling


def test_the_card_states_the_error_on_pairs_the_fit_did_not_see() -> None:
    rng = np.random.default_rng(3)
    genomes, fresh = SPACE.sample(rng, 200), SPACE.sample(rng, 2000)
    noisy = additive(genomes) + rng.normal(0, 0.03, 200)
    accuracy = 1 / (1 + np.exp(-noisy))
    predictor = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, rng, "ridge")
    unseen = 1 / (1 + np.exp(-(additive(fresh) + rng.normal(0, 0.03, 2000))))
    rmse = np.sqrt(np.mean((predictor.predict(fresh) - unseen) ** 2))
    assert predictor.card["rmse"] == pytest.approx(rmse, rel=0.2)
    assert predictor.card["kendall_tau"] == pytest.approx(kendall_tau(predictor.predict(fresh), unseen), abs=0.1)
    assert predictor.card["target"] == "accuracy"


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


def test_a_learning_curve_falls_as_pairs_are_added_and_ends_at_the_cards_error() -> None:
    rng = np.random.default_rng(3)
    genomes = SPACE.sample(rng, 200)
    logit = one_hot(SPACE, genomes) @ rng.normal(0, 0.3, int(SPACE.num_choices.sum()))
    accuracy = 1 / (1 + np.exp(-logit - rng.normal(0, 0.05, 200)))
    curve = learning_curve(SPACE, genomes, accuracy, None, np.random.default_rng(0), "ridge")
    assert [point["fitted_on"] for point in curve] == [20, 40, 80, 160]
    assert curve[-1]["rmse"] < curve[0]["rmse"] / 2
    assert curve[-1]["kendall_tau"] > curve[0]["kendall_tau"]
    card = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, np.random.default_rng(0), "ridge").card
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
    pairs = Pairs.checked(SPACE, genomes, accuracy, None)
    predicted = accuracy.copy()
    predicted[bad] += 0.1
    errors = pairs.errors(HeldOut(predicted, predicted, np.zeros(100), np.zeros(100, np.intp)))
    best = np.argsort(accuracy)[75:]
    assert errors["best_quarter"] == {"pairs": 25, "kendall_tau": kendall_tau(predicted[best], accuracy[best])}
    assert errors["near_front"] == {"pairs": 80, "rmse": 0.0, "kendall_tau": pytest.approx(1.0)}
    assert errors["rmse"] == pytest.approx(0.1 * np.sqrt(0.2))


def test_repeated_measurements_of_an_architecture_share_a_fold() -> None:
    rng = np.random.default_rng(1)
    genomes = SPACE.sample(rng, 30)[rng.integers(30, size=90)]
    pairs = Pairs.checked(SPACE, genomes, np.full(90, 0.5), None)
    splits = pairs.folds(rng)
    assert sorted(np.concatenate([unseen for _, unseen in splits]).tolist()) == list(range(90))
    for seen, unseen in splits:
        assert len(seen) + len(unseen) == 90
        assert not {row.tobytes() for row in genomes[seen]} & {row.tobytes() for row in genomes[unseen]}


@pytest.mark.parametrize(
    ("ridge", "kernel", "mlp", "chosen"),
    [
        ((0.02, 0.5), (0.01, 0.6), (0.02, 0.7), "kernel"),
        ((0.02, 0.5), (0.01, 0.4), (0.03, 0.9), "ridge"),  # each is better in one error only
        ((0.02, None), (0.01, 0.0), (0.005, 0.1), "mlp"),
        ((0.02, 0.5), (0.02, 0.5), None, "ridge"),
    ],
)
def test_a_less_simple_kind_must_be_better_in_both_errors(
    ridge: tuple[float, float], kernel: tuple[float, float], mlp: tuple[float, float] | None, chosen: Kind
) -> None:
    kinds: dict[Kind, tuple[float, float] | None] = {"ridge": ridge, "kernel": kernel, "mlp": mlp}
    errors = {
        kind: {"rmse": values[0], "best_quarter": {"kendall_tau": values[1]}}
        for kind, values in kinds.items()
        if values
    }
    assert choose(errors) == chosen


def test_a_fit_compares_the_kinds_and_its_card_shows_all() -> None:
    rng = np.random.default_rng(2)
    genomes = SPACE.sample(rng, 120)
    accuracy = 0.8 + 0.1 * middling(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, rng)
    card = predictor.card
    assert card["kind"] == "kernel"
    assert card["compared"].keys() == {"ridge", "kernel"}  # 120 pairs are too few for the MLP
    for name in ("rmse", "kendall_tau", "best_quarter"):
        assert card["compared"]["kernel"][name] == card[name]
    assert card["rmse"] < 0.7 * card["compared"]["ridge"]["rmse"]
    forced = AccuracyPredictor.fit(SPACE, genomes, accuracy, None, rng, "ridge")
    assert forced.card["kind"] == "ridge"
    assert forced.card["compared"].keys() == {"ridge"}


@pytest.mark.slow
def test_enough_pairs_are_also_fitted_by_the_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution.predictors.layers.HIDDEN", (8, 8, 8))
    monkeypatch.setattr("evolution.predictors.layers.MLP_STEPS", 50)
    rng = np.random.default_rng(2)
    genomes = SPACE.sample(rng, 200)
    predictor = AccuracyPredictor.fit(SPACE, genomes, 0.7 + 0.2 * additive(genomes), None, rng)
    assert predictor.card["compared"].keys() == {"ridge", "kernel", "mlp"}


@pytest.mark.parametrize("kind", ["ridge", "kernel"])
def test_95_percent_intervals_hold_on_pairs_never_used(kind: Kind) -> None:
    """Errors are normal and, with few pairs, mostly the model's own; the card's share is of held-out pairs."""
    rng = np.random.default_rng(4)
    genomes, fresh = SPACE.sample(rng, 200), SPACE.sample(rng, 2000)

    def measure(genomes: Genomes) -> Floats:
        return 0.7 + additive(genomes) + rng.normal(0, 0.01, len(genomes))

    predictor = AccuracyPredictor.fit(SPACE, genomes, measure(genomes), None, rng, kind)
    std = predictor.predict_std(fresh)
    assert std is not None
    covered = np.abs(predictor.predict(fresh) - measure(fresh)) <= 1.96 * std
    assert 0.92 < covered.mean() < 0.98
    assert 0.92 <= predictor.card["interval"]["coverage"] <= 0.98
