"""Exact tests against enumeration and scipy."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata

from evolution.statistics import rank_sum_p_value


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_it_is_the_exact_mann_whitney_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0.5, 1, 10), rng.normal(0, 1, 8)
    expected = mannwhitneyu(x, y, alternative="greater", method="exact").pvalue
    assert rank_sum_p_value(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_with_ties_it_counts_all_ways_to_label_the_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(1, 4, 5).astype(float), rng.integers(0, 3, 4).astype(float)
    ranks = rankdata(np.concatenate([x, y]))
    sums = [sum(ranks[list(chosen)]) for chosen in combinations(range(9), 5)]
    assert rank_sum_p_value(x, y) == pytest.approx(np.mean(np.array(sums) >= sums[0] - 1e-9))


def test_its_ends() -> None:
    low, high = np.arange(10.0), np.arange(10.0) + 10
    assert rank_sum_p_value(high, low) == pytest.approx(1 / 184_756)
    assert rank_sum_p_value(low, high) == 1
    assert rank_sum_p_value(low * 0, low * 0) == 1
    assert rank_sum_p_value(np.arange(60.0) + 0.5, np.arange(60.0)) == pytest.approx(
        mannwhitneyu(np.arange(60.0) + 0.5, np.arange(60.0), alternative="greater").pvalue, abs=0.01
    )
