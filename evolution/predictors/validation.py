"""Statistics for the cards of the predictors and for comparisons."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats


def kendall_tau(x: Floats, y: Floats) -> float | None:
    """Kendall's tau-b between two rankings, in [-1, 1]; None where one of them is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(x, y).statistic)
    return None if np.isnan(tau) else tau


def folds(count: int, max_folds: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices (seen, unseen) of a k-fold cross-validation of `count` items, k at most `max_folds`."""
    shuffled = rng.permutation(count)
    for unseen in np.array_split(shuffled, min(max_folds, count)):
        yield np.setdiff1d(shuffled, unseen), np.sort(unseen)


def median_bounds(samples: Floats, confidence: float) -> tuple[float, float]:
    """A lower and an upper bound of the median of what (n,) independent samples are drawn from.

    Each bound alone holds with this confidence, whatever the distribution: the k-th largest sample is below the median
    only if fewer than k samples are above it, with probability P(Binomial(n, 1/2) < k) (W. R. Thompson, "On confidence
    ranges for the median", Annals of Mathematical Statistics 7, 1936). With too few samples the bounds are infinite.
    """
    from scipy.stats import binom

    ordered = np.sort(samples)
    k = np.arange(1, len(ordered) + 1)
    holding = np.flatnonzero(binom.cdf(k - 1, len(ordered), 0.5) <= 1 - confidence)
    if not len(holding):
        return -np.inf, np.inf
    rank = int(holding[-1])  # from 0
    return float(ordered[rank]), float(ordered[-1 - rank])


def rank_sum_p_value(x: Floats, y: Floats) -> float:
    """The p-value of the one-sided Mann-Whitney U test that `x` is not larger than `y`, exact with ties too.

    Counts the ways to choose `len(x)` of the mean ranks whose sum is at least the sum of the ranks of `x`
    (B. Streitberg, J. Röhmel, "Exact distributions for permutation and rank tests", 1986).
    """
    from scipy.stats import rankdata

    doubled = np.rint(2 * rankdata(np.concatenate([x, y]))).astype(np.intp)  # mean ranks are multiples of a half
    counts = np.zeros((len(x) + 1, int(doubled.sum()) + 1))  # [k, s]: ways to choose k ranks of sum s
    counts[0, 0] = 1
    for rank in doubled:
        counts[1:, rank:] += counts[:-1, : counts.shape[1] - rank]
    ways = counts[-1]
    return float(ways[doubled[: len(x)].sum() :].sum() / ways.sum())


def spearman_rho(x: Floats, y: Floats) -> float | None:
    """Spearman's rank correlation, in [-1, 1]; None where one of the two is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(x), rankdata(y)
    return None if min(np.ptp(values) for values in ranks) == 0 else float(np.corrcoef(*ranks)[0, 1])


def tau_interval(
    x: Floats, y: Floats, rng: np.random.Generator, *, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of Kendall's tau-b of N pairs; None if most resamples have no tau."""
    rows = rng.integers(len(x), size=(resamples, len(x)))
    taus = [tau for tau in (kendall_tau(x[row], y[row]) for row in rows) if tau is not None]
    if len(taus) < resamples / 2:
        return None
    low, high = np.quantile(taus, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high
