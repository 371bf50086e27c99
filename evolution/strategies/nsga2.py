"""NSGA-II: accuracy and the costs of the front together (Deb 2002, see `evolution.pareto`).

Parents win binary tournaments by rank, then by crowding distance; of parents and children the best by the same order
live on. Limits hold by construction, so no constrained domination is needed. Two deviations: genomes are categorical,
so crossover takes each gene from either parent and mutation draws it anew, instead of Deb's operators for real numbers;
and a parent's mate is a neighbour of its in accuracy, because parents from opposite ends of a front have children that
are good at neither (H. Ishibuchi, Y. Shibata, "A similarity-based mating scheme for evolutionary multiobjective
optimization", GECCO 2003).
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
MUTATIONS, MOST_MUTATIONS = 1.0, 8.0  # genes drawn anew per child, in the mean
FRESH = 0.75  # the share of children not scored before that the number of mutations is steered to


class NSGA2:
    """Keeps a population spread over the front of accuracy and costs."""

    spent = per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._space, self._rng = problem.tables.space, rng
        self._num_costs = problem.front_costs
        self._population = np.zeros((0, self._space.num_genes), np.int8)
        self._objectives = np.zeros((0, 1 + self._num_costs))
        self._mutations = MUTATIONS
        self._sampled = False
        self._told = CHILDREN  # genomes since the last `ask`

    def ask(self) -> Genomes:
        """(200, G) a random sample first, then children."""
        if not self._sampled:
            self._sampled = True
            return self._space.sample(self._rng, CHILDREN)
        steer = 1.1 if self._told < FRESH * CHILDREN else 1 / 1.1
        self._mutations = min(max(MUTATIONS, steer * self._mutations), MOST_MUTATIONS)
        self._told = 0
        one = self._tournament()
        other = self._mates(one)
        alive = self._space.alive(self._population)
        from_one, from_other = (np.where(alive[rows], self._population[rows], self._draw()) for rows in (one, other))
        crossed = self._rng.random((CHILDREN, 1)) < CROSSOVER
        children = np.where(crossed & (self._rng.random(from_one.shape) < 0.5), from_other, from_one)
        rate = self._mutations / self._space.num_genes
        return self._space.canonical(np.where(self._rng.random(children.shape) < rate, self._draw(), children))

    def _tournament(self) -> NDArray[np.intp]:
        """(200,) rows of the population, which is sorted best first: the better of two random ones."""
        winners: NDArray[np.intp] = self._rng.integers(len(self._population), size=(2, CHILDREN)).min(0)
        return winners

    def _mates(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """(200,) for each row the next one in accuracy, up or down."""
        order = np.argsort(self._objectives[:, 0], kind="stable")
        places = np.argsort(order)[rows] + self._rng.choice((-1, 1), CHILDREN)
        mates: NDArray[np.intp] = order[np.clip(places, 0, len(order) - 1)]
        return mates

    def _draw(self) -> Genomes:
        """(200, G) genes uniform over their choices."""
        genes = self._rng.random((CHILDREN, self._space.num_genes)) * self._space.num_choices
        drawn: Genomes = genes.astype(np.int8)
        return drawn

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Keep the best of the population and the genomes told, by rank, then by crowding distance."""
        self._told += len(genomes)
        objectives = np.column_stack([1 - scores.accuracy, scores.costs[:, : self._num_costs]])
        population, objectives = (
            np.concatenate([self._population, genomes]),
            np.concatenate([self._objectives, objectives]),
        )
        kept = select_survivors(objectives, POPULATION)
        self._population, self._objectives = population[kept], objectives[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """The population, its objectives, and what decides on the mutation rate."""
        numbers = np.array([self._mutations, self._told, self._sampled])
        return {"population": self._population, "objectives": self._objectives, "numbers": numbers}

    def restore(self, state: State) -> None:
        """Continue from the population saved."""
        self._population, self._objectives = np.asarray(state["population"]), np.asarray(state["objectives"])
        mutations, told, sampled = state["numbers"].tolist()
        self._mutations, self._told, self._sampled = mutations, int(told), bool(sampled)


def select_survivors(objectives: Floats, count: int) -> NDArray[np.intp]:
    """At most `count` rows of (N, M) objectives, lower is better, best first: by rank, then by crowding distance."""
    ranks = dominance_ranks(objectives)
    return np.lexsort((-crowding_distances(objectives, ranks), ranks))[:count]
