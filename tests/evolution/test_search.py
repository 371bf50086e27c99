"""Searches against enumeration, and what must hold of every strategy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables, PeakCost
from evolution.feasibility import find_region
from evolution.limits import Constraint, Limit, constrain, cost_of
from evolution.pareto import non_dominated
from evolution.predictors.latency import LatencyModel
from evolution.problem import Problem
from evolution.refusal import Infeasible, Refused
from evolution.search import STRATEGIES, Search, SearchResult, make_strategy, solve
from supernet.families import preset
from supernet.operators import flat
from supernet.space import Genomes
from tests.support.tiny import TINY, Additive, enumerate_space, random_cost, smooth_accuracy

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))
IMAGENET = CostTables(preset("mbv3-imagenet-w1.0"))
SAMPLING = sorted({*STRATEGIES} - {"exact"})  # the strategies for any predictor


class Counting:
    """A predictor that counts what it is asked."""

    def __init__(self, inner: Additive) -> None:
        self.inner, self.asked = inner, 0
        self.model, self.link = inner.model, inner.link

    def predict(self, genomes: Genomes) -> Floats:
        self.asked += len(genomes)
        return self.inner.predict(genomes)


@dataclass(frozen=True)
class Function:
    """A function of genomes as a predictor."""

    function: Callable[[Genomes], Floats]

    def predict(self, genomes: Genomes) -> Floats:
        return self.function(genomes)


def flops_at_most(tables: CostTables, limit: float) -> tuple[Constraint, ...]:
    return constrain([Limit("flops", limit)], tables, {})


def imagenet_problem(slack: float = 1.5) -> Problem:
    predictor = smooth_accuracy(IMAGENET.space, np.random.default_rng(0))
    return Problem(IMAGENET, predictor, flops_at_most(IMAGENET, float(IMAGENET.flops_cost.floors.min() * slack)))


def same(one: SearchResult, other: SearchResult) -> bool:
    return (
        one.best.tolist() == other.best.tolist()
        and one.costs == other.costs
        and one.evaluated.genomes.tolist() == other.evaluated.genomes.tolist()
        and one.front.genomes.tolist() == other.front.genomes.tolist()
    )


# The answer.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_a_tiny_space_is_found_within_random_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictor, costs = smooth_accuracy(TINY, rng), [random_cost(TABLES, rng, name) for name in ("one", "other")]
    some = ALL[rng.integers(len(ALL))][None]
    constraints = tuple(Constraint(cost, float(cost(some)[0] * 1.05)) for cost in costs)
    inside = np.logical_and.reduce([constraint.cost(ALL) <= constraint.max for constraint in constraints])
    result = solve(Problem(TABLES, predictor, constraints), seed=seed)
    assert result.accuracy == pytest.approx(predictor.predict(ALL[inside]).max(), rel=1e-12)
    assert all(result.costs[constraint.cost.name] <= constraint.max for constraint in constraints)
    assert result.evaluations <= inside.sum()


def test_the_front_is_what_no_other_evaluated_architecture_dominates() -> None:
    predictor = smooth_accuracy(TINY, np.random.default_rng(1))
    limit = float(np.median(TABLES.flops(ALL)))
    result = solve(Problem(TABLES, predictor, flops_at_most(TABLES, limit)))
    seen = result.evaluated.genomes
    kept = seen[non_dominated(np.column_stack([-predictor.predict(seen), TABLES.flops(seen)]))]
    assert {genome.tobytes() for genome in result.front.genomes} == {genome.tobytes() for genome in kept}
    assert (TABLES.flops(seen) <= limit).all()
    assert result.front.names == ("flops",)
    assert result.front.accuracy[-1] == result.accuracy


@pytest.mark.parametrize("minimum", [0.3, 0.5, 0.6])
def test_the_least_cost_at_an_accuracy_is_that_of_enumeration(minimum: float) -> None:
    predictor, cost = smooth_accuracy(TINY, np.random.default_rng(2)), random_cost(TABLES, np.random.default_rng(3))
    enough = predictor.predict(ALL) >= minimum
    result = solve(Problem(TABLES, predictor, minimise=cost, min_accuracy=minimum))
    assert result.costs["random"] == cost(ALL[enough]).min()
    assert result.accuracy >= minimum
    assert result.front.names == ("random",)


def test_an_accuracy_that_nothing_has_is_answered_with_the_most_accurate_and_says_so() -> None:
    predictor = smooth_accuracy(TINY, np.random.default_rng(2))
    best = predictor.predict(ALL).max()
    problem = Problem(TABLES, predictor, minimise=TABLES.flops_cost, min_accuracy=float(best + 1) / 2)
    result = solve(problem)
    assert not result.reached
    assert result.accuracy == pytest.approx(best)
    limited = Problem(
        TABLES,
        predictor,
        flops_at_most(TABLES, float(np.median(TABLES.flops(ALL)))),
        minimise=TABLES.params_cost,
        min_accuracy=float(best),
    )
    inside = TABLES.flops(ALL) <= limited.constraints[0].max
    result = solve(limited)
    assert result.reached == (result.accuracy >= best)
    assert not result.reached
    assert result.accuracy == pytest.approx(predictor.predict(ALL[inside]).max())


@pytest.mark.parametrize("seed", range(4))
def test_the_least_peak_memory_at_an_accuracy_is_that_of_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictor = smooth_accuracy(TINY, rng)
    peak = PeakCost(TABLES, "peak", np.where(TABLES.dropped, 0.0, rng.exponential(1, TABLES.num_entries)))
    least = float(np.quantile(predictor.predict(ALL), 0.7))
    result = solve(Problem(TABLES, predictor, minimise=peak, min_accuracy=least), seed=seed)
    assert result.reached
    assert result.costs["peak"] == peak(ALL[predictor.predict(ALL) >= least]).min()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SAMPLING)
def test_no_strategy_exceeds_a_limit_on_peak_memory_beside_others(strategy: str) -> None:
    predictor = Additive(DIGITS.space, np.full(DIGITS.space.num_genes, 0.05))  # the more, the better
    some = DIGITS.space.sample(np.random.default_rng(0), 2000)
    limits = [
        Limit(cost, float(np.quantile(values, 0.3)))
        for cost, values in (("peak_memory_bytes", DIGITS.peak_memory_bytes(some)), ("params", DIGITS.params(some)))
    ]
    problem = Problem(DIGITS, predictor, constrain(limits, DIGITS, {}))
    result = solve(problem, strategy=strategy, evaluations=1500)
    seen = result.evaluated.genomes
    assert len(seen) > 100
    assert (DIGITS.peak_memory_bytes(seen) <= limits[0].max).all()
    assert (DIGITS.params(seen) <= limits[1].max).all()
    assert len(np.unique(DIGITS.peak_memory_bytes(seen))) > 3


def test_a_minimised_cost_is_one_that_can_be_predicted() -> None:
    values = np.where(TABLES.dropped, 0.0, 1.0)
    values[TABLES.index(ALL[ALL[:, 0] == 0])[:, 0]] = np.inf
    latency = AdditiveCost(TABLES, "latency_ms@board", values)
    predictor = smooth_accuracy(TINY, np.random.default_rng(4))
    result = solve(Problem(TABLES, predictor, minimise=latency, min_accuracy=0.2))
    assert np.isfinite(result.evaluated.costs).all()
    assert TINY.decode(result.best).resolution > 8


@pytest.mark.slow
@pytest.mark.parametrize("slack", [1.0, 1.001, 1.05, 3.0])
def test_the_answer_is_inside_however_tight_the_limit(slack: float) -> None:
    problem = imagenet_problem(slack)
    limit = problem.constraints[0].max
    result = solve(problem, evaluations=20_000)
    assert (result.evaluated.costs[:, 0] <= limit).all()
    assert result.costs["flops"] == IMAGENET.flops(result.best[None])[0]
    neighbours = IMAGENET.moves.within_two(result.best)
    inside = neighbours[IMAGENET.flops(neighbours) <= limit]
    assert result.two_opt
    assert result.two_opt_evaluations <= result.evaluations
    assert (problem.predictor.predict(inside) <= result.accuracy).all()


@pytest.mark.slow
def test_search_is_near_the_optimum_that_lagrangian_duality_bounds() -> None:
    """On an additive score under one limit, the best is bounded by the least Lagrangian over the multiplier."""
    space = IMAGENET.space
    rng = np.random.default_rng(5)
    gains = np.where(IMAGENET.dropped, 0, rng.exponential(1, IMAGENET.num_entries))
    gain, flops = AdditiveCost(IMAGENET, "gain", gains), IMAGENET.flops_cost
    limit = float(np.quantile(flops(space.sample(rng, 2000)), 0.2))
    bounds = []
    for multiplier in np.logspace(-10, -6, 200):
        least = IMAGENET.elimination.eliminate(multiplier * flops.conditioned - gain.conditioned).minimum
        bounds.append(float((multiplier * limit - least).max()))
    problem = Problem(IMAGENET, Function(lambda genomes: gain(genomes) / gain.ceiling), flops_at_most(IMAGENET, limit))
    found = [solve(problem, evaluations=60_000, seed=seed).accuracy * gain.ceiling for seed in range(3)]
    assert max(found) <= min(bounds)
    assert median(found) > 0.97 * min(bounds)
    random = solve(problem, evaluations=20_000, strategy="random", polish=False)
    assert random.accuracy * gain.ceiling < min(found)


@pytest.mark.slow
def test_of_many_budgets_each_is_answered_within_or_refused_with_the_true_floor() -> None:
    """Feasible and infeasible budgets on every cost and on two devices, one to four limits at a time."""
    space, rng = DIGITS.space, np.random.default_rng(6)
    devices = {name: random_device(rng) for name in ("board", "phone")}
    limited = {
        "flops": Limit("flops", 1.0),
        "params": Limit("params", 1.0),
        "model_bytes": Limit("model_bytes", 1.0),
        "peak_memory_bytes": Limit("peak_memory_bytes", 1.0),
        "board": Limit("latency_ms", 1.0, "board"),
        "board bound": Limit("latency_ms", 1.0, "board", 0.9),
        "phone": Limit("latency_ms", 1.0, "phone"),
    }
    costs = {name: cost_of(limit, DIGITS, devices) for name, limit in limited.items()}
    floors = dict.fromkeys(costs, np.inf)
    for batch in everything(DIGITS):
        index = DIGITS.index(batch)
        floors = {name: min(least, float(costs[name].at(index, batch[:, 0]).min())) for name, least in floors.items()}
    predictor = smooth_accuracy(space, rng)

    def problem(most: Mapping[str, float]) -> Problem:
        limits = [replace(limited[name], max=value) for name, value in most.items()]
        return Problem(DIGITS, predictor, constrain(limits, DIGITS, devices))

    def answered(most: Mapping[str, float], seed: int) -> None:
        result = solve(problem(most), evaluations=300, seed=seed)
        assert 0 < result.evaluations <= 300
        for name, value in most.items():
            assert (costs[name](result.evaluated.genomes) <= value).all()
            assert costs[name](result.best[None])[0] <= value

    for number in range(60):
        names, inside = rng.choice(list(costs), rng.integers(1, 5), replace=False), space.sample(rng, 1)
        slack = 1 + rng.choice([0, 0.001, 0.2])
        answered({name: float(costs[name](inside)[0] * slack) for name in names}, number)
    for _ in range(25):
        names = rng.choice(list(costs), rng.integers(1, 5), replace=False)
        most = {name: floors[name] * float(rng.uniform(1.2, 3)) for name in names}
        most[names[0]] = floors[names[0]] * float(rng.uniform(0.5, 0.9999))
        with pytest.raises(Infeasible) as caught:
            Search(problem(most))
        assert caught.value.floors == {costs[name].name: floors[name] for name in names}
    refusals = 0
    for number in range(25):  # one limit 0.1 % above its floor, others anywhere above theirs
        names = rng.choice(list(costs), rng.integers(2, 5), replace=False)
        most = {name: floors[name] * float(np.exp(rng.uniform(0, 0.5))) for name in names}
        most[names[0]] = floors[names[0]] * 1.001
        try:
            answered(most, number)
        except Infeasible as refusal:
            refusals += 1
            for name in names:
                near = refusal.nearest[costs[name].name]
                assert near.proven
                if np.isfinite(near.value):
                    answered({**most, name: near.value}, number)
    assert 0 < refusals < 25


def random_device(rng: np.random.Generator) -> LatencyModel:
    """A device whose blocks take a time of their own beside that for their multiply-adds."""
    blocks = {
        key: 0.002 * float(rng.lognormal(0, 0.5)) + sum(r.flops for r in flat(records)) / 1e8 * rng.lognormal(0, 0.5)
        for key, records in zip(DIGITS.block_keys, DIGITS.operators, strict=True)
        if key is not None
    }
    genomes = DIGITS.space.sample(rng, 30)
    sums = DIGITS.block_values(blocks)[DIGITS.index(genomes)].sum(1)
    return LatencyModel.fit(DIGITS, blocks, genomes, 0.9 * sums + 0.01, rng)


def everything(tables: CostTables) -> Iterator[Genomes]:
    """All genomes of a space of three stages of one or two blocks, a slice at a time: dropped blocks cost nothing."""
    space = tables.space
    counts = space.num_choices.tolist()
    free = [gene for gene in range(space.num_genes) if gene >= 4]
    kernels = np.stack(np.unravel_index(np.arange(3**6), [3] * 6), axis=1).astype(np.int8)
    for resolution, *depths in np.ndindex(*counts[:4]):
        for ratios in np.ndindex(*[counts[gene] for gene in free[1::2]]):
            genomes = np.zeros((len(kernels), space.num_genes), np.int8)
            genomes[:, :4] = (resolution, *depths)
            genomes[:, free[0::2]] = kernels
            genomes[:, free[1::2]] = ratios
            yield genomes


def test_two_opt_is_claimed_only_of_what_nothing_within_two_moves_improves() -> None:
    claims = []
    for evaluations in (100, 500, 2000, 12_000):
        problem = imagenet_problem(1.2)
        result = solve(problem, evaluations=evaluations, strategy="random")
        near = IMAGENET.moves.within_two(result.best)
        inside = near[problem.region.contains(near)]
        scored = {genome.tobytes() for genome in result.evaluated.genomes}
        assert result.two_opt == all(genome.tobytes() in scored for genome in inside)
        if result.two_opt:
            assert problem.predictor.predict(inside).max() <= result.accuracy
        claims.append(result.two_opt)
    assert claims[-1]
    assert not claims[0]


def test_what_the_last_thousand_evaluations_gained() -> None:
    problem = imagenet_problem()
    result = solve(problem, evaluations=2500, strategy="random", polish=False)
    before = result.evaluated.accuracy[:-1000].max()
    assert result.gained_last_1000 == result.accuracy - before
    assert solve(problem, evaluations=900).gained_last_1000 is None


# The budget, the seed and the state.


@pytest.mark.parametrize("evaluations", [1, 7, 100, 2000])
def test_the_budget_is_counted_exactly_and_nothing_is_scored_twice(evaluations: int) -> None:
    problem = imagenet_problem()
    assert isinstance(problem.predictor, Additive)
    predictor = Counting(problem.predictor)
    result = solve(Problem(IMAGENET, predictor, problem.constraints), evaluations=evaluations)
    assert result.evaluations == predictor.asked == len(result.evaluated) <= evaluations
    assert len(np.unique(result.evaluated.genomes, axis=0)) == result.evaluations
    assert (result.evaluated.genomes == IMAGENET.space.canonical(result.evaluated.genomes)).all()
    if evaluations <= 100:
        assert result.evaluations == evaluations


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SAMPLING)
def test_the_same_seed_gives_the_same_answer_and_another_seed_another_search(strategy: str) -> None:
    problem = imagenet_problem()
    one, again, other = (solve(problem, strategy=strategy, evaluations=1500, seed=seed) for seed in (3, 3, 4))
    assert same(one, again)
    assert one.evaluated.genomes.tolist() != other.evaluated.genomes.tolist()
    assert (one.seed, other.seed) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SAMPLING)
def test_a_search_resumed_from_any_step_gives_the_same_answer(strategy: str) -> None:
    problem = imagenet_problem()
    search = Search(problem, strategy=strategy, evaluations=1200, seed=5)
    states = [dict(search.state()) for _ in search.run()]
    whole = search.result()
    assert len(states) > 5
    for state in states[:: max(1, len(states) // 6)] + states[-2:]:
        assert all(array.dtype != object for array in state.values())
        resumed = Search.resume(problem, state)
        for _ in resumed.run():
            pass
        assert same(resumed.result(), whole)
        assert resumed.result().generations == whole.generations


@pytest.mark.parametrize("strategy", SAMPLING)
def test_accuracy_that_is_measured_counts_in_place_of_predictions(strategy: str) -> None:
    """Each genome is measured once, and a strategy's own predictions are not counted."""
    predictor, truth = (smooth_accuracy(IMAGENET.space, np.random.default_rng(seed)) for seed in (0, 1))
    measured = Counting(truth)
    problem = replace(imagenet_problem(), predictor=predictor, measure=measured.predict)
    result = solve(problem, strategy=strategy, evaluations=300, seed=1)
    assert result.evaluations == len(result.evaluated) == measured.asked == 300
    assert result.evaluated.accuracy == pytest.approx(truth.predict(result.evaluated.genomes), rel=1e-12)
    assert result.accuracy == result.evaluated.accuracy.max()
    with pytest.raises(ValueError, match=r"the measurement must give .* fractions in \[0, 1\]"):
        solve(replace(problem, measure=lambda genomes: -np.ones(len(genomes))), strategy=strategy, evaluations=300)


