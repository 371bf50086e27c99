"""Exact tests against enumeration and scipy."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu, rankdata, spearmanr

from evolution.predictors.validation import kendall_tau, median_bounds, rank_sum_p_value, spearman_rho, tau_interval


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


def test_spearman_is_that_of_scipy_and_none_where_one_side_is_constant() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 30).astype(float)
    y = x + rng.normal(0, 3, 30)
    assert spearman_rho(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman_rho(x, np.ones(30)) is None


def test_the_interval_of_tau_holds_it_and_narrows_with_more_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    widths = []
    for count in (20, 200):
        interval = tau_interval(x[:count], y[:count], rng)
        tau = kendall_tau(x[:count], y[:count])
        assert interval is not None
        assert tau is not None
        assert interval[0] < tau < interval[1]
        widths.append(interval[1] - interval[0])
    assert widths[1] < widths[0] / 2
    assert tau_interval(x, np.ones(200), rng) is None


def test_kendall_tau_of_a_constant_is_none() -> None:
    assert kendall_tau(np.arange(5.0), np.ones(5)) is None
    assert kendall_tau(np.arange(5.0), np.arange(5.0)) == pytest.approx(1)


def test_bounds_of_a_median_are_order_statistics_and_hold_as_often_as_they_say() -> None:
    samples = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    assert median_bounds(samples, 0.95) == (1.0, 5.0)  # all five lie on one side with probability 1/32
    assert median_bounds(samples, 0.8) == (2.0, 4.0)  # at least four do with probability 6/32
    assert median_bounds(samples[:4], 0.95) == (-np.inf, np.inf)
    drawn = np.random.default_rng(0).exponential(size=(4000, 40))
    bounds = np.array([median_bounds(row, 0.95) for row in drawn])
    exact = 1 - binom.cdf(14, 40, 0.5)  # the 15th sample on either side is the bound of 40
    assert exact >= 0.95
    for holds in (bounds[:, 0] <= np.log(2), np.log(2) <= bounds[:, 1]):
        assert holds.mean() == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000))
