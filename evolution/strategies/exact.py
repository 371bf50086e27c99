"""Exact search, for predictors whose score is a sum over genes: it proves what it finds.

Minus the score is one more additive cost (`evolution.additive`), so the best architecture within limits solves a
knapsack (`evolution.knapsack`):

1. Cutting planes raise the bound of every resolution. Resolutions whose bound is no better than a solution are dropped.
2. Passes over partial genomes, each wider than the last, improve the solution until it meets the bound or the nodes are
   spent. Then the bound of what was left out says how much better an architecture could be.
3. Runners-up are the best architectures within two moves of the solution. Others on the way to smaller costs minimise
   the same weighted sums with larger multipliers; they are on the front of accuracy and costs.

A least cost at a required accuracy is the same with the roles of that cost and of the score exchanged.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.additive import score_cost
from evolution.costs import AdditiveCost
from evolution.knapsack import ROUNDING, Knapsacks, Solutions, Solver
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem, Scores
from evolution.region import Region
from evolution.strategies import Optimality, State
from supernet.space import Genomes

CUTS = 40  # steps of the cutting-plane method; some 10 are enough for one limit, some 20 for three
WIDTHS = (64, 512, 4_096, 32_768, 262_144)  # partial genomes that a pass keeps per gene
MAX_NODES = 1_000_000  # partial genomes visited: about a second
RUNNERS_UP = 256
PRICES = np.geomspace(1, 256, 16)  # factors of the multipliers, towards smaller costs


def find_obstacle(problem: Problem) -> str | None:
    """Why a problem has no exact search, in words; None if it has one."""
    if problem.measure is not None:
        return "accuracy is measured"
    if not isinstance(problem.predictor, AccuracyPredictor) or score_cost(problem.tables, problem.predictor) is None:
        return "the accuracy predictor is no sum over genes, as ridge regression is"
    if problem.minimise is not None and not isinstance(problem.minimise, AdditiveCost):
        return f"{problem.minimise.name} is a largest value, not a sum"
    return "a front has no single best architecture" if problem.pareto else None


class Exact:
    """Proposes the best architecture, then others near it, and says how good any architecture could be.

    Raises:
        ValueError: the problem has no exact search.
    """

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        if (obstacle := find_obstacle(problem)) is not None:
            raise ValueError(f"strategy exact proves nothing here: {obstacle}; leave the strategy out")
        assert isinstance(problem.predictor, AccuracyPredictor)
        score = score_cost(problem.tables, problem.predictor)
        assert score is not None
        self._problem, self._predictor, self._score = problem, problem.predictor, score
        self._asked = False
        self._least_cost = self._highest_accuracy = np.nan  # what no architecture is better than, once that is known

    def ask(self) -> Genomes:
        """(N, G) the best architecture first, then others; (0, G) from the second time on."""
        space, region = self._problem.tables.space, self._problem.region
        if self._asked:
            return np.zeros((0, space.num_genes), np.int8)
        self._asked = True
        costs, maxima = [constraint.cost for constraint in region.constraints], region.maxima
        others: list[Genomes] = []
        if self._problem.minimise is not None and self._problem.min_accuracy is not None:
            objective = [cost.name for cost in costs].index(self._problem.minimise.name)
            least_score = self._predictor.least_score(self._problem.min_accuracy)
            solutions, nearby = _solve(region, [*costs, self._score], [*maxima, -least_score], objective)
            self._least_cost = float(solutions.bounds[0])
            others.append(nearby)
        else:
            solutions = None
        if solutions is None or not np.isfinite(solutions.values[0]):
            solutions, nearby = _solve(region, [*costs, self._score], [*maxima, np.inf], len(costs))
            self._highest_accuracy = float(self._predictor.accuracy_of(-solutions.bounds)[0])
            others.append(nearby)
        best = space.canonical(solutions.genomes)
        if np.isfinite(solutions.values[0]):
            others = [best, self._runners_up(best[0]), *others]
        return np.concatenate(others)

    def _runners_up(self, best: Genomes) -> Genomes:
        """(N, G) the best architectures within the limits and two moves of a genome (G,), best first."""
        region = self._problem.region
        genomes = region.moves.within_two(best)
        genomes = genomes[region.contains(genomes)]
        minimise = self._problem.minimise
        price = np.zeros(len(genomes)) if minimise is None else minimise(genomes)
        value = self._problem.value(self._predictor.accuracy_of(-self._score(genomes)), price)
        return genomes[np.argsort(-value, kind="stable")[:RUNNERS_UP]]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Nothing to learn."""

    def certify(self, accuracy: float, price: float) -> Optimality | None:
        """How good an answer is that has this predicted accuracy and this minimised cost. None before the first `ask`.

        An answer without the required accuracy is the most accurate one, so its accuracy is compared.
        """
        minimum = self._problem.min_accuracy
        if minimum is not None and accuracy >= minimum:
            bound, value = self._least_cost, price
            gap = value - bound
        else:
            bound, value = self._highest_accuracy, accuracy
            gap = bound - value
        if np.isnan(bound):
            return None
        if gap <= ROUNDING * abs(value):
            return Optimality(proven=True, bound=value, gap=0.0)
        return Optimality(proven=False, bound=bound, gap=gap)

    def state(self) -> dict[str, NDArray[Any]]:
        """The bounds, and whether there is anything left to ask."""
        return {"bounds": np.array([self._least_cost, self._highest_accuracy]), "asked": np.array(self._asked)}

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._least_cost, self._highest_accuracy = np.asarray(state["bounds"]).tolist()
        self._asked = bool(state["asked"])


def _solve(region: Region, costs: list[AdditiveCost], maxima: list[float], objective: int) -> tuple[Solutions, Genomes]:
    """The lowest value of one of K costs at the allowed resolutions, within (K,) limits on all.

    Also (N, G) genomes within the limits that minimise the objective plus multiples of the other costs.
    """
    resolutions = np.flatnonzero(region.allowed)
    count = len(resolutions)
    knapsacks = Knapsacks(
        resolutions=resolutions,
        objectives=np.full(count, objective),
        limits=np.tile(maxima, (count, 1)),
        groups=np.zeros(count, np.intp),
        num_groups=1,
        blocked=np.logical_or.reduce([np.isinf(cost.conditioned) for cost in costs]),
    )
    solver = Solver(region.tables, costs, knapsacks)
    solver.tighten_bounds(CUTS)
    nodes = 0
    for width in WIDTHS:
        if not solver.is_open or nodes >= MAX_NODES:
            break
        nodes += solver.search(width, MAX_NODES - nodes)
    nearby = region.tables.space.canonical(solver.minimisers(PRICES))
    return solver.solutions(nodes), nearby[region.contains(nearby)]
