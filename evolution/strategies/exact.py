"""Exact search, for predictors whose score is a sum over genes: it proves what it finds.

Minus the score is one more additive cost (`evolution.additive`), so the best architecture within limits solves a
knapsack (`evolution.knapsack`):

1. Cutting planes raise the bound of every resolution. Resolutions whose bound is no better than a solution are dropped.
2. Passes over partial genomes, each wider than the last, improve the solution until it meets the bound or the nodes are
   spent. Then the bound of what was left out says how much better an architecture could be.
3. Runners-up are the best architectures within two moves of the solution. Others on the way to smaller costs minimise
   the same weighted sums with larger multipliers; they are on the front of accuracy and costs.

A least cost at a required accuracy is the same with the roles of that cost and of the score exchanged. A front of
accuracy and one cost needs a single pass that keeps every partial genome that no other dominates.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evolution.additive import score_cost
from evolution.arrays import Floats
from evolution.costs import AdditiveCost, Cost
from evolution.knapsack import ROUNDING, Knapsacks, Solutions, Solver
from evolution.pareto import crowding_distances, hypervolumes, non_dominated
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.problem import Problem, Scores
from evolution.strategies import Optimality, State
from supernet.space import Genomes

CUTS = 40  # steps of the cutting-plane method; some 10 are enough for one limit, some 20 for three
WIDTHS = (64, 512, 4_096, 32_768, 262_144)  # partial genomes that a pass keeps per gene
MAX_NODES = 1_000_000  # partial genomes visited: about a second
RUNNERS_UP = 256
PRICES = np.geomspace(1, 256, 16)  # factors of the multipliers, towards smaller costs
FRONT_PRICES = np.geomspace(1 / 256, 256, 64)  # the same, towards larger costs too
FRONT_WIDTH = 50_000  # partial genomes per gene, of a front


def find_obstacle(problem: Problem) -> str | None:
    """Why a problem has no exact search, in words; None if it has one."""
    if problem.measure is not None:
        return "accuracy is measured"
    if not isinstance(problem.predictor, AccuracyPredictor) or score_cost(problem.tables, problem.predictor) is None:
        return "the accuracy predictor is no sum over genes, as ridge regression is"
    if len(problem.pareto) > 1:
        return "a front of two costs is too large"
    for cost in (problem.minimise, *problem.pareto):
        if cost is not None and not isinstance(cost, AdditiveCost):
            return f"{cost.name} is no sum over parts"
    return None


class Exact:
    """Proposes the best architecture, then others near it, or the whole front. Knows how good any architecture can be.

    Raises:
        ValueError: the problem has no exact search.
    """

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        if (obstacle := find_obstacle(problem)) is not None:
            raise ValueError(f"strategy exact proves nothing here: {obstacle}; leave the strategy out")
        self._problem, self._predictor = problem, cast(AccuracyPredictor, problem.predictor)
        self._score = cast(AdditiveCost, score_cost(problem.tables, self._predictor))
        self._asked = False
        # What no architecture is better than, once that is known: the minimised cost, accuracy, hypervolume.
        self._least_cost = self._highest_accuracy = self._largest_volume = np.nan

    def ask(self) -> Genomes:
        """(N, G) the best architecture first, then others; (0, G) from the second time on."""
        space = self._problem.tables.space
        if self._asked:
            return np.zeros((0, space.num_genes), np.int8)
        self._asked = True
        if self._problem.pareto:
            return self._front(self._problem.pareto[0])
        proposals = []
        if self._problem.minimise is not None and self._problem.min_accuracy is not None:
            least_score = self._predictor.least_score(self._problem.min_accuracy)
            solutions, others = self._solve(self._position(self._problem.minimise), -least_score)
            self._least_cost = float(solutions.bounds[0])
            proposals.append(others)
        if not proposals or not np.isfinite(solutions.values[0]):  # nothing has the required accuracy, if there is one
            solutions, others = self._solve(len(self._costs) - 1)
            self._highest_accuracy = float(self._predictor.accuracy_of(-solutions.bounds)[0])
            proposals.append(others)
        if np.isfinite(solutions.values[0]):
            best = space.canonical(solutions.genomes)
            proposals = [best, self._runners_up(best[0]), *proposals]
        return np.concatenate(proposals)

    @property
    def _costs(self) -> list[AdditiveCost]:
        """The limited costs, then minus the score."""
        return [*(constraint.cost for constraint in self._problem.region.constraints), self._score]

    def _position(self, cost: Cost) -> int:
        """The position among `_costs` of a cost of the objective, which always has a limit."""
        return [limited.name for limited in self._costs].index(cost.name)

    def _solver(self, objective: int, highest_score_cost: float) -> Solver:
        """The solver for the lowest of `_costs` within all limits, one of them on minus the score."""
        region, costs = self._problem.region, self._costs
        resolutions = np.flatnonzero(region.allowed)
        count = len(resolutions)
        knapsacks = Knapsacks(
            resolutions=resolutions,
            objectives=np.full(count, objective),
            limits=np.tile([*region.maxima, highest_score_cost], (count, 1)),
            groups=np.zeros(count, np.intp),
            num_groups=1,
            blocked=np.logical_or.reduce([np.isinf(cost.conditioned) for cost in costs]),
        )
        return Solver(region.tables, costs, knapsacks)

    def _solve(self, objective: int, highest_score_cost: float = np.inf) -> tuple[Solutions, Genomes]:
        """The lowest of `_costs` within all limits, and (N, G) architectures on the way to smaller other costs."""
        solver = self._solver(objective, highest_score_cost)
        solver.tighten_bounds(CUTS)
        nodes = 0
        for width in WIDTHS:
            if not solver.is_open or nodes >= MAX_NODES:
                break
            nodes += solver.search(width, MAX_NODES - nodes)
        return solver.solutions(nodes), self._inside(solver.minimisers(PRICES))

    def _front(self, cost: Cost) -> Genomes:
        """(N, G) the whole front of accuracy and a cost, those first that are far from the others."""
        position, score_position = self._position(cost), len(self._costs) - 1
        solver = self._solver(score_position, np.inf)
        known = self._inside(solver.minimisers(FRONT_PRICES))
        genomes, left_out = solver.front((position, score_position), known, FRONT_WIDTH)
        genomes = np.concatenate([known, self._inside(genomes)])
        objectives = self._objectives(self._predictor.accuracy_of(-self._score(genomes)), cost(genomes))
        rows = np.flatnonzero(non_dominated(objectives))
        rest = self._objectives(self._predictor.accuracy_of(-left_out[:, 1]), left_out[:, 0])
        self._largest_volume = self._volume(np.concatenate([objectives[rows], rest]))
        distances = crowding_distances(objectives[rows], np.zeros(len(rows), np.intp))
        return genomes[rows[np.argsort(-distances, kind="stable")]]

    def _inside(self, genomes: Genomes) -> Genomes:
        """(M, G) those of (N, G) genomes that are within the limits, canonical."""
        genomes = self._problem.tables.space.canonical(genomes)
        return genomes[self._problem.region.contains(genomes)]

    def _runners_up(self, best: Genomes) -> Genomes:
        """(N, G) the best architectures within the limits and two moves of a genome (G,), best first."""
        genomes = self._inside(self._problem.region.moves.within_two(best))
        minimise = self._problem.minimise
        price = np.zeros(len(genomes)) if minimise is None else minimise(genomes)
        value = self._problem.value(self._predictor.accuracy_of(-self._score(genomes)), price)
        return genomes[np.argsort(-value, kind="stable")[:RUNNERS_UP]]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Nothing to learn."""

    def certify(self, scores: Scores) -> Optimality | None:
        """How good the best of N scored genomes is, or for a front their hypervolume. None before the first `ask`.

        Without the required accuracy the best is the most accurate one, so its accuracy is compared.
        """
        problem, best = self._problem, int(scores.fitness.argmax())
        accuracy = float(scores.accuracy[best])
        if problem.pareto:
            bound, value = self._largest_volume, self._volume(self._objectives(scores.accuracy, scores.costs[:, 0]))
        elif problem.minimise is None or problem.min_accuracy is None or accuracy < problem.min_accuracy:
            bound, value = self._highest_accuracy, accuracy
        else:
            bound = self._least_cost
            value = float(scores.costs[best, problem.cost_names.index(problem.minimise.name)])
        gap = abs(bound - value)
        if np.isnan(bound):
            return None
        if gap <= ROUNDING * abs(value):
            return Optimality(proven=True, bound=value, gap=0.0)
        return Optimality(proven=False, bound=bound, gap=gap)

    @staticmethod
    def _objectives(accuracy: Floats, price: Floats) -> Floats:
        """(N, 2) of a front, lower is better."""
        return np.column_stack([1 - accuracy, price])

    def _volume(self, objectives: Floats) -> float:
        """The hypervolume of (N, 2) objectives."""
        return float(hypervolumes(objectives, [len(objectives)], self._problem.reference)[0])

    def state(self) -> dict[str, NDArray[Any]]:
        """The bounds, and whether there is anything left to ask."""
        bounds = np.array([self._least_cost, self._highest_accuracy, self._largest_volume])
        return {"bounds": bounds, "asked": np.array(self._asked)}

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._least_cost, self._highest_accuracy, self._largest_volume = np.asarray(state["bounds"]).tolist()
        self._asked = bool(state["asked"])
