"""The score of a predictor as a cost: equal to the predictor, in every family."""

import numpy as np
import pytest

from evolution.additive import score_cost
from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from supernet.families import preset, presets
from supernet.space import SearchSpace
from tests.support.additive import random_ridge
from tests.support.tiny import TINY, enumerate_space


@pytest.mark.slow
@pytest.mark.parametrize("name", presets())
def test_the_score_is_a_sum_over_parts_in_every_preset(name: str) -> None:
    tables, rng = CostTables(preset(name)), np.random.default_rng(0)
    predictor = random_ridge(tables.space, rng)
    cost = score_cost(tables, predictor)
    assert cost is not None
    genomes = tables.space.sample(rng, 500)
    assert (cost(genomes) == -predictor.score(genomes)).all()
    assert not cost.values[tables.dropped].any()


def test_the_score_is_a_sum_over_parts_of_every_architecture() -> None:
    tables, predictor = CostTables(TINY), random_ridge(TINY, np.random.default_rng(1))
    cost = score_cost(tables, predictor)
    assert cost is not None
    genomes = enumerate_space(TINY)
    assert (cost(genomes) == -predictor.score(genomes)).all()
    assert cost.floors.tolist() == [-predictor.score(genomes[genomes[:, 0] == i]).max() for i in range(3)]


def test_a_predictor_with_hidden_layers_is_no_sum() -> None:
    space = TINY
    features = int(space.num_choices.sum())
    layers = (
        (np.ones((features, 2), np.float32), np.zeros(2, np.float32)),
        (np.ones((2, 1), np.float32), np.zeros(1, np.float32)),
    )
    assert score_cost(CostTables(space), AccuracyPredictor(space, Layers(layers), None, {})) is None


def test_a_predictor_of_another_space_is_refused() -> None:
    other = random_ridge(preset("mbv3-digits"), np.random.default_rng(0))
    with pytest.raises(ValueError, match="is of space mbv3-digits, not of tiny"):
        score_cost(CostTables(TINY), other)


@pytest.mark.parametrize("link", [Link(1.7, -0.4), Link(0.02, 3.0), None])
@pytest.mark.parametrize("accuracy", [0.05, 0.5, 0.93])
def test_the_least_score_reaches_its_accuracy(link: Link | None, accuracy: float) -> None:
    predictor = AccuracyPredictor(TINY, random_ridge(TINY, np.random.default_rng(2)).model, link, {})
    scores: Floats = predictor.least_score(accuracy) + np.array([-1e-6, 0.0, 1e-6])
    below, reached, above = predictor.accuracy_of(scores)
    assert below < reached < above
    assert reached == pytest.approx(accuracy, rel=1e-9)
    assert predictor.accuracy_of(np.array([predictor.least_score(float(above))]))[0] <= above


def test_scores_do_not_depend_on_the_batch() -> None:
    space: SearchSpace = preset("mbv3-imagenet-w1.2")
    rng = np.random.default_rng(3)
    predictor, genomes = random_ridge(space, rng), space.sample(rng, 300)
    one_by_one = np.concatenate([predictor.predict(genomes[i : i + 1]) for i in range(len(genomes))])
    assert (predictor.predict(genomes) == one_by_one).all()
