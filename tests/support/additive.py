"""Predictors whose score is a sum over genes."""

import numpy as np

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layers
from evolution.predictors.link import Link
from supernet.space import SearchSpace


def random_ridge(space: SearchSpace, rng: np.random.Generator) -> AccuracyPredictor:
    """A ridge regression with random weights; most later choices of a gene are better."""
    weights = np.concatenate([rng.normal(0.3, 0.5, n).cumsum() for n in space.num_choices]) / np.sqrt(space.num_genes)
    layer = weights[:, None].astype(np.float32), rng.normal(0, 0.1, 1).astype(np.float32)
    return AccuracyPredictor(space, Layers((layer,)), Link(1.0, 0.0), {"kind": "ridge"})
