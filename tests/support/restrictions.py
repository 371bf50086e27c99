"""Restricted choices, drawn at random and checked on architectures one by one."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evolution.choices import Choices
from supernet.space import Genomes, SearchSpace, Value

Restrictions = Mapping[str, Sequence[Value]]


def living_genes(space: SearchSpace, genome: Genomes) -> dict[str, Value]:
    """By the name of each gene that matters, its value, read off the architecture of a (G,) genome."""
    arch = space.decode(genome)
    values: dict[str, Value] = {"resolution": arch.resolution, **dict(arch.extra)}
    for s, stage in enumerate(arch.stages, 1):
        values[f"stage{s}.depth"] = len(stage)
        for b, block in enumerate(stage, 1):
            names = (f"stage{s}.block{b}.{gene.name}" for gene in space.block_genes)
            values |= dict(zip(names, block, strict=True))
    return values


def obeys(space: SearchSpace, restrictions: Restrictions, genomes: Genomes) -> NDArray[np.bool_]:
    """(N,) whether each of (N, G) genomes has no excluded choice in any gene that matters."""

    def applies(name: str, gene: str) -> bool:
        return name == gene or name == gene.split(".")[-1] or name == f"{gene.split('.')[0]}.{gene.split('.')[-1]}"

    return np.array(
        [
            all(
                value in allowed
                for gene, value in living_genes(space, genome).items()
                for name, allowed in restrictions.items()
                if applies(name, gene)
            )
            for genome in genomes
        ]
    )


def random_restrictions(space: SearchSpace, rng: np.random.Generator, count: int) -> Restrictions:
    """Some choices of at most `count` genes, kinds of genes, or kinds within a stage."""
    names = {gene.name: gene.choices for gene in space.genes}
    for gene in space.genes:
        parts = gene.name.split(".")
        names |= {parts[-1]: gene.choices, f"{parts[0]}.{parts[-1]}": gene.choices}
    while True:
        restrictions = {}
        for name in rng.choice(sorted(names), count, replace=False).tolist():
            some = rng.random(len(names[name])) < 0.6
            restrictions[name] = tuple(choice for choice, left in zip(names[name], some, strict=True) if left)
        try:
            if Choices(space, restrictions).restricted:
                return restrictions
        except ValueError:  # nothing is left of a gene; draw again
            continue
