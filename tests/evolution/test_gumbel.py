"""The relaxation against enumeration, and what its gradients lead to."""

import numpy as np
import pytest
import torch

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.limits import Constraint
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem
from evolution.search import Search, solve
from evolution.strategies.gumbel import Gumbel, Relaxation, SoftGumbel
from supernet.families import preset
from supernet.space import Genomes, SearchSpace
from tests.support.predictors import kernel, network
from tests.support.tiny import TINY, enumerate_space, random_cost

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))


def digits_problem(quantile: float = 0.3) -> Problem:
    space, rng = DIGITS.space, np.random.default_rng(0)
    some = space.sample(rng, 2000)
    costs = DIGITS.flops_cost, DIGITS.params_cost
    limits = tuple(Constraint(cost, float(np.quantile(cost(some), quantile))) for cost in costs)
    return Problem(DIGITS, network(space, 1), limits)


def hot(space: SearchSpace, genomes: Genomes) -> torch.Tensor:
    """(N, G, C) one-hot."""
    return torch.from_numpy((genomes[..., None] == np.arange(space.num_choices.max())).astype(np.float64))


@pytest.mark.parametrize("predictor", [network(TINY, 0), kernel(TINY)], ids=["layers", "kernel"])
def test_at_one_hot_genes_the_relaxation_is_the_problem(predictor: AccuracyPredictor) -> None:
    rng = np.random.default_rng(0)
    costs = [random_cost(TABLES, rng, name) for name in ("one", "other")]
    problem = Problem(TABLES, predictor, tuple(Constraint(cost, float(np.median(cost(ALL)))) for cost in costs))
    gain, excess = Relaxation(problem)(hot(TINY, ALL), 0.1)
    scores = problem.score(ALL)
    assert gain.numpy() * 0.1 == pytest.approx(scores.accuracy, abs=1e-6)
    maxima = problem.region.maxima
    assert (excess.numpy() + 1) * maxima == pytest.approx(scores.costs[:, :2])


def test_the_expected_cost_is_the_mean_over_all_genomes() -> None:
    rng = np.random.default_rng(1)
    cost = random_cost(TABLES, rng)
    soft = rng.dirichlet(np.ones(3), (2, TINY.num_genes))
    soft *= np.arange(3) < TINY.num_choices[:, None]
    soft /= soft.sum(-1, keepdims=True)
    genomes = np.indices(TINY.num_choices.tolist()).reshape(TINY.num_genes, -1).T.astype(np.int8)
    likely: Floats = soft[:, np.arange(TINY.num_genes), genomes].prod(-1)  # (2, N)
    relaxation = Relaxation(Problem(TABLES, network(TINY, 0), (Constraint(cost, 5.0),)))
    _, excess = relaxation(torch.from_numpy(soft), 1)
    assert 5 * (excess.numpy()[:, 0] + 1) == pytest.approx(likely @ cost(genomes))


def test_a_minimised_cost_is_the_gain_and_the_accuracy_a_limit() -> None:
    cost = random_cost(TABLES, np.random.default_rng(3))
    problem = Problem(TABLES, network(TINY, 0), minimise=cost, min_accuracy=0.42)
    gain, excess = Relaxation(problem)(hot(TINY, ALL), 0.1)
    assert gain.numpy() == pytest.approx(-cost(ALL) / cost(ALL).min())
    below = problem.predictor.predict(ALL) < 0.42
    assert ((excess.numpy()[:, -1] > 0) == below).all()


def test_at_one_hot_genes_a_peak_is_the_largest_of_its_parts() -> None:
    peak, limit = TABLES.peak_memory_cost, float(np.median(TABLES.peak_memory_bytes(ALL)))
    problem = Problem(TABLES, network(TINY, 0), (Constraint(peak, limit),), minimise=peak, min_accuracy=0.42)
    gain, excess = Relaxation(problem)(hot(TINY, ALL), 0.1)
    assert gain.numpy() == pytest.approx(-peak(ALL) / peak(ALL).min())
    assert ((excess.numpy()[:, 0] > 0) == (peak(ALL) > limit)).all()


@pytest.mark.parametrize("kind", [Gumbel, SoftGumbel])
def test_it_climbs_to_within_the_limits(kind: type[Gumbel]) -> None:
    problem = digits_problem()
    strategy = kind(problem, np.random.default_rng(0))
    for _ in range(25):
        genomes = strategy.ask()
        strategy.tell(genomes, problem.score(genomes))
    assert (problem.region.costs(genomes[:1]) <= 1.01 * problem.region.maxima).all()
    some = DIGITS.space.sample(np.random.default_rng(1), 5000)
    inside = some[problem.region.contains(some)]
    most_probable = problem.region.repair(genomes[:1], np.random.default_rng(0))
    assert problem.predictor.predict(most_probable)[0] > np.quantile(problem.predictor.predict(inside), 0.99)


@pytest.mark.parametrize("name", ["gumbel", "gumbel-soft"])
def test_its_own_predictions_are_counted(name: str) -> None:
    problem = digits_problem()
    search = Search(problem, strategy=name, evaluations=1000, polish=False)
    for progress in search.run():
        assert progress.evaluations <= 1000
    result = search.result()
    assert result.evaluations > 1000 - 64
    assert result.evaluations > 2 * len(result.evaluated)
    assert problem.region.contains(result.evaluated.genomes).all()


def test_the_least_cost_of_a_tiny_space_is_found() -> None:
    cost = random_cost(TABLES, np.random.default_rng(3))
    problem = Problem(TABLES, network(TINY, 0), minimise=cost, min_accuracy=0.42)
    enough = problem.predictor.predict(ALL) >= 0.42
    result = solve(problem, strategy="gumbel", evaluations=3000)
    assert result.costs["random"] == cost(ALL[enough]).min()


def test_what_cannot_be_predicted_is_avoided() -> None:
    values = np.where(TABLES.dropped, 0.0, 1.0)
    values[TABLES.index(ALL[ALL[:, 0] == 0])[:, 0]] = np.inf
    values[TABLES.index(ALL[ALL[:, 2] == 2])[:, 3]] = np.inf
    latency = AdditiveCost(TABLES, "latency_ms@board", values)
    result = solve(Problem(TABLES, network(TINY, 0), (Constraint(latency, 6.0),)), strategy="gumbel", evaluations=500)
    assert (result.evaluated.costs[:, 0] <= 6).all()


def test_a_predictor_without_layers_is_refused() -> None:
    class Constant:
        def predict(self, genomes: Genomes) -> Floats:
            return np.full(len(genomes), 0.5)

    with pytest.raises(
        ValueError, match="gradients need a predictor with layers or a kernel, which Constant does not have"
    ):
        solve(Problem(TABLES, Constant()), strategy="gumbel")
