"""The moves of a space, enumerated one by one: what tables of moves are compared with."""

from itertools import product

import numpy as np

from supernet.space import Genomes, SearchSpace


def neighbours(space: SearchSpace, genome: Genomes) -> Genomes:
    """(M, G) every canonical genome one move away from a canonical (G,) genome.

    A move sets one living gene other than a depth, or changes one stage's depth by one step. Growing a stage enumerates
    the choices of the blocks that it adds.
    """
    depth_genes = range(space.depth_gene(0), space.depth_gene(len(space.depths)))
    moves = []
    for gene in np.flatnonzero(space.alive(genome)).tolist():
        if gene not in depth_genes:
            choices = set(range(space.num_choices[gene])) - {int(genome[gene])}
            moves += [changed(genome, {gene: choice}) for choice in choices]
    for stage, gene in enumerate(depth_genes):
        depth = int(genome[gene])
        if depth > 0:
            moves.append(changed(genome, {gene: depth - 1}))
        if depth + 1 < space.num_choices[gene]:
            added = range(*(space.gene_of_block(stage, blocks) for blocks in space.depths[stage][depth : depth + 2]))
            for values in product(*(range(space.num_choices[g]) for g in added)):
                moves.append(changed(genome, {gene: depth + 1, **dict(zip(added, values, strict=True))}))
    return space.canonical(np.stack(moves)) if moves else np.zeros((0, space.num_genes), np.int8)


def changed(genome: Genomes, values: dict[int, int]) -> Genomes:
    """(G,) a copy of a genome with some genes set."""
    copy = genome.copy()
    copy[list(values)] = list(values.values())
    return copy
