"""The statistics that both predictors' cards are made of."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evolution.elimination import Floats


def kendall_tau(x: Floats, y: Floats) -> float | None:
    """Kendall's tau-b between two rankings, in [-1, 1]; None where one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(x, y).statistic)
    return None if np.isnan(tau) else tau


def folds(count: int, most: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices (seen, unseen) of a k-fold cross-validation of `count` items, k at most `most`."""
    shuffled = rng.permutation(count)
    for unseen in np.array_split(shuffled, min(most, count)):
        yield np.setdiff1d(shuffled, unseen), np.sort(unseen)
