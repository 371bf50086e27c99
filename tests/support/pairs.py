"""Pairs of genomes and accuracies of the digits space, from known functions."""

import numpy as np

from evolution.arrays import Floats
from evolution.predictors.features import one_hot
from supernet.families import preset
from supernet.space import Genomes

SPACE = preset("mbv3-digits")


def additive(genomes: Genomes, seed: int = 0) -> Floats:
    """A log-likelihood that is a sum of one effect per choice of each living gene."""
    features = one_hot(SPACE, genomes)
    effects = np.random.default_rng(seed).normal(0, 0.02, features.shape[1])
    return np.asarray(features @ effects - 0.2, np.float64)


def middling(genomes: Genomes) -> Floats:
    """A log-likelihood that is highest for architectures of middling size, which no sum over genes says."""
    size = np.where(SPACE.alive(genomes), genomes.astype(int) + 1, 0).sum(1)
    return np.asarray(-0.2 * ((size - 25) / 5) ** 2, np.float64)


def saturated(log_likelihood: Floats, rng: np.random.Generator) -> Floats:
    """Accuracies that grow with the log-likelihood and hardly differ, counted on 500 images."""
    return rng.binomial(500, 1 / (1 + np.exp(-4 - 10 * (log_likelihood + 0.2)))) / 500