def test_a_state_of_something_else_is_refused() -> None:
    problem = imagenet_problem()
    search = Search(problem, evaluations=50)
    with pytest.raises(ValueError, match="nothing has been evaluated yet"):
        search.state()
    next(search.run())
    state = search.state()
    with pytest.raises(ValueError, match="state is of a search over"):
        Search.resume(Problem(TABLES, smooth_accuracy(TINY, np.random.default_rng(0))), state)
    with pytest.raises(ValueError, match="not the state of a search"):
        Search.resume(problem, {})


def test_progress_rises_and_the_answer_so_far_is_there_at_every_step() -> None:
    search = Search(imagenet_problem(), evaluations=800)
    best = 0.0
    for progress in search.run():
        assert progress.accuracy >= best
        assert progress.evaluations <= progress.max_evaluations == 800
        best = progress.accuracy
        result = search.result()
        assert result.accuracy == best
        assert result.best.tolist() == progress.best.tolist()
        assert result.finalists.accuracy.tolist() == sorted(result.finalists.accuracy, reverse=True)
    assert progress.phase == "done"
    assert len(result.finalists) == 200


def test_a_warm_start_is_scored_first_and_its_best_never_lost() -> None:
    problem = imagenet_problem()
    known = solve(problem, evaluations=4000).finalists.genomes[:10]
    result = solve(problem, evaluations=10, warm_start=known)
    assert result.evaluated.genomes.tolist() == known.tolist()
    assert result.best.tolist() == known[0].tolist()
    largest = (IMAGENET.space.num_choices - 1).astype(np.int8)[None]
    moved = solve(problem, evaluations=1, warm_start=largest)
    assert moved.costs["flops"] <= problem.constraints[0].max
    for bad in (known[:, 1:], known[0], known + 100):
        with pytest.raises(ValueError, match="warm-start"):
            Search(problem, warm_start=bad)


