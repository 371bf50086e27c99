"""Split-conformal bounds: how far to go from a prediction so that a new measurement stays below it, with a confidence.

The guarantee is marginal: it holds on average over networks drawn like the held-out ones, and over draws of these. It
does not hold for each single network, nor for networks that a search prefers because they are predicted to be fast.
"""

import math

import numpy as np

from evolution.arrays import Floats


def conformal_bound(scores: Floats, confidence: float) -> float:
    """The ceil((n + 1) * confidence)-th smallest of n scores.

    If a new score is exchangeable with the n, it is at most this bound with a probability of at least `confidence`, and
    of at most `confidence + 1 / (n + 1)` if no two scores are equal (J. Lei et al., "Distribution-free predictive
    inference for regression", arXiv:1604.04173, theorem 2.2).

    scores: (n,) of held-out items, none of which the predictor was fitted on.

    >>> conformal_bound(np.array([1.1, 0.9, 1.0, 1.3]), 0.6)
    1.1

    Raises:
        ValueError: `confidence` is not between 0 and 1, or needs more scores. The message names the highest possible.
    """
    count = len(scores)
    if not 0 < confidence < 1 or (rank := math.ceil(round((count + 1) * confidence, 9))) > count:
        raise ValueError(
            f"confidence is {confidence}; {count} measured networks support at most {count / (count + 1):.3f}; "
            "ask for less or measure more networks"
        )
    return float(np.sort(scores)[rank - 1])
