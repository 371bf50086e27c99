"""NSGA-II: accuracy and the costs of the front together (Deb 2002, see `evolution.pareto`).

Each generation:

1. Binary tournaments choose the first parents: lower rank wins, then larger crowding distance.
2. Each first parent gets a second parent, the next one in accuracy, up or down.
3. Crossover takes each gene from either parent; mutation draws genes anew.
4. The best of the population and the scored children, by rank and then by crowding distance, form the next population.

Limits hold by construction, so constrained domination is not needed. Two deviations from Deb: genomes are categorical,
so step 3 replaces the operators for real numbers; and step 2, because parents from opposite ends of a front have
children that are good at neither objective (H. Ishibuchi, Y. Shibata, "A similarity-based mating scheme for
evolutionary multiobjective optimization", GECCO 2003).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.pareto import crowding_distances, dominance_ranks
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

POPULATION = 100  # Deb's, as are the probability of crossover and the least mean number of mutations
CHILDREN = 200  # Deb's are 100; twice as many find as much with half the calls of the predictor
CROSSOVER = 0.9
MUTATIONS, MAX_MUTATIONS = 1.0, 8.0  # mean number of genes drawn anew per child, at first and at most
FRESH = 0.75  # target share of children that were not scored before; the number of mutations follows from it


class NSGA2:
    """Keeps a population spread over the front of accuracy and costs."""

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._space, self._choices, self._rng = problem.tables.space, problem.region.choices, rng
        self._num_costs = problem.front_costs
        self._population = np.zeros((0, self._space.num_genes), np.int8)
        self._objectives = np.zeros((0, 1 + self._num_costs))
        self._mutations = MUTATIONS
        self._sampled = False
        self._num_scored = CHILDREN  # since the last `ask`

    def ask(self) -> Genomes:
        """(200, G) a random sample first, then children."""
        if not self._sampled:
            self._sampled = True
            return self._choices.sample(self._rng, CHILDREN)
        steer = 1.1 if self._num_scored < FRESH * CHILDREN else 1 / 1.1
        self._mutations = min(max(MUTATIONS, steer * self._mutations), MAX_MUTATIONS)
        self._num_scored = 0
        first = self._tournament()
        second = self._second_parents(first)
        alive = self._space.alive(self._population)
        from_first, from_second = (  # genes of dropped blocks say nothing, so they are drawn anew
            np.where(alive[rows], self._population[rows], self._draw()) for rows in (first, second)
        )
        crossed = self._rng.random((CHILDREN, 1)) < CROSSOVER
        children = np.where(crossed & (self._rng.random(from_first.shape) < 0.5), from_second, from_first)
        rate = self._mutations / self._space.num_genes
        return self._space.canonical(np.where(self._rng.random(children.shape) < rate, self._draw(), children))

    def _tournament(self) -> NDArray[np.intp]:
        """(200,) rows of the population, which is sorted best first: the better of two random ones."""
        winners: NDArray[np.intp] = self._rng.integers(len(self._population), size=(2, CHILDREN)).min(0)
        return winners

    def _second_parents(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """(200,) for each row the next one in accuracy, up or down at random."""
        order = np.argsort(self._objectives[:, 0], kind="stable")
        positions = np.argsort(order)[rows] + self._rng.choice((-1, 1), CHILDREN)
        parents: NDArray[np.intp] = order[np.clip(positions, 0, len(order) - 1)]
        return parents

    def _draw(self) -> Genomes:
        """(200, G) genes uniform over their open choices."""
        return self._choices.draw(self._rng, CHILDREN)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Keep the best of the population and the scored genomes, by rank, then by crowding distance."""
        self._num_scored += len(genomes)
        objectives = np.column_stack([1 - scores.accuracy, scores.costs[:, : self._num_costs]])
        population, objectives = (
            np.concatenate([self._population, genomes]),
            np.concatenate([self._objectives, objectives]),
        )
        survivors = select_survivors(objectives, POPULATION)
        self._population, self._objectives = population[survivors], objectives[survivors]

    def state(self) -> dict[str, NDArray[Any]]:
        """The population, its objectives, and the numbers that set the mutation rate."""
        numbers = np.array([self._mutations, self._num_scored, self._sampled])
        return {"population": self._population, "objectives": self._objectives, "numbers": numbers}

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._population, self._objectives = np.asarray(state["population"]), np.asarray(state["objectives"])
        mutations, num_scored, sampled = state["numbers"].tolist()
        self._mutations, self._num_scored, self._sampled = mutations, int(num_scored), bool(sampled)


def select_survivors(objectives: Floats, count: int) -> NDArray[np.intp]:
    """At most `count` rows of (N, M) objectives, lower is better, best first: by rank, then by crowding distance."""
    ranks = dominance_ranks(objectives)
    return np.lexsort((-crowding_distances(objectives, ranks), ranks))[:count]