def test_a_fixed_resolution_is_kept() -> None:
    problem = imagenet_problem(3)
    fixed = Problem(IMAGENET, problem.predictor, problem.constraints, resolution=160)
    result = solve(fixed, evaluations=500)
    assert {IMAGENET.space.resolutions[r] for r in result.evaluated.genomes[:, 0]} == {160}


def test_bad_settings_and_bad_predictors_are_refused() -> None:
    problem = imagenet_problem()
    with pytest.raises(ValueError, match="unknown strategy 'luck'; there are evolution, "):
        Search(problem, strategy="luck")
    with pytest.raises(ValueError, match="evaluations is 0"):
        Search(problem, evaluations=0)
    with pytest.raises(ValueError, match="belong together"):
        Problem(IMAGENET, problem.predictor, min_accuracy=0.5)
    with pytest.raises(ValueError, match=r"min_accuracy is 75\.0"):
        Problem(IMAGENET, problem.predictor, minimise=IMAGENET.flops_cost, min_accuracy=75.0)
    for wrong in (lambda g: np.full(len(g), np.nan), lambda g: np.full(len(g), 75.0), lambda g: np.zeros(3)):
        with pytest.raises(ValueError, match="the predictor must give"):
            solve(Problem(IMAGENET, Function(wrong)), evaluations=10)


