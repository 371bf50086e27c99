"""Restricted choices against enumeration: which architectures they leave, and that no search leaves these."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from evolution.choices import Choices
from evolution.costs import Cost, CostTables, PeakCost
from evolution.feasibility import find_region
from evolution.limits import Constraint, Limit
from evolution.moves import Moves
from evolution.problem import Problem, build_problem
from evolution.refusal import Infeasible, NotProven
from evolution.search import STRATEGIES, Search, solve
from evolution.sensitivity import sensitivities
from supernet.families import preset, presets
from supernet.space import Architecture, Gene, Genomes, SearchSpace, Value
from tests.support.additive import random_ridge
from tests.support.neighbours import neighbours
from tests.support.restrictions import obeys, random_restrictions
from tests.support.tiny import TINY, enumerate_space, random_cost, smooth_accuracy

TABLES = CostTables(TINY)
ALL = enumerate_space(TINY)
DIGITS = CostTables(preset("mbv3-digits"))
NO_SEVEN = {"kernel_size": (3, 5), "stage3.depth": (2,), "stage2.block1.expand_ratio": (4,), "resolution": (8, 16)}


def names(space: SearchSpace, restrictions: Mapping[str, tuple[Value, ...]]) -> dict[str, list[Value]]:
    """By name of the gene, the open choices of the restricted genes."""
    choices = Choices(space, restrictions)
    return {
        gene.name: [choice for choice, is_open in zip(gene.choices, row, strict=False) if is_open]
        for gene, row, count in zip(space.genes, choices.open, choices.counts, strict=True)
        if count < len(gene.choices)
    }


def test_a_name_is_a_gene_a_kind_or_a_kind_within_a_stage() -> None:
    space = preset("mbv3-digits")
    kernels = [gene.name for gene in space.genes if gene.name.endswith("kernel_size")]
    assert names(space, {"kernel_size": (5, 3)}) == {name: [3, 5] for name in kernels}
    in_stage = {"stage2.block1.kernel_size": [7], "stage2.block2.kernel_size": [7]}
    assert names(space, {"stage2.kernel_size": (7,)}) == in_stage
    assert names(space, {"stage2.block2.expand_ratio": (2,)}) == {"stage2.block2.expand_ratio": [2]}
    assert names(space, {"stage3.depth": (2,), "resolution": (16,)}) == {"resolution": [16], "stage3.depth": [2]}
    both = {"stage1.kernel_size": (3, 5), "kernel_size": (5, 7)}
    assert names(space, both)["stage1.block1.kernel_size"] == [5]
    assert not Choices(space, {"kernel_size": (3, 5, 7)}).restricted
    assert Choices(space, {"kernel_size": (7, 5, 3), "depth": (2,)}).binding == {"depth": (2,)}
    stem = names(preset("resnet50d-imagenet"), {"stem.width": (0.8, 1.0)})
    assert stem == {"stem.width": [0.8, 1.0]}  # and not stem.mid.width, since a gene has exactly this name


@pytest.mark.parametrize(
    ("restrictions", "message"),
    [
        (
            {"colour": (1,)},
            "mbv3-digits has no gene 'colour'; its genes are resolution, depth, kernel_size, expand_rat",
        ),
        ({"stage4.depth": (1,)}, "no gene 'stage4.depth'.* stage1.depth, stage2.depth, stage3.depth, stage1.block1"),
        ({"kernel_size": (3, 9)}, "kernel_size has no choice 9; its choices are 3, 5, 7"),
        ({"kernel_size": ()}, "nothing is left of stage1.block1.kernel_size, .* restricted to no choice at all"),
        (
            {"kernel_size": (3,), "stage2.kernel_size": (5, 7)},
            "nothing is left of stage2.block1.kernel_size, whose choices are 3, 5, 7, with stage2.kernel_size res",
        ),
    ],
)
def test_what_cannot_be_restricted_is_named(restrictions: Mapping[str, tuple[Value, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Choices(preset("mbv3-digits"), restrictions)


def test_a_kind_without_a_choice_in_one_gene_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"nothing is left of stage6.depth, whose choices are 1, with depth restricted"
    ):
        Choices(preset("proxyless-imagenet-w1.3"), {"depth": (2, 3)})


@pytest.mark.parametrize("seed", range(20))
def test_excluded_entries_are_those_of_excluded_architectures(seed: int) -> None:
    restrictions = random_restrictions(TINY, np.random.default_rng(seed), 1 + seed % 3)
    excluded = Choices(TINY, restrictions).excluded(TABLES)
    assert (excluded[TABLES.index(ALL)].any(1) == ~obeys(TINY, restrictions, ALL)).all()


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_gene_of_every_preset_can_be_restricted(name: str) -> None:
    space, rng = preset(name), np.random.default_rng(0)
    tables, genomes = CostTables(space), space.sample(rng, 40)
    restrictions = {gene.name: gene.choices[::2] for gene in space.genes}
    excluded = Choices(space, restrictions).excluded(tables)
    assert (excluded[tables.index(genomes)].any(1) == ~obeys(space, restrictions, genomes)).all()


def test_a_gene_that_changes_nothing_cannot_be_restricted() -> None:
    space = replace(TINY, extra_genes=(*TINY.extra_genes, Gene("zeal", (1, 2))))
    with pytest.raises(ValueError, match="nothing in tiny depends on zeal"):
        Choices(space, {"zeal": (1,)}).excluded(CostTables(space))


def random_problem(rng: np.random.Generator) -> tuple[Problem, Genomes, Genomes]:
    """Restricted choices and limits on up to two sums and a peak; what the choices leave, and what is within both."""
    costs: list[Cost] = [random_cost(TABLES, rng, f"cost{i}") for i in range(rng.integers(0, 3))]
    if rng.random() < 0.5:
        costs.append(PeakCost(TABLES, "peak", np.where(TABLES.dropped, 0.0, rng.integers(0, 12, TABLES.num_entries))))
    constraints = [Constraint(cost, float(np.quantile(cost(ALL), rng.uniform(0, 0.4)))) for cost in costs]
    restrictions = random_restrictions(TINY, rng, int(rng.integers(1, 4)))
    left = ALL[obeys(TINY, restrictions, ALL)]
    within = np.ones(len(left), bool)
    for limit in constraints:
        within &= limit.cost(left) <= limit.max
    problem = Problem(TABLES, smooth_accuracy(TINY, rng), tuple(constraints), choices=Choices(TINY, restrictions))
    return problem, left, left[within]


@pytest.mark.slow
def test_regions_floors_and_nearest_budgets_are_those_of_enumeration() -> None:
    outcomes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        problem, left, inside = random_problem(rng)
        assert problem.within(ALL).sum() == len(inside)
        if len(inside):
            outcomes.add("met")
            region = problem.region
            assert (ALL[region.contains(ALL)] == inside).all()
            assert set(np.flatnonzero(region.anchored)) == set(inside[:, 0].tolist())
            repaired = region.repair(ALL, rng)
            assert region.contains(repaired).all()
            assert (repaired[region.contains(ALL)] == inside).all()
            assert (region.repair(repaired, rng) == repaired).all()
            continue
        with pytest.raises(Infeasible, match="of tiny with ") as caught:
            problem.require_feasible()
        values = np.stack([limit.cost(left) for limit in problem.constraints], axis=1)
        met = values <= [limit.max for limit in problem.constraints]
        for i, limit in enumerate(problem.constraints):
            nearest, others = caught.value.nearest[limit.cost.name], np.delete(met, i, axis=1).all(1)
            outcomes.add("one is to be raised" if others.any() else "several are")
            assert caught.value.floors[limit.cost.name] == values[:, i].min()
            assert nearest.proven
            assert nearest.value == pytest.approx(values[others, i].min() if others.any() else np.inf, rel=1e-9)
    assert outcomes == {"met", "one is to be raised", "several are"}


def test_a_refusal_says_which_choices_are_open() -> None:
    limits, accuracy = [Limit("flops", 200_000)], smooth_accuracy(DIGITS.space, np.random.default_rng(0))
    build_problem(DIGITS, accuracy, {}, limits=limits).require_feasible()
    problem = build_problem(DIGITS, accuracy, {}, limits=limits, choices={"kernel_size": (5, 7), "stage3.depth": (2,)})
    least = DIGITS.space.encode(Architecture(8, (((5, 2),), ((5, 2),), ((5, 2), (5, 2)))))
    floor = int(DIGITS.flops(least[None])[0])
    with pytest.raises(Infeasible, match=f"mbv3-digits with kernel_size 5 or 7, stage3.depth 2 is below {floor:,}; "):
        problem.require_feasible()


def test_a_resolution_that_the_choices_exclude_is_refused() -> None:
    choices = Choices(TINY, {"resolution": (12,)})
    for resolution, largest in ((16, None), (None, 8)):
        with pytest.raises(ValueError, match=r"resolution is \d+, which the restricted choices exclude: resolution 12"):
            find_region(TABLES, (), resolution, largest, choices=choices)


@pytest.mark.parametrize("seed", range(6))
def test_moves_go_from_open_choice_to_open_choice(seed: int) -> None:
    """Where no depth is skipped, they are the moves of the space that stay among the open choices."""
    space, rng = DIGITS.space, np.random.default_rng(seed)
    restrictions = random_restrictions(space, rng, 3)
    choices = Choices(space, restrictions)
    moves = Moves(choices)
    for genome in choices.sample(rng, 10):
        near = neighbours(space, genome)
        made = moves.neighbours(genome)
        assert {g.tobytes() for g in made} == {g.tobytes() for g in near[obeys(space, restrictions, near)]}
        assert obeys(space, restrictions, moves.within_two(genome)).all()


def test_moves_skip_an_excluded_depth() -> None:
    space, restrictions = TINY, {"stage1.depth": (1, 3)}
    moves = Moves(Choices(space, restrictions))
    shallow = space.canonical(np.zeros(space.num_genes, np.int8))
    grown = [genome for genome in moves.neighbours(shallow) if genome[space.depth_gene(0)] == 2]
    assert len({genome.tobytes() for genome in grown}) == 9  # two blocks of three widths
    assert shallow.tobytes() in {genome.tobytes() for genome in moves.neighbours(grown[0])}


def test_a_stage_that_grows_by_many_blocks_has_few_moves() -> None:
    space = replace(TINY, depths=((1, 2, 9), (1, 2)))
    moves = Moves(Choices(space, {"stage1.depth": (1, 9)}))
    grown = [genome for genome in moves.neighbours(np.zeros(space.num_genes, np.int8)) if genome[space.depth_gene(0)]]
    assert len(grown) == 1 + 8 * 2  # eight blocks at their first width, or one of them at another


# Searches.


@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - {"exact"}))
@pytest.mark.parametrize("objective", ["accuracy", "least", "front"])
def test_no_strategy_evaluates_an_architecture_outside(strategy: str, objective: str) -> None:
    """Though the warm start lies outside."""
    space, rng = DIGITS.space, np.random.default_rng(3)
    limits = (Constraint(DIGITS.flops_cost, 1.2e6),) if objective != "least" else ()
    problem = Problem(
        DIGITS,
        smooth_accuracy(space, rng),
        limits,
        choices=Choices(space, NO_SEVEN),
        minimise=DIGITS.params_cost if objective == "least" else None,
        min_accuracy=0.6 if objective == "least" else None,
        pareto=(DIGITS.params_cost,) if objective == "front" else (),
    )
    warm_start = space.sample(rng, 50)
    result = solve(problem, strategy=strategy, evaluations=900, warm_start=warm_start, seed=1)
    assert len(result.evaluated) > 100
    for genomes in (result.evaluated.genomes, result.front.genomes, result.finalists.genomes, result.best[None]):
        assert obeys(space, NO_SEVEN, genomes).all()
    assert (result.evaluated.genomes == space.canonical(result.evaluated.genomes)).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_best_of_a_tiny_space_is_found_among_open_choices(seed: int) -> None:
    problem, _, inside = random_problem(np.random.default_rng(seed))
    if not len(inside):
        with pytest.raises(Infeasible):
            solve(problem)
        return
    result = solve(problem, seed=seed)
    assert result.accuracy == pytest.approx(problem.predictor.predict(inside).max(), rel=1e-12)
    assert result.evaluations <= len(inside)


@pytest.mark.parametrize("seed", range(12))
def test_what_exact_search_proves_is_the_best_of_the_open_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = [random_cost(TABLES, rng, f"cost{i}") for i in range(seed % 3)]
    constraints = tuple(Constraint(cost, float(np.quantile(cost(ALL), 0.5))) for cost in costs)
    restrictions, predictor = random_restrictions(TINY, rng, 2), random_ridge(TINY, rng)
    problem = Problem(TABLES, predictor, constraints, choices=Choices(TINY, restrictions))
    inside = ALL[problem.within(ALL) & obeys(TINY, restrictions, ALL)]
    if not len(inside):
        with pytest.raises(Infeasible):
            solve(problem, strategy="exact")
        return
    result = solve(problem, strategy="exact")
    assert obeys(TINY, restrictions, result.evaluated.genomes).all()
    assert result.accuracy == pytest.approx(predictor.predict(inside).max(), rel=1e-12)
    assert result.optimality is not None
    assert result.optimality.proven


@pytest.mark.parametrize("strategy", ["evolution", "nsga2"])
def test_restrictions_that_exclude_nothing_change_no_answer(strategy: str) -> None:
    open_wide = Choices(DIGITS.space, {"kernel_size": (3, 5, 7)})
    problem = Problem(DIGITS, smooth_accuracy(DIGITS.space, np.random.default_rng(0)))
    results = [
        solve(each, strategy=strategy, evaluations=1000) for each in (problem, replace(problem, choices=open_wide))
    ]
    assert results[0].evaluated.genomes.tolist() == results[1].evaluated.genomes.tolist()


@pytest.mark.parametrize("strategy", sorted({*STRATEGIES} - {"exact"}))
def test_a_resumed_search_gives_the_same_answer(strategy: str) -> None:
    problem = Problem(
        DIGITS, smooth_accuracy(DIGITS.space, np.random.default_rng(0)), choices=Choices(DIGITS.space, NO_SEVEN)
    )
    straight = solve(problem, strategy=strategy, evaluations=700)
    search = Search(problem, strategy=strategy, evaluations=700)
    for _ in zip(range(4), search.run(), strict=False):
        pass
    resumed = Search.resume(problem, search.state()).run_to_end()
    assert resumed.evaluated.genomes.tolist() == straight.evaluated.genomes.tolist()


def test_what_a_little_more_buys_is_bought_with_open_choices() -> None:
    problem = Problem(
        DIGITS,
        smooth_accuracy(DIGITS.space, np.random.default_rng(0)),
        (Constraint(DIGITS.flops_cost, 1.2e6),),
        choices=Choices(DIGITS.space, NO_SEVEN),
    )
    result = solve(problem)
    near = problem.region.moves.within_two(result.best)
    assert obeys(DIGITS.space, NO_SEVEN, near).all()
    within = near[DIGITS.flops(near) <= 1.2e6 * 1.05]
    gained = max(0.0, float(problem.predictor.predict(within).max()) - result.accuracy)
    (sensitivity,) = sensitivities(problem, result.best)
    assert sensitivity.gained == pytest.approx(gained)


def test_a_cut_off_search_falls_back_on_known_architectures_that_are_open() -> None:
    rescued = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        costs = [random_cost(TABLES, rng, f"cost{i}") for i in range(3)]
        constraints = [Constraint(cost, float(np.quantile(cost(ALL), rng.uniform(0, 0.4)))) for cost in costs]
        choices = Choices(TINY, random_restrictions(TINY, rng, 2))
        problem = Problem(TABLES, smooth_accuracy(TINY, rng), tuple(constraints), choices=choices)
        try:
            find_region(TABLES, problem.bounded, choices=choices, max_nodes=0)
        except NotProven:
            if problem.within(ALL).any():
                region = find_region(TABLES, problem.bounded, choices=choices, max_nodes=0, known=ALL)
                assert obeys(TINY, choices.restrictions, region.anchors[region.anchored]).all()
                rescued += 1
        except Infeasible:
            assert not problem.within(ALL).any()
    assert rescued
