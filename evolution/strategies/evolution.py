"""Elitist evolution: the fittest of everything scored so far mutate and cross.

As in Once-for-All's finder (arXiv:1908.09791), half of a generation are mutants of one parent and half take each gene
from one of two. Unlike there, genes of dropped blocks are drawn anew in every child, so that a stage that grows gets
random blocks, and the mutation rate rises while most of what is proposed has been scored before.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.problem import Problem, Scores
from evolution.strategies import State
from supernet.space import Genomes

SAMPLE = 256  # random architectures before the first generation
PARENTS = 64
OFFSPRING = 128
MUTATION = 0.05  # probability that a gene of a mutant is drawn anew, at least that of two genes
MOST_MUTATION = 0.5


class Evolution:
    """Keeps the fittest architectures and proposes mutants and children of them."""

    spent = 0

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._space, self._rng = problem.tables.space, rng
        self._parents = np.zeros((0, self._space.num_genes), np.int8)
        self._fitness = np.zeros(0)
        self._least = min(MOST_MUTATION, max(MUTATION, 2 / self._space.num_genes))
        self._rate = self._least
        self._sampled = False
        self._told = SAMPLE  # genomes since the last `ask`

    def ask(self) -> Genomes:
        """(256, G) a random sample first, then (128, G) offspring."""
        if not self._sampled:
            self._sampled = True
            return self._space.sample(self._rng, SAMPLE)
        repeats = self._told < OFFSPRING // 2
        self._rate = min(MOST_MUTATION, self._rate * 1.25) if repeats else max(self._least, self._rate / 1.25)
        self._told = 0
        half = OFFSPRING // 2
        alive = self._space.alive(self._parents)
        mutants, one, other = (self._choose(alive, half) for _ in range(3))
        children = np.where(self._rng.random(one.shape, np.float32) < 0.5, one, other)
        offspring = np.concatenate([mutants, children])
        rate = np.repeat([self._rate, self._rate - self._least], half)[:, None]
        mutated = np.where(self._rng.random(offspring.shape, np.float32) < rate, self._draw(OFFSPRING), offspring)
        return self._space.canonical(mutated)

    def _choose(self, alive: NDArray[np.bool_], count: int) -> Genomes:
        """(count, G) random parents with random genes where `alive`, (parents, G), is False."""
        rows = self._rng.integers(len(self._parents), size=count)
        return np.where(alive[rows], self._parents[rows], self._draw(count))

    def _draw(self, count: int) -> Genomes:
        """(count, G) genes uniform over their choices."""
        uniform = self._rng.random((count, self._space.num_genes), np.float32)
        return (uniform * self._space.num_choices.astype(np.float32)).astype(np.int8)

    def tell(self, genomes: Genomes, scores: Scores) -> None:
        """Keep the fittest of the parents and the genomes told."""
        self._told += len(genomes)
        parents = np.concatenate([self._parents, genomes])
        fitness = np.concatenate([self._fitness, scores.fitness])
        kept = np.argsort(-fitness, kind="stable")[:PARENTS]
        self._parents, self._fitness = parents[kept], fitness[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """The parents, their fitness, and what decides on the mutation rate."""
        numbers = np.array([self._rate, self._told, self._sampled])
        return {"parents": self._parents, "fitness": self._fitness, "numbers": numbers}

    def restore(self, state: State) -> None:
        """Continue from the parents saved."""
        self._parents, self._fitness = np.asarray(state["parents"]), np.asarray(state["fitness"])
        rate, told, sampled = state["numbers"].tolist()
        self._rate, self._told, self._sampled = rate, int(told), bool(sampled)
