"""Estimates around architectures against the predictor itself."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.problem import Predictor, Problem
from evolution.strategies.estimates import Estimator
from supernet.families import preset
from supernet.space import Genomes
from tests.support.predictors import kernel, network
from tests.support.tiny import smooth_accuracy

DIGITS = CostTables(preset("mbv3-digits"))
SPACE = DIGITS.space


def random_moves(rng: np.random.Generator, genomes: Genomes) -> NDArray[np.intp]:
    """(N, 1) a move that is possible for each of N genomes."""
    possible = DIGITS.moves.applicable(genomes)
    moves: NDArray[np.intp] = np.where(possible, rng.random(possible.shape), -1).argmax(1)[:, None]
    return moves


@dataclass(frozen=True)
class Opaque:
    """A predictor that shows no model."""

    inner: Predictor

    def predict(self, genomes: Genomes) -> Floats:
        return self.inner.predict(genomes)


PREDICTORS: dict[str, Predictor] = {
    "layers": network(SPACE, 1),
    "kernel": kernel(SPACE),
    "sum": smooth_accuracy(SPACE, np.random.default_rng(1)),
    "opaque": Opaque(network(SPACE, 1)),
}


@pytest.mark.parametrize("name", PREDICTORS)
def test_gains_of_single_moves_are_near_the_differences_of_predictions(name: str) -> None:
    rng, predictor = np.random.default_rng(0), PREDICTORS[name]
    genomes = SPACE.sample(rng, 200)
    moves = random_moves(rng, genomes)
    around = Estimator(Problem(DIGITS, predictor)).around(genomes, DIGITS.moves.applicable(genomes))
    before, after = predictor.predict(genomes), predictor.predict(DIGITS.moves.apply(genomes, moves[:, 0]))
    assert around.accuracy == pytest.approx(before, abs=1e-5)
    for estimated in (around.total(around.responses(moves)), np.take_along_axis(around.gains, moves, 1)):
        assert np.corrcoef(estimated[:, 0], after - before)[0, 1] > 0.85


def test_responses_of_independent_moves_add_up() -> None:
    """The link is all that separates the estimates of a Gaussian process from its predictions."""
    predictor, genome = PREDICTORS["kernel"], SPACE.sample(np.random.default_rng(0), 1)
    possible = DIGITS.moves.applicable(genome)
    pairs = np.argwhere(DIGITS.moves.independent & possible[0] & possible[0][:, None])[::50]
    around = Estimator(Problem(DIGITS, predictor)).around(genome, possible)
    first, second = (around.responses(column[None]) for column in pairs.T)
    after = DIGITS.moves.apply(DIGITS.moves.apply(genome, pairs[:, 0]), pairs[:, 1])
    gains = predictor.predict(after) - predictor.predict(genome)
    assert around.total(first + second)[0] == pytest.approx(gains, rel=0.1, abs=1e-3)


@pytest.mark.parametrize(("name", "cost"), [("layers", 5), ("kernel", 5), ("sum", 0)])
def test_an_expansion_of_a_model_counts_as_a_prediction_unless_it_is_a_sum(name: str, cost: int) -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 5)
    around = Estimator(Problem(DIGITS, PREDICTORS[name])).around(genomes, DIGITS.moves.applicable(genomes))
    assert around.predictions == cost


def test_without_a_model_every_single_move_is_predicted_and_counted() -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 3)
    possible = DIGITS.moves.applicable(genomes)
    assert Estimator(Problem(DIGITS, PREDICTORS["opaque"])).around(genomes, possible).predictions == 3 + possible.sum()
