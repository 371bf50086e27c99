"""Comparisons on a space whose optimum enumeration knows."""

from dataclasses import replace

import numpy as np
import pytest

from evolution.comparison import Comparison, Run, run_strategies
from evolution.costs import CostTables
from evolution.limits import Limit, constrain
from evolution.problem import Problem
from evolution.search import STRATEGIES
from supernet.families import preset
from supernet.space import Gene
from tests.support.predictors import network
from tests.support.tiny import enumerate_space

DIGITS = preset("mbv3-digits")
SMALL = replace(
    DIGITS,
    name="mbv3-digits-small",
    resolutions=(8, 12),
    block_genes=(Gene("kernel_size", (3, 5)), Gene("expand_ratio", (2, 4))),
)
TABLES = CostTables(SMALL)
ALL = enumerate_space(SMALL)
SEEDS = 4
SAMPLING = sorted({*STRATEGIES} - {"exact"})  # the strategies for any predictor


@pytest.fixture(scope="module")
def problem() -> Problem:
    limit = float(np.quantile(TABLES.flops(ALL), 0.4))
    return Problem(TABLES, network(SMALL, 5), constrain([Limit("flops", limit)], TABLES, {}))


@pytest.fixture(scope="module")
def optimum(problem: Problem) -> float:
    return float(problem.predictor.predict(ALL[problem.region.contains(ALL)]).max())


@pytest.fixture(scope="module")
def done(problem: Problem) -> list[Run]:
    return list(run_strategies(problem, SAMPLING, evaluations=600, seeds=SEEDS, local_search=False))


def test_the_space_is_small_enough_to_enumerate_and_too_large_for_the_budget() -> None:
    assert len(ALL) == 2 * 20**3
    assert len(ALL) > 20 * 600


def test_regret_is_the_distance_to_the_true_optimum(done: list[Run], optimum: float) -> None:
    comparison = Comparison.from_runs(done, optimum)
    assert comparison.best_known == optimum
    assert [summary.regret for summary in comparison.summaries] == sorted(s.regret for s in comparison.summaries)
    for summary in comparison.summaries:
        assert summary.regret == pytest.approx(optimum - np.mean(summary.accuracies))
        assert summary.regret >= -1e-7
        assert len(summary.accuracies) == SEEDS
    by_name = {summary.strategy: summary for summary in comparison.summaries}
    assert set(by_name) == set(SAMPLING)
    assert by_name["evolution"].regret < 0.5 * by_name["random"].regret
    assert by_name["evolution"].p_value == pytest.approx(1 / 70, abs=0.02)  # 70 ways to choose 4 of 8
    assert by_name["random"].p_value is None


def test_all_have_the_same_budget(done: list[Run], problem: Problem) -> None:
    for run in done:
        assert (np.diff(run.evaluations) >= 0).all()
        assert (np.diff(run.accuracy) >= 0).all()
        assert run.evaluations[-1] <= 600 + 64
        assert problem.region.contains(run.best[None]).all()
        assert run.accuracy[-1] == pytest.approx(problem.predictor.predict(run.best[None])[0])
        if run.strategy in ("nsga2", "random"):  # evolution may end before, when its restarts agree
            assert run.evaluations[-1] == 600


def test_curves_are_the_best_so_far(done: list[Run]) -> None:
    comparison = Comparison.from_runs(done)
    grid = np.array([1, 50, 600])
    curves = comparison.curves(grid)
    for summary in comparison.summaries:
        curve = curves[summary.strategy]
        assert curve.shape == (SEEDS, 3)
        assert np.isnan(curve[:, 0]).all()
        assert curve[:, 2].tolist() <= list(summary.accuracies)
    assert curves["random"][:, 2].tolist() == list(
        next(s for s in comparison.summaries if s.strategy == "random").accuracies
    )
    assert comparison.best_known == max(max(summary.accuracies) for summary in comparison.summaries)


def test_with_the_local_search_all_but_the_baseline_end_with_it(problem: Problem, optimum: float) -> None:
    comparison = Comparison.from_runs(run_strategies(problem, ["evolution", "random"], evaluations=600, seeds=2))
    alone = Comparison.from_runs(
        run_strategies(problem, ["evolution", "random"], evaluations=600, seeds=2, local_search=False)
    )
    random = [{s.strategy: s.accuracies for s in one.summaries}["random"] for one in (comparison, alone)]
    assert random[0] == random[1]


def test_another_objective_is_refused(problem: Problem) -> None:
    front = Problem(TABLES, problem.predictor, pareto=(TABLES.flops_cost,))
    with pytest.raises(ValueError, match="compared by the accuracy that they reach"):
        next(run_strategies(front, ["random"], evaluations=10, seeds=1))
