"""Sets of moves within limits, against enumeration."""

from itertools import combinations

import numpy as np
import pytest

from evolution.strategies.jumps import Items, find_jumps, find_prices, greatest_of_rows


@pytest.mark.parametrize("num_limits", [0, 1, 3])
def test_with_a_wide_beam_the_sets_are_those_of_greatest_value_within_the_room(num_limits: int) -> None:
    rng = np.random.default_rng(num_limits)
    values, uses = rng.normal(0, 1, (4, 8)), rng.normal(0.3, 1, (4, 8, num_limits))
    values[:, 3] = -np.inf  # not possible
    room = rng.uniform(0, 1, (4, num_limits))
    independent = rng.random((8, 8)) < 0.8
    independent &= independent.T
    items = Items(values, uses, room, np.zeros((4, num_limits)))
    sets, totals = find_jumps(items, np.broadcast_to(independent, (4, 8, 8)), 3, 1_000, 5)
    for row in range(4):
        expected = sorted(
            (
                float(values[row, list(some)].sum())
                for size in (1, 2, 3)
                for some in combinations(range(8), size)
                if 3 not in some
                and all(independent[pair] for pair in combinations(some, 2))
                and (uses[row, list(some)].sum(0) <= room[row]).all()
            ),
            reverse=True,
        )[:5]
        known = np.isfinite(totals[row])
        assert sorted(totals[row][known].tolist(), reverse=True) == pytest.approx(expected)
        for members, total in zip(sets[row][known], totals[row][known], strict=True):
            assert values[row, members[members < 8]].sum() == pytest.approx(total)


def test_a_price_makes_the_best_moves_within_one_limit_worth_more_than_others() -> None:
    """One move of each gene: at the multiplier of the relaxation, what fits is what pays."""
    values, uses = np.array([[3.0, 2.0, 1.0, 0.5]]), np.array([[[1.0], [1.0], [1.0], [1.0]]])
    prices = find_prices(values, uses, np.array([[2.0]]), np.arange(4))
    worth = Items(values, uses, np.array([[2.0]]), prices).worth[0]
    assert (worth[:2] > 0).all()
    assert worth[2] <= 0.2
    assert find_prices(values, uses, np.array([[9.0]]), np.arange(4)).tolist() == [[0.0]]


def test_of_equal_values_the_first_are_taken_on_every_processor() -> None:
    values = np.array([[1.0, 2, 2, 0, 2], [-np.inf, -np.inf, 1, -np.inf, -np.inf]])
    assert greatest_of_rows(values, 2).tolist() == [[1, 2], [0, 2]]
    assert greatest_of_rows(values, 9).tolist() == [[0, 1, 2, 3, 4]] * 2
    ties = np.tile([0.5, 1.0], (1, 500))
    assert greatest_of_rows(ties, 600)[0].tolist() == sorted([*range(1, 1000, 2), *range(0, 200, 2)])
