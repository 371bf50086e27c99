"""Exact search against enumeration, and its certificates."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evolution.choices import Choices
from evolution.costs import AdditiveCost, CostTables, PeakCost
from evolution.limits import Constraint
from evolution.pareto import non_dominated
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layers
from evolution.problem import Problem
from evolution.search import Search, SearchResult, default_strategy, solve
from evolution.strategies import Optimality, exact
from supernet.families import preset
from tests.support.additive import random_ridge
from tests.support.tiny import TINY, enumerate_space, random_cost

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
IMAGENET = CostTables(preset("mbv3-imagenet-w1.0"))


def random_problem(rng: np.random.Generator, limits: int, **arguments: Any) -> Problem:
    """A problem of the tiny space within limits that a random architecture just holds."""
    some = ALL[rng.integers(len(ALL))][None]
    costs: list[AdditiveCost | PeakCost] = [random_cost(TABLES, rng, f"cost {i}") for i in range(limits)]
    if limits == 3:
        costs[2] = TABLES.peak_memory_cost
    constraints = tuple(Constraint(cost, float(cost(some)[0])) for cost in costs)
    return Problem(TABLES, random_ridge(TINY, rng), constraints, **arguments)


def imagenet_problem(limits: int = 2, seed: int = 0) -> Problem:
    """A problem that several passes are needed for."""
    rng = np.random.default_rng(seed)
    costs = [IMAGENET.flops_cost, IMAGENET.params_cost, random_cost(IMAGENET, rng)][:limits]
    sample = IMAGENET.space.sample(rng, 100)
    constraints = tuple(Constraint(cost, float(np.quantile(cost(sample), 0.4))) for cost in costs)
    return Problem(IMAGENET, random_ridge(IMAGENET.space, rng), constraints)


def same(first: SearchResult, second: SearchResult) -> bool:
    """Whether two searches evaluated the same and answer the same."""
    return (
        first.best.tolist() == second.best.tolist()
        and first.optimality == second.optimality
        and first.evaluated.genomes.tolist() == second.evaluated.genomes.tolist()
    )


# The answer.


@pytest.mark.parametrize("limits", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_answer_is_the_best_of_enumeration(seed: int, limits: int) -> None:
    problem = random_problem(np.random.default_rng([seed, limits]), limits)
    result = solve(problem)
    best = problem.predictor.predict(ALL[problem.within(ALL)]).max()
    assert result.strategy == "exact"
    assert result.accuracy == pytest.approx(best, rel=1e-9)
    assert problem.within(result.evaluated.genomes).all()
    assert result.optimality == Optimality(proven=True, bound=result.accuracy, gap=0.0)
    assert result.two_opt


@pytest.mark.parametrize("limits", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_least_cost_at_an_accuracy_is_that_of_enumeration(seed: int, limits: int) -> None:
    rng = np.random.default_rng([seed, limits])
    problem = random_problem(rng, limits)
    accuracies = problem.predictor.predict(ALL[problem.within(ALL)])
    cost, minimum = random_cost(TABLES, rng), float(rng.choice(accuracies))
    problem = replace(problem, minimise=cost, min_accuracy=minimum)
    result = solve(problem)
    enough = ALL[problem.within(ALL) & (problem.predictor.predict(ALL) >= minimum)]
    assert result.reached
    assert result.costs["random"] == cost(enough).min()
    assert result.optimality == Optimality(proven=True, bound=result.costs["random"], gap=0.0)


def test_a_limit_on_the_minimised_cost_holds() -> None:
    problem = random_problem(np.random.default_rng(0), 1)
    cost = problem.constraints[0].cost
    result = solve(replace(problem, minimise=cost, min_accuracy=0.05))
    assert result.costs[cost.name] == cost.floors.min()
    assert result.optimality is not None
    assert result.optimality.proven


def test_an_accuracy_that_nothing_has_is_answered_with_the_most_accurate_and_its_proof() -> None:
    problem = random_problem(np.random.default_rng(1), 1)
    best = float(problem.predictor.predict(ALL[problem.within(ALL)]).max())
    result = solve(replace(problem, minimise=TABLES.flops_cost, min_accuracy=(best + 1) / 2))
    assert not result.reached
    assert result.optimality == Optimality(proven=True, bound=best, gap=0.0)


@pytest.mark.parametrize("resolution", [{"resolution": 12}, {"max_resolution": 12}])
def test_only_allowed_resolutions_count(resolution: dict[str, int]) -> None:
    problem = random_problem(np.random.default_rng(2), 1, **resolution)
    best = problem.predictor.predict(ALL[problem.within(ALL)]).max()
    assert solve(problem).accuracy == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("limits", [0, 1])
def test_only_open_choices_count(limits: int) -> None:
    choices = Choices(TINY, {"width": (2, 3), "stage1.depth": (1, 3)})
    problem = random_problem(np.random.default_rng(6), limits, choices=choices)
    best = problem.predictor.predict(ALL[problem.within(ALL)]).max()
    result = solve(problem)
    assert result.accuracy == pytest.approx(best, rel=1e-9)
    assert result.accuracy < problem.predictor.predict(ALL).max()
    assert problem.within(result.evaluated.genomes).all()


@pytest.mark.parametrize("evaluations", [1, 5, 300])
def test_the_answer_is_optimal_however_few_evaluations_there_are(evaluations: int) -> None:
    problem = random_problem(np.random.default_rng(3), 2)
    warm_start = ALL[problem.within(ALL)][:20]
    result = solve(problem, evaluations=evaluations, warm_start=warm_start)
    assert result.accuracy == pytest.approx(problem.predictor.predict(ALL[problem.within(ALL)]).max(), rel=1e-9)
    assert result.evaluations <= evaluations


def test_a_proven_answer_is_not_called_cut_short_by_seconds() -> None:
    result = solve(random_problem(np.random.default_rng(0), 2), seconds=1e-9)
    assert result.optimality
    assert result.optimality.proven
    assert result.ended_by == "proven"


def test_finalists_are_the_best_near_the_answer() -> None:
    problem = imagenet_problem()
    result = solve(problem)
    near = problem.tables.moves.within_two(result.best)
    near = near[problem.within(near)]
    best = np.sort(problem.predictor.predict(near))[::-1][:100]
    assert len(result.finalists) == 200
    assert (result.finalists.accuracy[1:101] >= best).all()


@pytest.mark.parametrize("limits", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_that_of_enumeration(seed: int, limits: int) -> None:
    rng = np.random.default_rng([seed, limits])
    problem = random_problem(rng, limits)
    cost = problem.constraints[0].cost if limits == 2 else random_cost(TABLES, rng)
    problem = replace(problem, pareto=(cost,))
    inside = ALL[problem.within(ALL)]
    objectives = np.column_stack([1 - problem.predictor.predict(inside), cost(inside)])
    front = objectives[non_dominated(objectives)]
    result = solve(problem)
    assert result.strategy == "exact"
    assert result.front.objectives == pytest.approx(front[np.argsort(front[:, 1])], rel=1e-9)
    volume = result.front.hypervolume(problem.reference)
    assert result.optimality == Optimality(proven=True, bound=pytest.approx(volume), gap=0.0)  # type: ignore[arg-type]


def test_a_front_with_more_members_than_evaluations_says_how_much_is_missing() -> None:
    problem = Problem(IMAGENET, random_ridge(IMAGENET.space, np.random.default_rng(0)), pareto=(IMAGENET.flops_cost,))
    whole, part = solve(problem), solve(problem, evaluations=60)
    assert whole.optimality is not None
    assert part.optimality is not None
    assert whole.optimality.proven
    assert len(part.front) < len(whole.front)
    assert part.optimality.bound == pytest.approx(whole.optimality.bound)
    assert part.optimality.gap == pytest.approx(
        whole.front.hypervolume(problem.reference) - part.front.hypervolume(problem.reference)
    )
    members = {genome.tobytes() for genome in whole.front.genomes}
    assert all(genome.tobytes() in members for genome in part.front.genomes)


def test_a_front_that_is_cut_off_has_no_larger_hypervolume_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(IMAGENET, random_ridge(IMAGENET.space, np.random.default_rng(1)), pareto=(IMAGENET.params_cost,))
    volume = solve(problem).front.hypervolume(problem.reference)
    monkeypatch.setattr(exact, "FRONT_WIDTH", 100)
    result = solve(problem)
    assert result.optimality is not None
    assert not result.optimality.proven
    assert result.front.hypervolume(problem.reference) < volume < result.optimality.bound


# Certificates.


@pytest.mark.parametrize("limits", [1, 2, 3])
def test_a_proof_that_is_cut_off_leaves_a_gap_with_the_optimum_inside(
    limits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = imagenet_problem(limits)
    proven = solve(problem)
    assert proven.optimality is not None
    assert proven.optimality.proven
    monkeypatch.setattr(exact, "MAX_NODES", 500)
    monkeypatch.setattr(exact, "CUTS", 3)
    cut_off = solve(problem, evaluations=500)
    assert cut_off.optimality is not None
    assert not cut_off.optimality.proven
    assert cut_off.accuracy <= proven.accuracy <= cut_off.optimality.bound
    assert cut_off.optimality.gap == pytest.approx(cut_off.optimality.bound - cut_off.accuracy)
    assert not cut_off.two_opt or cut_off.two_opt_evaluations


def test_a_cut_off_proof_of_a_least_cost_bounds_it_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = imagenet_problem(1)
    minimum = solve(problem).accuracy - 0.02
    problem = replace(problem, constraints=(), minimise=IMAGENET.params_cost, min_accuracy=minimum)
    proven = solve(problem)
    monkeypatch.setattr(exact, "MAX_NODES", 100)
    monkeypatch.setattr(exact, "CUTS", 2)
    cut_off = solve(problem, evaluations=200)
    assert cut_off.optimality is not None
    assert cut_off.optimality.bound <= proven.costs["params"] <= cut_off.costs["params"]


def test_no_other_strategy_finds_better() -> None:
    problem = imagenet_problem()
    best = solve(problem).accuracy
    for strategy in ("evolution", "nsga2", "reinforce", "random"):
        result = solve(problem, strategy=strategy, evaluations=1500)
        assert result.accuracy <= best
        assert result.optimality is None


# The search.


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("objective", ["accuracy", "flops", "front"])
def test_a_resumed_search_gives_the_same_answer(steps: int, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MAX_NODES", 500)
    problem = imagenet_problem(3)
    if objective == "flops":
        problem = replace(problem, minimise=IMAGENET.flops_cost, min_accuracy=0.55)
    if objective == "front":
        problem = replace(problem, constraints=(), pareto=(IMAGENET.flops_cost,))
    whole = Search(problem, evaluations=600)
    search = Search(problem, evaluations=600)
    run = search.run()
    for _ in range(steps):
        next(run, None)
    resumed = Search.resume(problem, search.state())
    assert same(whole.run_to_end(), resumed.run_to_end())


def test_exact_search_is_the_default_where_it_can_prove_something() -> None:
    problem = random_problem(np.random.default_rng(4), 1)
    layers = ((np.ones((int(TINY.num_choices.sum()), 1), np.float32),) * 2,) * 2
    other = AccuracyPredictor(TINY, Layers(layers), None, {})
    assert default_strategy(problem) == "exact"
    assert default_strategy(replace(problem, predictor=other)) == "evolution"
    assert default_strategy(replace(problem, measure=problem.predictor.predict)) == "evolution"
    assert default_strategy(replace(problem, pareto=(TABLES.flops_cost, TABLES.params_cost))) == "nsga2"


def test_a_problem_that_nothing_can_be_proven_of_is_refused() -> None:
    problem = replace(random_problem(np.random.default_rng(5), 1), measure=lambda genomes: np.zeros(len(genomes)))
    with pytest.raises(ValueError, match="accuracy is measured; leave the strategy out"):
        solve(problem, strategy="exact")
