"""Elitist evolution whose offspring a linear model chooses.

Accuracy is nearly a sum over genes, so ridge regression on what was scored ranks a hundred children while a predictor
scores one. Every generation the fittest parents offer the best-ranked of all their children by one or two moves, and in
every other one the best-ranked crossings of fit pairs join them (half of the genes of each, as in Once-for-All's
finder, arXiv:1908.09791). Parents compete within their resolution at first, since another resolution asks for other
blocks; the less fit half of the resolutions is given up every few generations. When the best has not improved for a
while, or nothing new was left to offer, another epoch starts, from a new sample or from the fittest of those before.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.predictors.accuracy import one_hot
from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

SAMPLE = 200  # random architectures that an epoch starts with
POOL = 512  # the fittest of an epoch, on which the model is fitted
PENALTY = 10.0  # of the ridge, on one-hot features
PARENTS, OFFSPRING = 4, 24  # and of each; at least one parent at each resolution still in the race
CROSSINGS, CROSSED, MATES = 64, 256, 64  # the best-ranked of how many crossings of the fittest
HALVING = 16  # generations after which half of the resolutions are given up
PATIENCE = 1500  # scored without improvement before an epoch ends
ALUMNI, REUNION = 20, 5  # the fittest of every epoch; every fifth epoch starts from those of the four before


@dataclass(frozen=True)
class _Pool:
    """Scored architectures, the fittest first. price: (N,) the minimised cost, 0 unless there is one."""

    genomes: Genomes
    accuracy: Floats
    price: Floats
    fitness: Floats

    def __len__(self) -> int:
        """N."""
        return len(self.genomes)

    def fittest(self, count: int) -> Self:
        """At most `count` of them."""
        return type(self)(*(values[:count] for values in self._arrays))

    def join(self, other: Self) -> Self:
        """Those of both."""
        both = [np.concatenate(pair) for pair in zip(self._arrays, other._arrays, strict=True)]
        order = np.argsort(-both[-1], kind="stable")
        return type(self)(*(values[order] for values in both))

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.genomes, self.accuracy, self.price, self.fitness


@dataclass
class _Family:
    """The children that a parent has not offered yet.

    genomes: (K + 1, G) what one move makes of the parent, then the parent itself. features, prices: (K + 1, F) and
    (K + 1,) how these differ from the parent's. one, other: (n,) the two rows of `genomes` whose changes a child has.
    """

    genomes: Genomes
    features: NDArray[np.float32]
    prices: Floats
    one: NDArray[np.int16]
    other: NDArray[np.int16]

    def take(self, children: NDArray[np.intp]) -> Genomes:
        """(N, G) these of the n children, offered now and not again."""
        one, other = self.genomes[self.one[children]], self.genomes[self.other[children]]
        self.one, self.other = np.delete(self.one, children), np.delete(self.other, children)
        return np.where(other != self.genomes[-1], other, one)


class Elitist:
    """Keeps the fittest architectures of an epoch and proposes what a linear model ranks best among their children."""

    spent = per_ask = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._region, self._rng = problem, problem.region, rng
        self._space, self._moves = problem.tables.space, problem.tables.moves
        self._nobody = _Pool(np.zeros((0, self._space.num_genes), np.int8), np.zeros(0), np.zeros(0), np.zeros(0))
        self._alumni, self._epoch, self._told = self._nobody, 0, True
        self._weights, self._bias = np.zeros(0, np.float32), 0.0
        self._begin(self._nobody)

    def _begin(self, pool: _Pool) -> None:
        """An epoch that starts from a pool, or from a random sample where that is empty."""
        self._pool, self._sampled = pool, len(pool) > 0
        self._families: dict[bytes, _Family] = {}
        self._generation = self._waited = 0

    def _next_epoch(self) -> None:
        self._epoch += 1
        alumni = self._alumni.join(self._pool.fittest(ALUMNI))
        reunion = self._epoch % REUNION == REUNION - 1
        self._alumni = self._nobody if reunion else alumni
        self._begin(alumni if reunion else self._nobody)

    def ask(self) -> Genomes:
        """(N, G) a random sample first, then the most promising children."""
        if self._waited > PATIENCE or not self._told:
            self._next_epoch()
        self._told = False
        if not (self._sampled and len(self._pool)):
            self._sampled = True
            return self._space.sample(self._rng, SAMPLE)
        self._generation += 1
        if self._generation % 2:
            self._fit()
        rows = self._in_race()
        offered = [self._offspring(row) for row in self._parents(rows)]
        if self._generation % 2 == 0:
            offered.append(self._crossings(rows[:MATES]))
        proposed = np.concatenate(offered) if offered else self._nobody.genomes
        return proposed[self._region.contains(proposed)]

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Keep the fittest of the pool and the genomes told."""
        self._told = True
        improved = scores.fitness.max() > self._pool.fitness.max(initial=-np.inf)
        self._waited = 0 if improved else self._waited + len(genomes)
        told = _Pool(genomes, scores.accuracy, self._prices(genomes), scores.fitness)
        self._pool = self._pool.join(told).fittest(POOL)

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
        """Rows of the pool at the resolutions that are not given up yet."""
        resolutions = self._pool.genomes[:, 0]
        kept = math.ceil(self._region.anchored.sum() / 2 ** (self._generation // HALVING))
        racing = np.zeros(len(self._space.resolutions), bool)
        racing[list(dict.fromkeys(resolutions.tolist()))[:kept]] = True
        return np.flatnonzero(racing[resolutions])

    def _parents(self, rows: NDArray[np.intp]) -> list[int]:
        """The first of these rows that have children left to offer, equally many at each resolution."""
        resolutions = self._pool.genomes[rows, 0].tolist()
        room = dict.fromkeys(resolutions, max(1, PARENTS // len(set(resolutions))))
        parents = []
        for row, resolution in zip(rows.tolist(), resolutions, strict=True):
            if room[resolution] and len(self._family(row).one):
                room[resolution] -= 1
                parents.append(row)
            if not any(room.values()):
                break
        return parents

    def _family(self, row: int) -> _Family:
        """The family of a genome of the pool."""
        parent = self._pool.genomes[row]
        key = parent.tobytes()
        if key not in self._families:
            self._families[key] = self._founded(parent)
        return self._families[key]

    def _founded(self, parent: Genomes) -> _Family:
        """All children of a (G,) parent within the limits, as far as the costs of two moves add up."""
        moves = np.flatnonzero(self._moves.applicable(parent[None])[0])
        genomes = np.concatenate([self._moves.apply(parent, moves), parent[None]])
        fits = np.zeros((len(genomes), len(genomes)), bool)
        fits[:-1, :-1] = self._moves.independent[moves][:, moves]
        fits[:-1, -1] = True
        costs = self._region.costs(genomes)
        for change, room in zip((costs - costs[-1]).T, self._region.maxima - costs[-1], strict=True):
            fits &= change[:, None] + change <= room
        one, other = (rows.astype(np.int16) for rows in np.nonzero(fits))
        features, prices = one_hot(self._space, genomes), self._prices(genomes)
        return _Family(genomes, features - features[-1], prices - prices[-1], one, other)

    def _offspring(self, row: int) -> Genomes:
        """(N, G) the best-ranked children that a row of the pool has not offered yet."""
        family = self._family(row)
        gains = family.features @ self._weights
        accuracy = self._pool.accuracy[row] + gains[family.one] + gains[family.other]
        price = self._pool.price[row] + family.prices[family.one] + family.prices[family.other]
        return family.take(_greatest(self._problem.value(accuracy, price), OFFSPRING))

    def _crossings(self, rows: NDArray[np.intp]) -> Genomes:
        """(N, G) the best-ranked of random crossings of these rows of the pool."""
        mothers, fathers = self._pool.genomes[self._rng.choice(rows, (2, CROSSED))]
        crossed = np.where(self._rng.random(mothers.shape, np.float32) < 0.5, mothers, fathers)
        crossed = self._space.canonical(crossed)
        crossed = crossed[self._region.contains(crossed)]
        accuracy: Floats = one_hot(self._space, crossed).astype(np.float64) @ self._weights + self._bias
        return crossed[_greatest(self._problem.value(accuracy, self._prices(crossed)), CROSSINGS)]

    def state(self) -> dict[str, NDArray[Any]]:
        """The pools, the model, what each family has not offered yet, and where the epoch stands."""
        families = list(self._families.values())
        parents = [family.genomes[-1:] for family in families]
        left = [np.stack([family.one, family.other], axis=1) for family in families]
        return {
            **{f"pool.{name}": values for name, values in vars(self._pool).items()},
            **{f"alumni.{name}": values for name, values in vars(self._alumni).items()},
            "weights": self._weights,
            "parents": np.concatenate([self._nobody.genomes, *parents]),
            "left": np.concatenate([np.zeros((0, 2), np.int16), *left]),
            "sizes": np.array([len(children) for children in left], np.int64),
            "numbers": np.array([self._bias, self._epoch, self._sampled, self._generation, self._waited, self._told]),
        }

    def restore(self, state: State) -> None:
        """Continue from the state saved."""
        self._pool, self._alumni = (
            _Pool(*(np.asarray(state[f"{pool}.{name}"]) for name in vars(self._nobody))) for pool in ("pool", "alumni")
        )
        self._weights = np.asarray(state["weights"])
        bias, epoch, sampled, generation, waited, told = state["numbers"].tolist()
        self._bias, self._epoch, self._sampled = bias, int(epoch), bool(sampled)
        self._generation, self._waited, self._told = int(generation), int(waited), bool(told)
        self._families = {}
        ends = np.cumsum(state["sizes"])[:-1]
        for parent, left in zip(state["parents"], np.split(np.asarray(state["left"]), ends), strict=False):
            family = self._founded(parent)
            family.one, family.other = left[:, 0].copy(), left[:, 1].copy()
            self._families[parent.tobytes()] = family


def _greatest(values: Floats, count: int) -> NDArray[np.intp]:
    """Where the `count` greatest of (N,) values are, greatest first; of equal ones the first, on every processor."""
    return np.argsort(-values, kind="stable")[:count]
