"""Predictors for tests."""

from itertools import pairwise

import numpy as np

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layers
from supernet.space import SearchSpace
from tests.support.tiny import smooth_accuracy


def network(space: SearchSpace, seed: int) -> AccuracyPredictor:
    """A random perceptron on one-hot genes: nothing additive about it."""
    rng = np.random.default_rng(seed)
    sizes = (int(space.num_choices.sum()), 30, 30, 1)
    layers = tuple(
        (rng.normal(0, n**-0.5, (n, m)).astype(np.float32), rng.normal(0, 0.1, m).astype(np.float32))
        for n, m in pairwise(sizes)
    )
    one = smooth_accuracy(space, rng)
    return AccuracyPredictor(space, Layers(layers), one.link, {})


def kernel(space: SearchSpace) -> AccuracyPredictor:
    """A Gaussian process fitted on 40 values of `network`."""
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, 40)
    return AccuracyPredictor.fit(space, genomes, network(space, 0).predict(genomes), None, rng, "kernel")
