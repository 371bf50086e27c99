"""Elitist evolution whose offspring are chosen by a linear model.

Accuracy is nearly a sum over genes, so ridge regression on scored architectures ranks a hundred children in the time in
which a predictor scores one. Each generation:

1. Fit the linear model to the pool, the fittest architectures of the epoch (every other generation).
2. Take the fittest parents of the pool. Each proposes the best-ranked of its children by one or two moves. A child is
   proposed once.
3. In every other generation, cross random pairs of the fittest and propose the best-ranked crossovers too. A child
   takes each gene from either parent with equal probability, as in Once-for-All's finder (arXiv:1908.09791).
4. Keep the fittest of the pool and the scored children.

Parents compete within their resolution at first, since another resolution needs other blocks. Every
`HALVING_INTERVAL` generations the less fit half of the resolutions is dropped. An epoch ends when the best has not
improved for a while, or when nothing new was proposed. The next one starts from a random sample, and every
`RESTART_INTERVAL`-th one from the elite archive, the fittest of the epochs before.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.features import one_hot
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

SAMPLE = 200  # random architectures that an epoch starts with
POOL = 512  # the fittest of an epoch, on which the model is fitted
PENALTY = 10.0  # of the ridge, on one-hot features
PARENTS = 4  # per generation; at least one at each resolution still in the race
OFFSPRING = 24  # per parent
CROSSOVER_PARENTS = 64  # the fittest of the pool, which are crossed
CROSSOVERS, CROSSOVER_OFFSPRING = 256, 64  # random crossovers, and the best-ranked of them, which are proposed
HALVING_INTERVAL = 16  # generations after which half of the resolutions are dropped
PATIENCE = 1500  # architectures scored without improvement before an epoch ends
ELITES = 20  # of each epoch that enter the archive
RESTART_INTERVAL = 5  # epochs; the last of them starts from the archive, which is then emptied
POOL_KEY, ARCHIVE_KEY = "pool", "alumni"  # the prefixes of their arrays in a saved state


@dataclass(frozen=True)
class _Pool:
    """N scored architectures, the fittest first.

    genomes: (N, G). accuracy: (N,) predicted. price: (N,) the minimised cost, 0 unless there is one. fitness: (N,).
    """

    genomes: Genomes
    accuracy: Floats
    price: Floats
    fitness: Floats

    def __len__(self) -> int:
        return len(self.genomes)

    def fittest(self, count: int) -> Self:
        return type(self)(*(values[:count] for values in self._arrays))

    def join(self, other: Self) -> Self:
        both = [np.concatenate(pair) for pair in zip(self._arrays, other._arrays, strict=True)]
        order = np.argsort(-both[-1], kind="stable")
        return type(self)(*(values[order] for values in both))

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.genomes, self.accuracy, self.price, self.fitness


@dataclass
class _Children:
    """The n children of a parent that were not proposed yet.

    genomes: (K + 1, G) the results of single moves of the parent, then the parent itself.
    features, prices: (K + 1, F) and (K + 1,) by how much these differ from the parent's.
    first, second: (n,) the rows of `genomes` whose changes a child combines; `second` may be the parent's row.
    """

    genomes: Genomes
    features: NDArray[np.float32]
    prices: Floats
    first: NDArray[np.int16]
    second: NDArray[np.int16]

    def take(self, rows: NDArray[np.intp]) -> Genomes:
        """(N, G) remove these children and return their genomes."""
        first, second = self.genomes[self.first[rows]], self.genomes[self.second[rows]]
        self.first, self.second = np.delete(self.first, rows), np.delete(self.second, rows)
        return np.where(second != self.genomes[-1], second, first)


class Elitist:
    """Keeps the fittest architectures of an epoch and proposes what a linear model ranks best among their children."""

    own_predictions = own_predictions_per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        self._space, self._moves = problem.tables.space, problem.region.moves
        self._empty = _Pool(np.zeros((0, self._space.num_genes), np.int8), np.zeros(0), np.zeros(0), np.zeros(0))
        self._archive, self._epoch = self._empty, 0
        self._any_scored = True  # since the last `ask`
        self._weights, self._bias = np.zeros(0, np.float32), 0.0
        self._begin(self._empty)

    def _begin(self, pool: _Pool) -> None:
        """Begin an epoch from a pool, or from a random sample if the pool is empty."""
        self._pool, self._sampled = pool, len(pool) > 0
        self._children: dict[bytes, _Children] = {}  # by the parent's genome
        self._generation = self._unimproved = 0

    def _next_epoch(self) -> None:
        self._epoch += 1
        archive = self._archive.join(self._pool.fittest(ELITES))
        restart = self._epoch % RESTART_INTERVAL == RESTART_INTERVAL - 1
        self._archive = self._empty if restart else archive
        self._begin(archive if restart else self._empty)

    def ask(self) -> Genomes:
        """(N, G) a random sample first, then the best-ranked children."""
        if self._unimproved > PATIENCE or not self._any_scored:
            self._next_epoch()
        self._any_scored = False
        if not (self._sampled and len(self._pool)):
            self._sampled = True
            return self._region.choices.sample(self._rng, SAMPLE)
        self._generation += 1
        if self._generation % 2:
            self._fit()
        rows = self._in_race()
        proposals = [self._offspring(row) for row in self._parents(rows)]
        if self._generation % 2 == 0:
            proposals.append(self._crossovers(rows[:CROSSOVER_PARENTS]))
        genomes = np.concatenate(proposals) if proposals else self._empty.genomes
        return genomes[self._region.contains(genomes)]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Keep the fittest of the pool and the scored genomes."""
        self._any_scored = True
        improved = scores.fitness.max() > self._pool.fitness.max(initial=-np.inf)
        self._unimproved = 0 if improved else self._unimproved + len(genomes)
        scored = _Pool(genomes, scores.accuracy, self._prices(genomes), scores.fitness)
        self._pool = self._pool.join(scored).fittest(POOL)

    def _prices(self, genomes: Genomes) -> Floats:
        """(N,) the minimised cost, 0 unless there is one."""
        return self._problem.minimise(genomes) if self._problem.minimise else np.zeros(len(genomes))

    def _fit(self) -> None:
        """Ridge regression of the pool's accuracies on its one-hot genes."""
        features = one_hot(self._space, self._pool.genomes)
        centre, mean = features.mean(0), self._pool.accuracy.mean()
        features -= centre
        gram = features.T @ features
        gram[np.diag_indices(len(gram))] += PENALTY
        self._weights = np.linalg.solve(gram, features.T @ (self._pool.accuracy - mean).astype(np.float32))
        self._bias = mean - centre @ self._weights

    def _in_race(self) -> NDArray[np.intp]:
        """The rows of the pool at resolutions that are not dropped yet."""
        resolutions = self._pool.genomes[:, 0]
        remaining = math.ceil(self._region.anchored.sum() / 2 ** (self._generation // HALVING_INTERVAL))
        in_race = np.zeros(len(self._space.resolutions), bool)
        in_race[list(dict.fromkeys(resolutions.tolist()))[:remaining]] = True
        return np.flatnonzero(in_race[resolutions])

    def _parents(self, rows: NDArray[np.intp]) -> list[int]:
        """The first of these rows that have children left to propose, equally many at each resolution."""
        resolutions = self._pool.genomes[rows, 0].tolist()
        room = dict.fromkeys(resolutions, max(1, PARENTS // len(set(resolutions))))
        parents = []
        for row, resolution in zip(rows.tolist(), resolutions, strict=True):
            if room[resolution] and len(self._children_of(row).first):
                room[resolution] -= 1
                parents.append(row)
            if not any(room.values()):
                break
        return parents

    def _children_of(self, row: int) -> _Children:
        """The children of a genome of the pool that were not proposed yet."""
        parent = self._pool.genomes[row]
        key = parent.tobytes()
        if key not in self._children:
            self._children[key] = self._all_children(parent)
        return self._children[key]

    def _all_children(self, parent: Genomes) -> _Children:
        """Every child of a (G,) parent by one or two moves that is within the limits if the moves' costs add up."""
        moves = np.flatnonzero(self._moves.applicable(parent[None])[0])
        genomes = np.concatenate([self._moves.apply(parent, moves), parent[None]])
        feasible = np.zeros((len(genomes), len(genomes)), bool)
        feasible[:-1, :-1] = self._moves.independent[moves][:, moves]
        feasible[:-1, -1] = True
        costs = self._region.costs(genomes)
        for change, room in zip((costs - costs[-1]).T, self._region.maxima - costs[-1], strict=True):
            feasible &= change[:, None] + change <= room
        first, second = (rows.astype(np.int16) for rows in np.nonzero(feasible))
        features, prices = one_hot(self._space, genomes), self._prices(genomes)
        return _Children(genomes, features - features[-1], prices - prices[-1], first, second)

    def _offspring(self, row: int) -> Genomes:
        """(N, G) the best-ranked children that a row of the pool has not proposed yet."""
        children = self._children_of(row)
        gains = children.features @ self._weights
        accuracy = self._pool.accuracy[row] + gains[children.first] + gains[children.second]
        price = self._pool.price[row] + children.prices[children.first] + children.prices[children.second]
        return children.take(greatest(self._problem.value(accuracy, price), OFFSPRING))

    def _crossovers(self, rows: NDArray[np.intp]) -> Genomes:
        """(N, G) the best-ranked of random crossovers of these rows of the pool."""
        first, second = self._pool.genomes[self._rng.choice(rows, (2, CROSSOVERS))]
        genomes = np.where(self._rng.random(first.shape, np.float32) < 0.5, first, second)
        genomes = self._region.choices.nearest(genomes)
        genomes = genomes[self._region.contains(genomes)]
        accuracy: Floats = one_hot(self._space, genomes).astype(np.float64) @ self._weights + self._bias
        return genomes[greatest(self._problem.value(accuracy, self._prices(genomes)), CROSSOVER_OFFSPRING)]

    def state(self) -> dict[str, NDArray[Any]]:
        """The pool, the archive, the model, the children not proposed yet, and the counters of the epoch."""
        children = list(self._children.values())
        parents = [family.genomes[-1:] for family in children]
        left = [np.stack([family.first, family.second], axis=1) for family in children]
        counters = (self._epoch, self._sampled, self._generation, self._unimproved, self._any_scored)
        return {
            **{f"{POOL_KEY}.{name}": values for name, values in vars(self._pool).items()},
            **{f"{ARCHIVE_KEY}.{name}": values for name, values in vars(self._archive).items()},
            "weights": self._weights,
            "parents": np.concatenate([self._empty.genomes, *parents]),
            "left": np.concatenate([np.zeros((0, 2), np.int16), *left]),
            "sizes": np.array([len(pairs) for pairs in left], np.int64),
            "numbers": np.array([self._bias, *counters]),
        }

    def restore(self, state: State) -> None:
        """Continue from a saved state."""
        self._pool, self._archive = (
            _Pool(*(np.asarray(state[f"{key}.{name}"]) for name in vars(self._empty)))
            for key in (POOL_KEY, ARCHIVE_KEY)
        )
        self._weights = np.asarray(state["weights"])
        self._bias, epoch, sampled, generation, unimproved, any_scored = state["numbers"].tolist()
        self._epoch, self._generation, self._unimproved = int(epoch), int(generation), int(unimproved)
        self._sampled, self._any_scored = bool(sampled), bool(any_scored)
        self._children = {}
        ends = np.cumsum(state["sizes"])[:-1]
        for parent, left in zip(state["parents"], np.split(np.asarray(state["left"]), ends), strict=False):
            children = self._all_children(parent)
            children.first, children.second = left[:, 0].copy(), left[:, 1].copy()
            self._children[parent.tobytes()] = children


def greatest(values: Floats, count: int) -> NDArray[np.intp]:
    """The positions of the `count` greatest of (N,) values, greatest first. Of equal values the first comes first.

    A stable sort, because others break ties differently on different processors.
    """
    return np.argsort(-values, kind="stable")[:count]
