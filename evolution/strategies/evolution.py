"""Elitist evolution: the fittest of everything scored so far mutate and cross.

As in Once-for-All's finder (arXiv:1908.09791), half of a generation are mutants of one parent and half take each gene
from one of two. Unlike there, genes of dropped blocks are drawn anew in every child, so that a stage that grows gets
random blocks, and the initial sample needs no rejection, since the driver moves what is proposed inside the limits.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genomes, SearchSpace

if TYPE_CHECKING:
    from evolution.search import Scores, State

SAMPLE = 256  # random architectures before the first generation
PARENTS = 64
OFFSPRING = 128
MUTATION = 0.05  # probability that a gene of a mutant is drawn anew


class Evolution:
    """Keeps the fittest architectures and proposes mutants and children of them."""

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._parents = np.zeros((0, space.num_genes), np.int8)
        self._fitness = np.zeros(0)
        self._sampled = False

    def ask(self) -> Genomes:
        """(256, G) a random sample first, then (128, G) offspring."""
        if not self._sampled:
            self._sampled = True
            return self._space.sample(self._rng, SAMPLE)
        alive = self._space.alive(self._parents)
        half = OFFSPRING // 2
        mutants, one, other = (self._choose(alive, half) for _ in range(3))
        mutants = np.where(self._rng.random(mutants.shape, np.float32) < MUTATION, self._draw(half), mutants)
        children = np.where(self._rng.random(one.shape, np.float32) < 0.5, one, other)
        return self._space.canonical(np.concatenate([mutants, children]))

    def _choose(self, alive: NDArray[np.bool_], count: int) -> Genomes:
        """(count, G) random parents with random genes where `alive`, (parents, G), is False."""
        rows = self._rng.integers(len(self._parents), size=count)
        return np.where(alive[rows], self._parents[rows], self._draw(count))

    def _draw(self, count: int) -> Genomes:
        """(count, G) genes uniform over their choices."""
        uniform = self._rng.random((count, self._space.num_genes), np.float32)
        return (uniform * self._space.num_choices.astype(np.float32)).astype(np.int8)

    def tell(self, genomes: Genomes, scores: "Scores") -> None:
        """Keep the fittest of the parents and the genomes told."""
        parents = np.concatenate([self._parents, genomes])
        fitness = np.concatenate([self._fitness, scores.fitness])
        kept = np.argsort(-fitness, kind="stable")[:PARENTS]
        self._parents, self._fitness = parents[kept], fitness[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """The parents, their fitness, and whether the first sample has been asked."""
        return {"parents": self._parents, "fitness": self._fitness, "sampled": np.array(self._sampled)}

    def restore(self, state: "State") -> None:
        """Continue from the parents saved."""
        self._parents, self._fitness = np.asarray(state["parents"]), np.asarray(state["fitness"])
        self._sampled = bool(state["sampled"])
