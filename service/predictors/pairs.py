"""Measured pairs of one supernet: those that its predictor was fitted on, and what was measured since.

This module loads no torch; its callers bring an `Evaluator`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from evolution.costs import CostTables
from evolution.predictors.pairs import MeasuredPairs
from service.errors import InvalidError
from supernet.evaluation.metrics import Evaluation
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from supernet.evaluation.evaluate import Evaluator

NO_PAIRS = (
    "lacks the pairs that its accuracy predictor was fitted on, as bundles of earlier releases and imported ones do"
)
MOST_ACCURACY = 0.005  # difference of two measurements of one subnet, on machines that round differently
MOST_LOG_LIKELIHOOD = 0.01  # nats


def measured_pairs(space: SearchSpace, scored: Mapping[bytes, Evaluation]) -> MeasuredPairs:
    """Subnets by the bytes of their genomes as pairs."""
    genomes = np.frombuffer(b"".join(scored), np.int8).reshape(len(scored), space.num_genes)
    accuracy = np.array([scores.accuracy for scores in scored.values()], np.float64)
    log_likelihood = np.array([scores.log_likelihood for scores in scored.values()], np.float64)
    return MeasuredPairs(space, genomes, accuracy, log_likelihood)


def check_comparable(evaluator: "Evaluator", pairs: MeasuredPairs) -> int:
    """Measure the pair of least, of medium and of most FLOPs again. Returns the number of images that measure a subnet.

    Raises:
        InvalidError: one of them scores otherwise than the pair says, so pairs and verified candidates were measured on
            different images, or with another recalibration.
    """
    order, images = np.argsort(CostTables(pairs.space).flops(pairs.genomes), kind="stable"), 0
    for row in order[[0, len(order) // 2, -1]].tolist():
        arch = pairs.space.decode(pairs.genomes[row])
        scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
        assert scored is not None
        expected = float(pairs.accuracy[row]), float(pairs.log_likelihood[row])
        if (
            abs(scored.accuracy - expected[0]) > MOST_ACCURACY
            or abs(scored.log_likelihood - expected[1]) > MOST_LOG_LIKELIHOOD
        ):
            raise InvalidError(
                f"the predictor's pairs do not compare with what is measured here: subnet {pairs.space.id(arch)} has "
                f"an accuracy of {expected[0]:.4f} and a log-likelihood of {expected[1]:.4f} among the pairs, but "
                f"{scored.accuracy:.4f} and {scored.log_likelihood:.4f} on the bundle's held-out images. Fit the "
                "predictor on this bundle with `supple fit`"
            )
        images = scored.images
    return images
