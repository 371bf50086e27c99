"""The accuracy predictors that Once-for-All published."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import HIDDEN, Layer, Layers
from supernet.space import SearchSpace

MOBILENET_FEATURES, MOBILENET_GENES = 128, ["kernel_size", "expand_ratio"]


def from_once_for_all(space: SearchSpace, layers: Sequence[Layer], card: Mapping[str, Any]) -> AccuracyPredictor:
    """Once-for-All's predictor for its MobileNetV3 space, with its features rearranged as those of `one_hot`.

    layers: as trained. The rows of the first weight are 3 kernel sizes for each of 20 blocks, then 3 expansion
    ratios for each block, then 8 resolutions, each group ascending. Depths have no features.

    Raises:
        ValueError: layers of other shapes, or a space with other genes.
    """
    blocks = [(s, b) for s, depths in enumerate(space.depths) for b in range(depths[-1])]
    groups = [len(space.resolutions), *(len(gene.choices) for gene in space.block_genes)]
    shapes = [(weight.shape, bias.shape) for weight, bias in layers]
    sizes = pairwise((MOBILENET_FEATURES, *HIDDEN, 1))
    if shapes != [((inputs, outputs), (outputs,)) for inputs, outputs in sizes]:
        raise ValueError(f"Once-for-All's predictor has layers 128-400-400-400-1; these are {shapes}")
    if (len(blocks), groups) != (20, [8, 3, 3]) or [g.name for g in space.block_genes] != MOBILENET_GENES:
        raise ValueError(f"Once-for-All's predictor is of its MobileNetV3 space, which {space.name} is not")
    weight, bias = layers[0]
    starts = np.cumsum(space.num_choices) - space.num_choices
    columns = np.zeros((int(space.num_choices.sum()), weight.shape[1]), np.float32)
    columns[:8] = weight[120:]
    for number, (s, b) in enumerate(blocks):
        for kind in range(2):
            start = starts[space.gene_of_block(s, b) + kind]
            columns[start : start + 3] = weight[60 * kind + 3 * number :][:3]
    return AccuracyPredictor(space, Layers(((columns, bias), *layers[1:])), None, card)
