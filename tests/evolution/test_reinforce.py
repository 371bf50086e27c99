"""The controller: what it learns, and what it earns."""

import numpy as np
import pytest

from evolution.costs import CostTables
from evolution.limits import Constraint, Limit, constrain
from evolution.problem import Problem
from evolution.search import solve
from evolution.strategies.reinforce import Reinforce
from supernet.families import preset
from tests.support.tiny import TINY, enumerate_space, random_cost, smooth_accuracy

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))


def train(problem: Problem, steps: int, seed: int = 0) -> Reinforce:
    """A controller after some steps, told every score."""
    strategy = Reinforce(problem, np.random.default_rng(seed))
    for _ in range(steps):
        genomes = strategy.ask()
        strategy.tell(genomes, problem.score(genomes))
    return strategy


def test_without_limits_the_controller_samples_ever_better_architectures() -> None:
    problem = Problem(DIGITS, smooth_accuracy(DIGITS.space, np.random.default_rng(0)))
    strategy = train(problem, 200)
    sampled = problem.predictor.predict(strategy.ask())
    everywhere = problem.predictor.predict(DIGITS.space.sample(np.random.default_rng(1), 2000))
    assert sampled.mean() > np.quantile(everywhere, 0.99)


@pytest.mark.parametrize("count", [1, 2])
def test_it_learns_to_sample_within_the_limits(count: int) -> None:
    space = DIGITS.space
    costs = [DIGITS.flops_cost, DIGITS.params_cost][:count]
    limits = [Limit(cost.name, 1.5 * float(cost.floors.min())) for cost in costs]
    problem = Problem(DIGITS, smooth_accuracy(space, np.random.default_rng(0)), constrain(limits, DIGITS, {}))
    first, last = train(problem, 1), train(problem, 200)
    inside = []
    for strategy in (first, last):
        moved = strategy.ask()
        assert problem.region.contains(moved).all()
        inside.append(problem.region.contains(strategy._samples).mean())
    assert inside[1] > inside[0] + 0.3


def test_the_reward_is_that_of_mnasnet_and_several_limits_multiply() -> None:
    rng = np.random.default_rng(3)
    costs = [random_cost(TABLES, rng, name) for name in ("one", "other")]
    maxima = [float(np.median(cost(ALL))) for cost in costs]
    constraints = tuple(Constraint(cost, most) for cost, most in zip(costs, maxima, strict=True))
    problem = Problem(TABLES, smooth_accuracy(TINY, rng), constraints)
    genomes = TINY.sample(rng, 50)
    accuracy = problem.predictor.predict(genomes)
    expected = accuracy.copy()
    for cost, most in zip(costs, maxima, strict=True):
        expected *= np.where(cost(genomes) <= most, 1, (cost(genomes) / most) ** -0.07)
    assert Reinforce(problem, rng)._reward(genomes, accuracy) == pytest.approx(expected)
    assert (expected < accuracy).any()
    assert (expected == accuracy).any()


def test_a_minimised_cost_earns_more_the_less_it_is() -> None:
    cost = random_cost(TABLES, np.random.default_rng(3))
    problem = Problem(TABLES, smooth_accuracy(TINY, np.random.default_rng(2)), minimise=cost, min_accuracy=0.5)
    fitness = np.sort(problem.score(ALL[::50]).fitness)
    reward = Reinforce(problem, np.random.default_rng(0))._reward(ALL[::50], fitness)
    assert (reward > 0).all()
    assert (np.diff(reward) >= 0).all()


def test_resolutions_outside_the_limits_are_never_sampled() -> None:
    problem = Problem(DIGITS, smooth_accuracy(DIGITS.space, np.random.default_rng(0)), resolution=12)
    strategy = train(problem, 3)
    strategy.ask()
    assert {DIGITS.space.resolutions[r] for r in strategy._samples[:, 0]} == {12}


def test_a_controller_that_has_converged_starts_again() -> None:
    rng = np.random.default_rng(5)
    problem = Problem(TABLES, smooth_accuracy(TINY, rng))
    result = solve(problem, strategy="reinforce", evaluations=1500, polish=False)
    assert result.evaluations == 1500
    assert result.accuracy == pytest.approx(problem.predictor.predict(ALL).max())


def test_it_does_better_than_random_search() -> None:
    space = DIGITS.space
    problem = Problem(
        DIGITS, smooth_accuracy(space, np.random.default_rng(1)), constrain([Limit("flops", 6e5)], DIGITS, {})
    )
    means = [
        np.mean(
            [solve(problem, strategy=name, evaluations=3000, seed=seed, polish=False).accuracy for seed in range(3)]
        )
        for name in ("reinforce", "random")
    ]
    assert means[0] > means[1]
