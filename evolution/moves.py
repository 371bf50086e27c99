"""The moves of a search space as one table, so that a genome's neighbourhood is a few array operations."""

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from evolution.choices import Choices
from supernet.space import Genomes

ANY = -1
MOST_GROWTHS = 1_000  # moves that grow a stage by one step


def _growths(choices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The combinations of the choices of added genes, or some of them where there are too many."""
    if math.prod(map(len, choices)) <= MOST_GROWTHS:
        return list(product(*choices))
    first = tuple(gene[0] for gene in choices)
    changed = ((*first[:i], choice, *first[i + 1 :]) for i, gene in enumerate(choices) for choice in gene)
    return list(dict.fromkeys(changed))


class Moves:
    """Every move of a space among its open choices.

    A move sets one living gene other than a depth, or changes one stage's depth to the next smaller or larger open one.

    Growing a stage also sets the genes of the blocks that it adds, to each combination of their open choices; if these
    are more than `MOST_GROWTHS`, to those in which at most one gene is not at its first choice. Shrinking a stage sets
    the genes of the blocks that it drops to 0. So a move of a canonical genome gives a canonical genome.

    sets: (M, G) whether a move sets a gene. values: (M, G) the choice that it sets; 0 elsewhere.
    independent: (M, M) whether two moves set different genes. Each pair counts once, the earlier move first, since the
        order does not matter.
    """

    def __init__(self, choices: Choices) -> None:
        self.space = space = choices.space
        open_choices = [np.flatnonzero(row).tolist() for row in choices.open]
        depths = range(space.depth_gene(0), space.depth_gene(len(space.depths)))
        rows: list[tuple[int, int, dict[int, int]]] = []  # the gene that changes, its choice before, the choices set
        for gene, here in enumerate(open_choices):
            if gene not in depths:
                rows += [(gene, ANY, {gene: choice}) for choice in here]
        for stage, gene in enumerate(depths):
            for shallow, deep in pairwise(open_choices[gene]):
                first, last = (space.gene_of_block(stage, space.depths[stage][step]) for step in (shallow, deep))
                blocks = range(first, last)
                rows.append((gene, deep, {gene: shallow} | dict.fromkeys(blocks, 0)))
                for values in _growths([open_choices[g] for g in blocks]):
                    rows.append((gene, shallow, {gene: deep} | dict(zip(blocks, values, strict=True))))
        self.sets = np.zeros((len(rows), space.num_genes), bool)
        self.values = np.zeros((len(rows), space.num_genes), np.int8)
        for row, (_, _, changes) in enumerate(rows):
            self.sets[row, list(changes)] = True
            self.values[row, list(changes)] = list(changes.values())
        self.gene = np.array([gene for gene, _, _ in rows])
        self._from = np.array([choice for _, choice, _ in rows])
        self._to = self.values[np.arange(len(rows)), self.gene]
        counts = self.sets.astype(np.float32)
        self.independent = np.triu(counts @ counts.T == 0)

    def __len__(self) -> int:
        """M."""
        return len(self.sets)

    def applicable(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N, M) whether a move is possible for each of (N, G) canonical genomes."""
        now = genomes[:, self.gene]
        changes = self.space.alive(genomes)[:, self.gene] & (now != self._to)
        possible: NDArray[np.bool_] = np.where(self._from == ANY, changes, now == self._from)
        return possible

    def apply(self, genomes: Genomes, moves: NDArray[np.intp]) -> Genomes:
        """(N, G) genomes, (N, G) or (G,), after moves (N,)."""
        return np.where(self.sets[moves], self.values[moves], genomes)

    def neighbours(self, genome: Genomes) -> Genomes:
        """(K, G) every genome one move from a canonical (G,) genome."""
        return self.apply(genome, np.flatnonzero(self.applicable(genome[None])[0]))

    def within_two(self, genome: Genomes) -> Genomes:
        """(K, G) every distinct genome one or two moves from a canonical (G,) genome, without that genome.

        The second move is independent of the first, or it changes the depth of the same stage again. Any other second
        move, such as one in a block that the first move added, gives a genome that a single move gives too.
        """
        moves = np.flatnonzero(self.applicable(genome[None])[0])
        singles = self.apply(genome, moves)
        first, second = np.nonzero(self.independent[moves][:, moves])
        pairs = self.apply(singles[first], moves[second])
        deeper = self._from[moves] != ANY
        again = self.applicable(singles[deeper]) & (self._from != ANY)
        again &= self.gene[moves[deeper], None] == self.gene
        first, second = np.nonzero(again)
        twice = self.apply(singles[deeper][first], second)
        rows = np.concatenate([singles, pairs, twice]).view(f"V{len(genome)}").ravel()
        distinct: Genomes = np.unique(rows).view(np.int8).reshape(-1, len(genome))
        neighbours: Genomes = distinct[(distinct != genome).any(1)]
        return neighbours