# Every strategy.


@pytest.mark.parametrize("name", SAMPLING)
def test_a_strategy_proposes_canonical_genomes_and_goes_on_where_its_state_was_taken(name: str) -> None:
    space, rng = IMAGENET.space, np.random.default_rng(1)
    problem = imagenet_problem()
    strategy = make_strategy(name, problem, rng)
    for _ in range(5):
        genomes = problem.region.repair(strategy.ask(), rng)
        assert len(genomes)
        assert (genomes == space.canonical(genomes)).all()
        assert ((genomes >= 0) & (genomes < space.num_choices)).all()
        strategy.tell(genomes, problem.score(genomes))
    same_numbers = np.random.default_rng()
    same_numbers.bit_generator.state = rng.bit_generator.state
    copy = make_strategy(name, problem, same_numbers)
    copy.restore({key: np.asarray(value) for key, value in strategy.state().items()})
    assert (copy.ask() == strategy.ask()).all()


def test_evolution_learns() -> None:
    problem = imagenet_problem(2)
    first, last = (
        np.mean([solve(problem, evaluations=n, seed=seed, polish=False).accuracy for seed in range(3)])
        for n in (300, 3000)
    )
    random = np.mean(
        [solve(problem, strategy="random", evaluations=3000, seed=seed, polish=False).accuracy for seed in range(3)]
    )
    assert last > random
    assert last > first


