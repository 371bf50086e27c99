"""Genomes as features of the accuracy predictor."""

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genomes, SearchSpace

Features = NDArray[np.float32]


def one_hot(space: SearchSpace, genomes: Genomes) -> Features:
    """(N, F) features: one column per choice of each gene; zeros for the genes of dropped blocks."""
    ends = np.cumsum(space.num_choices)
    features = np.zeros((len(genomes), int(ends[-1])), np.float32)
    rows = features.size // max(1, len(genomes)) * np.arange(len(genomes))[:, None]
    features.ravel()[rows + (ends - space.num_choices) + genomes] = space.alive(genomes)
    return features


def cumulative(space: SearchSpace) -> Features:
    """(F, F) zeros and ones C: in `one_hot(...) @ C` a choice sets its column and those of its gene's lower choices.

    So the squared distance between two choices of a gene is the number of steps between them, and a dropped block is
    one step below its smallest choice.
    """
    gene = np.repeat(np.arange(space.num_genes), space.num_choices)
    coding: Features = np.tril(gene[:, None] == gene).astype(np.float32)
    return coding
