"""Regularised-free elitist evolution: the best of everything scored so far mutate and cross.

As Once-for-All's finder (arXiv:1908.09791): half of a generation mutates, each gene with probability 0.1, and half
takes each gene from one of two parents. Unlike it: ...
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genomes, SearchSpace

if TYPE_CHECKING:
    from evolution.search import Scores, State

PARENTS = 64
OFFSPRING = 256
MUTATION = 0.1  # probability that a gene of a mutant is drawn anew


class Evolution:
    """Keeps the fittest architectures and proposes mutants and children of them."""

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._parents = np.zeros((0, space.num_genes), np.int8)
        self._fitness = np.zeros(0)
        self._started = False

    def ask(self) -> Genomes:
        """(256, G) a random sample first, then offspring."""
        if not self._started:
            self._started = True
            return self._space.sample(self._rng, OFFSPRING)
        half = OFFSPRING // 2
        mutants = self._choose(half)
        mask = self._rng.random(mutants.shape) < MUTATION
        mutants = np.where(mask, self._draw(half), mutants)
        one, other = self._choose(half), self._choose(half)
        children = np.where(self._rng.random(one.shape) < 0.5, one, other)
        return self._space.canonical(np.concatenate([mutants, children]))

    def _choose(self, count: int) -> Genomes:
        """(count, G) random parents, whose dropped blocks get random genes: a deeper child then has random blocks."""
        parents = self._parents[self._rng.integers(len(self._parents), size=count)]
        return np.where(self._space.alive(parents), parents, self._draw(count))

    def _draw(self, count: int) -> Genomes:
        """(count, G) genes uniform over their choices, also those of dropped blocks."""
        return self._rng.integers(self._space.num_choices, size=(count, self._space.num_genes), dtype=np.int8)

    def tell(self, genomes: Genomes, scores: "Scores") -> None:
        """Keep the fittest of the parents and the genomes told."""
        parents = np.concatenate([self._parents, genomes])
        fitness = np.concatenate([self._fitness, scores.fitness])
        kept = np.argsort(-fitness, kind="stable")[:PARENTS]
        self._parents, self._fitness = parents[kept], fitness[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """The parents and their fitness."""
        return {"parents": self._parents, "fitness": self._fitness, "started": np.array(self._started)}

    def restore(self, state: "State") -> None:
        """Continue from the parents saved."""
        self._parents, self._fitness = np.asarray(state["parents"]), np.asarray(state["fitness"])
        self._started = bool(state["started"])