def test_restarts_that_agree_end_a_search_before_its_evaluations_are_spent() -> None:
    problem = Problem(DIGITS, smooth_accuracy(DIGITS.space, np.random.default_rng(0)), flops_at_most(DIGITS, 6e5))
    result = solve(problem, strategy="evolution", evaluations=10_000, polish=False)
    assert result.ended_by == "agreed"
    assert result.evaluations < 5_000


def test_a_warm_start_within_the_limits_is_scored_even_where_its_resolution_has_no_anchor() -> None:
    rng, unanchored = np.random.default_rng(0), 0
    large = ALL[ALL[:, 0] == 2]
    while unanchored < 5:
        costs = [random_cost(TABLES, rng, f"r{number}") for number in range(3)]
        known = large[rng.integers(len(large))][None]
        try:
            region = find_region(TABLES, [Constraint(cost, float(cost(known)[0])) for cost in costs], max_nodes=0)
        except Refused:
            continue
        unanchored += not region.anchored[2]
        assert region.repair(known, rng).tolist() == known.tolist()


def test_where_the_limits_leave_little_room_the_best_is_found() -> None:
    rng = np.random.default_rng(2)
    for seed in range(8):
        latency = random_cost(TABLES, rng, "latency")
        values = latency(ALL)
        most = float(np.sort(values)[25])
        problem = Problem(TABLES, smooth_accuracy(TINY, rng), (Constraint(latency, most),))
        result = solve(problem, evaluations=2_000, seed=seed)
        assert result.two_opt
        assert result.accuracy == pytest.approx(problem.predictor.predict(ALL[values <= most]).max(), rel=1e-12)


