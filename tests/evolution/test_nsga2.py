"""Searches for a front, against enumeration."""

import numpy as np
import pytest

from evolution.costs import AdditiveCost, CostTables
from evolution.limits import Constraint, Limit, constrain
from evolution.pareto import ParetoFront
from evolution.problem import Problem
from evolution.search import Search, solve
from evolution.strategies.nsga2 import select_survivors
from supernet.families import preset
from tests.support.tiny import TINY, enumerate_space, random_cost, smooth_accuracy

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
IMAGENET = CostTables(preset("mbv3-imagenet-w1.0"))


def tiny_problem(seed: int, costs: int) -> Problem:
    rng = np.random.default_rng(seed)
    predictor = smooth_accuracy(TINY, rng)
    return Problem(TABLES, predictor, pareto=tuple(random_cost(TABLES, rng, f"cost{i}") for i in range(costs)))


def imagenet_problem() -> Problem:
    predictor = smooth_accuracy(IMAGENET.space, np.random.default_rng(0))
    limit = constrain([Limit("params", 6e6)], IMAGENET, {})
    return Problem(IMAGENET, predictor, limit, pareto=(IMAGENET.flops_cost,))


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_a_tiny_space_is_that_of_enumeration(seed: int, costs: int) -> None:
    problem = tiny_problem(seed, costs)
    result = solve(problem, seed=seed)
    values = np.column_stack([cost(ALL) for cost in problem.pareto])
    true = ParetoFront.from_genomes(ALL, problem.predictor.predict(ALL), values, [cost.name for cost in problem.pareto])
    assert result.front.genomes.tolist() == true.genomes.tolist()
    assert result.front.names == true.names
    assert result.accuracy == pytest.approx(true.accuracy.max())
    assert result.evaluations < len(ALL)


def test_hypervolume_is_recorded_after_every_generation_and_never_falls() -> None:
    problem = imagenet_problem()
    result = solve(problem, evaluations=2000, seed=1)
    assert len(result.hypervolume) == result.generations > 10
    assert (np.diff(result.hypervolume) >= 0).all()
    assert result.hypervolume[-1] == pytest.approx(result.front.hypervolume(problem.reference), rel=1e-12)
    assert result.hypervolume[-1] > 1.01 * result.hypervolume[1]
    assert result.evaluations == 2000
    assert not result.two_opt


def test_a_front_stays_within_the_limits_and_spans_the_costs_asked() -> None:
    result = solve(imagenet_problem(), evaluations=1000)
    assert (IMAGENET.params(result.evaluated.genomes) <= 6e6).all()
    assert result.front.names == ("flops",)
    assert result.front.costs[:, 0].tolist() == IMAGENET.flops(result.front.genomes).tolist()
    assert len(result.front) > 20


def test_the_reference_point_is_the_limit_or_the_largest_network() -> None:
    problem = imagenet_problem()
    largest = IMAGENET.space.encode(IMAGENET.space.largest())[None]
    assert problem.reference == (1.0, IMAGENET.flops(largest)[0])
    limited = Problem(IMAGENET, problem.predictor, problem.constraints, pareto=(IMAGENET.params_cost,))
    assert limited.reference == (1.0, 6e6)


def test_a_cost_without_a_limit_is_one_that_can_be_predicted() -> None:
    values = np.where(TABLES.dropped, 0.0, 1.0)
    values[TABLES.index(ALL[ALL[:, 0] == 0])[:, 0]] = np.inf
    latency = AdditiveCost(TABLES, "latency_ms@board", values)
    problem = Problem(TABLES, smooth_accuracy(TINY, np.random.default_rng(4)), pareto=(latency,))
    result = solve(problem, evaluations=500)
    assert np.isfinite(problem.reference).all()
    assert np.isfinite(result.evaluated.costs).all()


def test_a_search_for_a_front_resumes_to_the_same_hypervolumes() -> None:
    problem = imagenet_problem()
    search = Search(problem, evaluations=1200, seed=5)
    states = [dict(search.state()) for _ in search.run()]
    for state in states[::4]:
        resumed = Search.resume(problem, state)
        for _ in resumed.run():
            pass
        assert resumed.result().hypervolume.tolist() == search.result().hypervolume.tolist()
        assert resumed.result().front.genomes.tolist() == search.result().front.genomes.tolist()


def test_nsga2_finds_a_better_front_than_random_search() -> None:
    problem = imagenet_problem()
    last = [
        [solve(problem, strategy=name, evaluations=2000, seed=seed).hypervolume[-1] for seed in range(3)]
        for name in ("nsga2", "random")
    ]
    assert min(last[0]) > max(last[1])


def test_survivors_are_the_first_ranks_and_of_the_last_the_least_crowded() -> None:
    line = np.array([[0, 10], [1, 9], [2, 8], [6, 4], [10, 0]], float)
    dominated = line + 11
    assert select_survivors(np.concatenate([dominated, line]), 5).tolist() == [5, 9, 8, 7, 6]
    assert sorted(select_survivors(line, 3).tolist()) == [0, 3, 4]


def test_fronts_that_make_no_sense_are_refused() -> None:
    problem = imagenet_problem()
    flops, params = IMAGENET.flops_cost, IMAGENET.params_cost
    for costs in ((flops, flops), (flops, params, random_cost(IMAGENET, np.random.default_rng(0)))):
        with pytest.raises(ValueError, match="a front is over accuracy and 1 or 2 different costs, not flops"):
            Problem(IMAGENET, problem.predictor, pareto=costs)
    with pytest.raises(ValueError, match="leave min_accuracy and the cost to minimise out"):
        Problem(IMAGENET, problem.predictor, minimise=flops, min_accuracy=0.5, pareto=(flops,))


def test_a_limit_on_the_cost_of_a_front_is_the_end_of_its_range() -> None:
    problem = tiny_problem(0, 1)
    limit = float(np.median(problem.pareto[0](ALL)))
    result = solve(Problem(TABLES, problem.predictor, (Constraint(problem.pareto[0], limit),), pareto=problem.pareto))
    assert (result.evaluated.costs[:, 0] <= limit).all()
    inside = ALL[problem.pareto[0](ALL) <= limit]
    assert result.accuracy == pytest.approx(problem.predictor.predict(inside).max())
