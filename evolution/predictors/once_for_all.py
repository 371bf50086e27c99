"""The accuracy predictors that Once-for-All published, with their features rearranged as those of `one_hot`.

Their features are one-hot, like ours, so each row of the first weight becomes a row of ours. A resolution that a
predictor was not trained on, between two on which it was, gets a mix of these two resolutions' rows, linear in the
number of pixels of a side. How large the error is there is unknown.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import HIDDEN, Layer, Layers
from supernet.space import SearchSpace

# By predictor, the resolutions that it was trained on, and its number of features.
MOBILENET_RESOLUTIONS, MOBILENET_FEATURES = (112, 128, 144, 160, 176, 192, 208, 224), 128
RESNET_RESOLUTIONS, RESNET_FEATURES = (128, 144, 160, 176, 192, 224, 240, 256), 82
MOBILENET_GENES = [("kernel_size", (3, 5, 7)), ("expand_ratio", (3, 4, 6))]
RESNET_GENES = [("expand_ratio", (0.2, 0.25, 0.35))]
RESNET_WIDTHS = ("stem.mid.width", "stem.width", "stage1.width", "stage2.width", "stage3.width", "stage4.width")

Rows = NDArray[np.float32]  # (features, outputs) rows of a first weight


def from_once_for_all(space: SearchSpace, layers: Sequence[Layer], card: Mapping[str, Any]) -> AccuracyPredictor:
    """Once-for-All's predictor for its MobileNetV3 space or for its ResNet-50.

    layers: as trained; their number of features tells which of the two it is. The card gets
    `interpolated_resolutions`, if there are any.

    Raises:
        ValueError: layers of other shapes, or a space with other genes.
    """
    shapes = [(weight.shape, bias.shape) for weight, bias in layers]
    features = shapes[0][0][0] if shapes and shapes[0][0] else 0
    sizes = pairwise((features, *HIDDEN, 1))
    if features not in (MOBILENET_FEATURES, RESNET_FEATURES) or shapes != [((i, o), (o,)) for i, o in sizes]:
        raise ValueError(
            f"Once-for-All's predictor has layers {MOBILENET_FEATURES}-400-400-400-1, or for its ResNet-50 "
            f"{RESNET_FEATURES}-400-400-400-1; these are {shapes}"
        )
    weight, bias = layers[0]
    if features == MOBILENET_FEATURES:
        rows, published = _mobilenet_rows(space, weight), MOBILENET_RESOLUTIONS
    else:
        rows, published = _resnet_rows(space, weight), RESNET_RESOLUTIONS
    between = [resolution for resolution in space.resolutions if resolution not in published]
    card = {**card, "interpolated_resolutions": between} if between else card
    first = np.concatenate([rows[gene.name] for gene in space.genes]).astype(np.float32)
    return AccuracyPredictor(space, Layers(((first, bias), *layers[1:])), None, card)


def _mobilenet_rows(space: SearchSpace, weight: Rows) -> dict[str, Rows]:
    """By gene, the rows of its choices. Depths have none in the predictor: dropped blocks have no features.

    weight: 3 kernel sizes for each of 20 blocks, then 3 expansion ratios for each block, then 8 resolutions.
    """
    _check_genes(space, "MobileNetV3 space", blocks=20, genes=MOBILENET_GENES, extra=())
    rows = _depth_rows(space, weight)
    rows["resolution"] = _resolution_rows(space, weight[120:], MOBILENET_RESOLUTIONS)
    for number, block in enumerate(_blocks(space)):
        rows[f"{block}.kernel_size"] = weight[3 * number :][:3]
        rows[f"{block}.expand_ratio"] = weight[60 + 3 * number :][:3]
    return rows


def _resnet_rows(space: SearchSpace, weight: Rows) -> dict[str, Rows]:
    """By gene, the rows of its choices. Depths have none in the predictor: dropped blocks have no features.

    weight, as `ResNetArchEncoder` of Once-for-All's code orders features: 8 resolutions; the stem without and with its
    residual block; 3 widths for the stem's middle, the stem and each of 4 stages; 3 expansion ratios for each of 18
    blocks. The middle of the stem is equally wide at the first two widths, of which our space has the first.
    """
    extra = (
        *sorted({*RESNET_WIDTHS} - {"stem.mid.width", "stem.width"}),
        "stem.mid.width",
        "stem.residual",
        "stem.width",
    )
    _check_genes(space, "ResNet-50", blocks=18, genes=RESNET_GENES, extra=extra)
    rows = _depth_rows(space, weight)
    rows["resolution"] = _resolution_rows(space, weight[:8], RESNET_RESOLUTIONS)
    rows["stem.residual"] = weight[8:10]
    for number, name in enumerate(RESNET_WIDTHS):
        rows[name] = weight[10 + 3 * number :][:3]
    rows["stem.mid.width"] = rows["stem.mid.width"][[0, 2]]
    for number, block in enumerate(_blocks(space)):
        rows[f"{block}.expand_ratio"] = weight[28 + 3 * number :][:3]
    return rows


def _check_genes(
    space: SearchSpace,
    name: str,
    *,
    blocks: int,
    genes: Sequence[tuple[str, tuple[float, ...]]],
    extra: tuple[str, ...],
) -> None:
    same = (
        len(_blocks(space)) == blocks
        and [(gene.name, gene.choices) for gene in space.block_genes] == genes
        and tuple(gene.name for gene in space.extra_genes) == extra
    )
    if not same:
        raise ValueError(f"Once-for-All's predictor is of its {name}, which {space.name} is not")


def _blocks(space: SearchSpace) -> list[str]:
    """The names of all blocks, in order."""
    return [f"stage{s}.block{b}" for s, depths in enumerate(space.depths, 1) for b in range(1, depths[-1] + 1)]


def _depth_rows(space: SearchSpace, weight: Rows) -> dict[str, Rows]:
    shape = weight.shape[1:]
    return {f"stage{s}.depth": np.zeros((len(d), *shape), np.float32) for s, d in enumerate(space.depths, 1)}


def _resolution_rows(space: SearchSpace, rows: Rows, published: tuple[int, ...]) -> Rows:
    """The rows of the space's resolutions from those of the published ones, mixed linearly in between.

    Raises:
        ValueError: a resolution below the lowest or above the highest published one.
    """
    smallest, largest = space.resolutions[0], space.resolutions[-1]
    if smallest < published[0] or largest > published[-1]:
        raise ValueError(
            f"Once-for-All's predictor was trained on resolutions from {published[0]} to {published[-1]}, and "
            f"{space.name} has {smallest} to {largest}"
        )
    positions = np.interp(space.resolutions, published, np.arange(len(published)))
    below = np.floor(positions).astype(int)
    share = (positions - below)[:, None].astype(np.float32)
    above = np.minimum(below + 1, len(published) - 1)
    mixed: Rows = (1 - share) * rows[below] + share * rows[above]
    return mixed