@pytest.mark.parametrize("strategy", SAMPLING)
@pytest.mark.parametrize("budget", [1, 7, 60, 300])
def test_no_strategy_exceeds_its_budget(strategy: str, budget: int) -> None:
    predictor = smooth_accuracy(DIGITS.space, np.random.default_rng(0))
    problem = Problem(DIGITS, predictor, flops_at_most(DIGITS, 1e6))
    assert solve(problem, strategy=strategy, evaluations=budget).evaluations <= budget


def test_what_the_last_evaluations_gained_is_of_the_objective() -> None:
    predictor = smooth_accuracy(DIGITS.space, np.random.default_rng(0))
    reachable = float(np.quantile(predictor.predict(DIGITS.space.sample(np.random.default_rng(1), 500)), 0.5))
    least = Problem(DIGITS, predictor, (), minimise=DIGITS.flops_cost, min_accuracy=reachable)
    assert solve(least, evaluations=900).gained_last_1000 is None
    found = solve(least, evaluations=4_000)
    assert found.reached
    assert found.gained_last_1000 is not None
    assert 0 <= found.gained_last_1000 < DIGITS.flops_cost.ceiling
    never = solve(replace(least, min_accuracy=0.9999), evaluations=4_000)
    assert not never.reached
    assert never.gained_last_1000 is None


def test_hypervolumes_end_where_no_architecture_costs_more() -> None:
    for name in ("spos-cifar", "mbv3-cifar"):
        tables = CostTables(preset(name))
        genomes = tables.space.sample(np.random.default_rng(0), 3_000)
        for cost in (tables.flops_cost, tables.peak_memory_cost):
            problem = Problem(tables, smooth_accuracy(tables.space, np.random.default_rng(0)), (), pareto=(cost,))
            assert cost(genomes).max() <= problem.reference[1]
    flops = TABLES.flops_cost
    assert flops.ceiling == flops(ALL).max()
