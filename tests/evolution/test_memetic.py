"""The default strategy for predictors that are no sums: climbs, their crossovers, and when they agree."""

import numpy as np
import pytest

from evolution.costs import CostTables
from evolution.limits import Constraint, Limit, constrain
from evolution.problem import Problem
from evolution.search import SELF_ENDING, Search, solve
from evolution.strategies.memetic import Memetic
from supernet.families import preset
from tests.support.predictors import network
from tests.support.tiny import TINY, enumerate_space, random_cost, smooth_accuracy

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))
IMAGENET = CostTables(preset("mbv3-imagenet-w1.0"))


def rough(slack: float, tables: CostTables = IMAGENET) -> Problem:
    """A problem whose predictor is no sum, under a limit on FLOPs."""
    limit = Limit("flops", float(tables.flops_cost.floors.min() * slack))
    return Problem(tables, network(tables.space, 0), constrain([limit], tables, {}))


@pytest.mark.parametrize("seed", range(4))
def test_restarts_agree_on_the_best_of_a_tiny_space_before_the_evaluations_are_spent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    latency, memory = random_cost(TABLES, rng, "latency"), random_cost(TABLES, rng, "memory")
    some = ALL[rng.integers(len(ALL))][None]
    limits = tuple(Constraint(cost, float(cost(some)[0] * 1.3)) for cost in (latency, memory))
    inside = np.logical_and.reduce([limit.cost(ALL) <= limit.max for limit in limits])
    predictor = network(TINY, seed)
    result = solve(Problem(TABLES, predictor, limits), seed=seed)
    assert result.accuracy == pytest.approx(predictor.predict(ALL[inside]).max(), abs=1e-6)
    assert result.ended_by in ("agreed", "exhausted")
    assert len(result.evaluated) <= inside.sum()
    assert result.evaluations <= 2 * inside.sum() < SELF_ENDING["evolution"]


def test_a_least_cost_at_an_accuracy_is_that_of_enumeration() -> None:
    predictor, cost = network(TINY, 3), random_cost(TABLES, np.random.default_rng(3))
    accuracy = predictor.predict(ALL)
    for share in (0.5, 0.9, 0.99):
        minimum = float(np.quantile(accuracy, share))
        result = solve(Problem(TABLES, predictor, minimise=cost, min_accuracy=minimum))
        assert result.reached
        assert result.costs["random"] == pytest.approx(cost(ALL[accuracy >= minimum + 1e-6]).min())


def test_where_gains_add_up_a_single_climb_finds_the_optimum() -> None:
    """A sum over genes under one limit is a knapsack, which enumeration solves."""
    predictor = smooth_accuracy(TINY, np.random.default_rng(5))
    limit = float(np.median(TABLES.flops(ALL)))
    problem = Problem(TABLES, predictor, constrain([Limit("flops", limit)], TABLES, {}))
    search = Search(problem, strategy="evolution", polish=False)
    optimum = predictor.predict(ALL[TABLES.flops(ALL) <= limit]).max()
    reached = [progress.evaluations for progress in search.run() if progress.accuracy >= optimum - 1e-9]
    assert reached[0] < 0.5 * (TABLES.flops(ALL) <= limit).sum()


def test_climbs_propose_only_what_is_within_the_limits_and_new() -> None:
    problem, rng = rough(1.6), np.random.default_rng(0)
    strategy = Memetic(problem, rng)
    seen: set[bytes] = set()
    for _ in range(40):
        genomes = strategy.ask()
        assert len(genomes)
        assert problem.region.contains(genomes).all()
        assert not seen & {genome.tobytes() for genome in genomes}
        seen |= {genome.tobytes() for genome in genomes}
        genomes = np.unique(genomes, axis=0)
        strategy.tell(genomes, problem.score(genomes))


def test_climbs_go_on_where_the_driver_scored_only_some_of_what_they_proposed() -> None:
    problem, rng = rough(1.6), np.random.default_rng(0)
    strategy = Memetic(problem, rng)
    for _ in range(12):
        genomes = np.unique(strategy.ask(), axis=0)
        some = genomes[: 1 + len(genomes) // 2]
        strategy.tell(some, problem.score(some))
    assert not strategy.agrees


def test_it_is_better_than_random_search_and_than_its_own_first_evaluations() -> None:
    problem = rough(1.8)
    found = {
        (strategy, evaluations): np.mean(
            [
                solve(problem, strategy=strategy, evaluations=evaluations, seed=seed, polish=False).accuracy
                for seed in range(3)
            ]
        )
        for strategy, evaluations in (("evolution", 500), ("evolution", 3_000), ("random", 3_000))
    }
    assert found["evolution", 3_000] > found["evolution", 500] > found["random", 3_000]


def test_no_limit_and_no_room_are_searched_too() -> None:
    predictor = network(TINY, 1)
    free = solve(Problem(TABLES, predictor))
    assert free.accuracy == pytest.approx(predictor.predict(ALL).max(), abs=1e-6)
    floor = constrain([Limit("flops", float(TABLES.flops_cost.floors.min()))], TABLES, {})
    tight = solve(Problem(TABLES, predictor, floor))
    assert len(tight.evaluated) == 1
    assert tight.ended_by in ("agreed", "exhausted")


def test_a_search_that_seconds_cut_short_says_so_and_goes_on_counting_when_resumed() -> None:
    problem = rough(1.6)
    cut = solve(problem, seconds=1e-9)
    assert cut.ended_by == "seconds"
    assert cut.generations == 1
    search = Search(problem, evaluations=800, seconds=3600)
    states = [search.state() for _ in search.run()]
    resumed = Search.resume(problem, states[2])
    assert resumed.max_seconds == 3600
    assert resumed.run_to_end().best.tolist() == search.result().best.tolist()
    assert search.result().ended_by == "evaluations"
    with pytest.raises(ValueError, match="seconds is 0"):
        Search(problem, seconds=0)


def test_agreement_ends_a_search_and_the_local_search_still_follows() -> None:
    result = solve(rough(2.0, DIGITS))
    assert result.ended_by == "agreed"
    assert result.two_opt
    assert result.evaluations < 0.3 * SELF_ENDING["evolution"]
