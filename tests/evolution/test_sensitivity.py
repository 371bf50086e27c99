"""What limits buy: against every architecture within two moves, found one move at a time."""

from dataclasses import replace

import numpy as np
import pytest

from evolution.costs import CostTables
from evolution.limits import Constraint
from evolution.problem import Problem
from evolution.search import solve
from evolution.sensitivity import STEP, Sensitivity, sensitivities
from supernet.space import Gene, Genomes
from tests.support.neighbours import neighbours
from tests.support.tiny import TINY, random_cost, smooth_accuracy


def near(genome: Genomes) -> Genomes:
    """(K, G) the genome and what one or two moves make of it."""
    once = neighbours(TINY, genome)
    return np.unique(np.concatenate([genome[None], once, *(neighbours(TINY, one) for one in once)]), axis=0)


def problem(seed: int, *, minimise: bool = False, resolution: int | None = None) -> Problem:
    """Two random costs with limits of which the answer makes use, or one of them to minimise."""
    rng = np.random.default_rng(seed)
    tables = CostTables(TINY)
    one, other = (random_cost(tables, rng, name) for name in ("one", "other"))
    sample = TINY.sample(rng, 200)
    sample = sample[sample[:, 0] == TINY.resolutions.index(resolution)] if resolution else sample
    limits = [Constraint(cost, float(np.quantile(cost(sample), 0.5))) for cost in (one, other)]
    predictor = smooth_accuracy(TINY, rng)
    if not minimise:
        return Problem(tables, predictor, tuple(limits), resolution)
    reached = float(np.quantile(predictor.predict(sample), 0.5))
    return Problem(tables, predictor, (limits[1],), resolution, minimise=one, min_accuracy=reached)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("resolution", [None, 12])
def test_gains_and_losses_are_of_the_best_architecture_within_two_moves(seed: int, resolution: int | None) -> None:
    asked = problem(seed, resolution=resolution)
    answer = solve(asked, evaluations=200, seed=seed).best
    found = sensitivities(asked, answer)
    assert [one.cost for one in found] == ["one", "other"]
    genomes = near(answer)
    genomes = genomes[genomes[:, 0] == 1] if resolution else genomes
    accuracy = asked.predictor.predict(genomes)
    now = asked.predictor.predict(answer[None])[0]
    for one, changed, held in zip(found, asked.constraints, asked.constraints[::-1], strict=True):
        costs, within = changed.cost(genomes), held.cost(genomes) <= held.max
        assert one.step == STEP * changed.max
        assert one.gained == pytest.approx(accuracy[within & (costs <= changed.max * (1 + STEP))].max() - now)
        lowered = accuracy[within & (costs <= changed.max * (1 - STEP))]
        assert one.lost == (pytest.approx(max(0.0, now - lowered.max())) if len(lowered) else None)
        assert one.gained_per_unit == one.gained / one.step
        assert one.gained >= 0


@pytest.mark.parametrize("seed", range(6))
def test_the_cheapest_gene_saves_at_the_least_accuracy(seed: int) -> None:
    asked = problem(seed)
    answer = solve(asked, evaluations=200, seed=seed).best
    moves = neighbours(TINY, answer)
    for one, changed, held in zip(
        sensitivities(asked, answer), asked.constraints, asked.constraints[::-1], strict=True
    ):
        saved = changed.cost(answer[None])[0] - changed.cost(moves)
        lost = asked.predictor.predict(answer[None])[0] - asked.predictor.predict(moves)
        usable = (saved > 0) & (held.cost(moves) <= held.max)
        if one.cheapest is None:
            assert not usable.any()
            continue
        rates = np.where(usable, lost / np.where(usable, saved, 1), np.inf)
        assert -one.cheapest.accuracy / -one.cheapest.cost == pytest.approx(rates.min())
        chosen = TINY.decode(moves[rates.argmin()]).to_json(), TINY.decode(answer).to_json()
        assert one.cheapest.cost < 0
        assert chosen[0] != chosen[1]
        gene = next(i for i, gene in enumerate(TINY.genes) if gene.name == one.cheapest.gene)
        assert TINY.genes[gene].choices[answer[gene]] == one.cheapest.old
        assert TINY.genes[gene].choices[moves[rates.argmin()][gene]] == one.cheapest.new


def test_of_a_minimised_cost_the_answers_own_is_the_limit() -> None:
    asked = problem(3, minimise=True)
    answer = solve(asked, evaluations=300).best
    found = {one.cost: one for one in sensitivities(asked, answer)}
    assert asked.minimise is not None
    assert list(found) == ["other", "one"]
    assert found["one"].limit == asked.minimise(answer[None])[0]
    assert found["one"].gained >= 0
    assert found["one"].lost is not None
    assert found["one"].lost > 0  # less of it would not reach the accuracy


def test_a_limit_that_does_not_bind_is_worth_nothing() -> None:
    asked = problem(0)
    loose = Problem(asked.tables, asked.predictor, (Constraint(asked.constraints[0].cost, 1e9),))
    (one,) = sensitivities(loose, solve(loose, evaluations=300).best)
    assert (one.gained, one.lost, one.gained_per_unit, one.lost_per_unit) == (0, 0, 0, 0)


def test_where_nothing_near_is_cheaper_the_loss_is_unknown() -> None:
    asked = problem(0)
    cost = asked.constraints[0].cost
    floor = Problem(asked.tables, asked.predictor, (Constraint(cost, float(cost.floors.min())),))
    (one,) = sensitivities(floor, solve(floor, evaluations=300).best)
    assert (one.lost, one.lost_per_unit, one.cheapest) == (None, None, None)


def test_without_limits_there_is_nothing_to_say() -> None:
    asked = problem(0)
    free = Problem(asked.tables, asked.predictor)
    assert sensitivities(free, solve(free, evaluations=100).best) == ()


def test_equal_answers_have_equal_sensitivities() -> None:
    asked = problem(1)
    answer = solve(asked, evaluations=200).best
    first, second = (sensitivities(asked, answer) for _ in range(2))
    assert first == second
    assert all(isinstance(one, Sensitivity) for one in first)


def test_a_limit_on_peak_memory_is_read_off_like_the_others() -> None:
    tables = CostTables(TINY)
    sample = TINY.sample(np.random.default_rng(0), 200)
    peak = Constraint(tables.peak_memory_cost, float(np.quantile(tables.peak_memory_bytes(sample), 0.5)))
    asked = Problem(tables, smooth_accuracy(TINY, np.random.default_rng(0)), (peak,), max_resolution=12)
    answer = solve(asked, evaluations=300).best
    (found,) = sensitivities(asked, answer)
    genomes = near(answer)
    genomes = genomes[genomes[:, 0] < 2]
    accuracy, costs = asked.predictor.predict(genomes), peak.cost(genomes)
    now = asked.predictor.predict(answer[None])[0]
    assert found.gained == pytest.approx(accuracy[costs <= peak.max * (1 + STEP)].max() - now)
    assert found.lost == pytest.approx(max(0.0, now - accuracy[costs <= peak.max * (1 - STEP)].max()))


def test_in_a_space_of_one_architecture_nothing_can_change() -> None:
    groups = (Gene("groups", (1,)),)
    one = replace(TINY, resolutions=(8,), depths=((1,),), block_genes=(Gene("width", (2,)),), extra_genes=groups)
    tables = CostTables(one)
    asked = Problem(tables, smooth_accuracy(one, np.random.default_rng(0)), (Constraint(tables.flops_cost, 1e9),))
    (found,) = sensitivities(asked, solve(asked, evaluations=10).best)
    assert (found.gained, found.lost, found.cheapest) == (0, 0, None)
