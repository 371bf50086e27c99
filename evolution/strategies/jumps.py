"""Jumps: the sets of moves whose values add up to most within limits. One knapsack for each of N architectures.

1. Lagrange multipliers price what moves use of the limits. A move's worth is its value minus what it uses at these
   prices.
2. A beam search extends the sets of greatest worth move by move, and keeps those of greatest value within the limits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats

PRICE_STEPS = 12  # of the subgradient method


@dataclass(frozen=True, eq=False)
class Items:
    """The moves of N knapsacks.

    values: (N, m) -inf where a move is not possible. uses: (N, m, L) of the limited quantities, finite. room: (N, L)
    left of these. prices: (N, L) of a unit.
    """

    values: Floats
    uses: Floats
    room: Floats
    prices: Floats

    @cached_property
    def worth(self) -> Floats:
        """(N, m)."""
        worth: Floats = self.values - np.matmul(self.uses, self.prices[:, :, None])[:, :, 0]
        return worth


def find_prices(values: Floats, uses: Floats, room: Floats, starts: NDArray[np.intp]) -> Floats:
    """(N, L) Lagrange multipliers of the limits, by subgradient steps on the bound of each knapsack.

    The bound takes the best move of each gene. It is the relaxation in `evolution.knapsack`, of moves. values, uses,
    room: as in `Items`. starts: the first move of each gene; the moves of a gene follow each other.
    """
    count, num_moves, num_limits = uses.shape
    prices = np.zeros((count, num_limits))
    if not num_limits or not num_moves:
        return prices
    scale = np.abs(uses).max(1)
    scale[scale == 0] = 1
    used, left = uses / scale[:, None], room / scale
    gene = np.repeat(np.arange(len(starts)), np.diff(starts, append=num_moves))
    best, lowest = prices, np.full(count, np.inf)
    for step in range(1, PRICE_STEPS + 1):
        reduced = values - np.matmul(used, prices[:, :, None])[:, :, 0]
        top = np.maximum(np.maximum.reduceat(reduced, starts, axis=1), 0)
        bound = top.sum(1) + (prices * left).sum(1)
        best = np.where((bound < lowest)[:, None], prices, best)
        lowest = np.minimum(bound, lowest)
        taken = (reduced == top[:, gene]) & (reduced > 0)
        slack = left - np.matmul(taken[:, None].astype(np.float64), used)[:, 0]
        square = (slack**2).sum(1)
        pace = 0.5 / step * bound / np.where(square, square, 1)
        prices = np.maximum(0, prices - pace[:, None] * slack)
    scaled: Floats = best / scale
    return scaled


def greatest_of_rows(values: Floats, count: int) -> NDArray[np.intp]:
    """(N, count) the positions of the `count` greatest of each row of (N, M) values, in order of position.

    All of them if there are no more. Of equal values the first ones are taken, whatever the processor.
    """
    rows, columns = values.shape
    if columns <= count:
        return np.broadcast_to(np.arange(columns), values.shape)
    threshold = np.partition(values, columns - count, axis=1)[:, columns - count, None]
    is_great, is_equal = values > threshold, values == threshold
    is_equal &= is_equal.cumsum(1) <= count - is_great.sum(1, keepdims=True)
    return np.nonzero(is_great | is_equal)[1].reshape(rows, count)


def find_jumps(
    items: Items, independent: NDArray[np.bool_], largest: int, beam: int, count: int
) -> tuple[NDArray[np.intp], Floats]:
    """Sets of at most `largest` moves of great value within the room.

    independent: (N, m, m) whether two moves can be combined. A set is extended by later moves alone, so that each is
    met once; the first moves should have the greatest worth. beam: the sets of greatest worth kept of each size.

    Returns (N, K, largest) the moves of the `count` sets of greatest value, and (N, K) their values, -inf where there
    is none. A smaller set is filled up with m, which is no move.
    """
    uses, room = items.uses, items.room[:, None]
    count_knapsacks, num_moves = items.values.shape
    rows = np.arange(count_knapsacks)[:, None]
    later = independent & np.triu(np.ones((num_moves, num_moves), bool), 1)
    sets = np.full((count_knapsacks, num_moves, largest), num_moves)
    sets[:, :, 0] = np.arange(num_moves)
    free, value, used, worth = later, items.values, uses, items.worth
    found, totals = [sets], [np.where((used <= room).all(2), value, -np.inf)]
    for size in range(1, largest):
        pairs = sets.shape[1] * num_moves  # of a set and one more move
        worth = np.where(free, worth[:, :, None] + items.worth[:, None], -np.inf).reshape(count_knapsacks, pairs)
        kept = greatest_of_rows(worth, beam)
        first, second = np.divmod(kept, num_moves)
        sets, free, worth = sets[rows, first], free[rows, first] & later[rows, second], worth[rows, kept]
        sets[:, :, size] = second
        value = np.where(np.isfinite(worth), value[rows, first] + items.values[rows, second], -np.inf)
        used = used[rows, first] + uses[rows, second]
        found.append(sets)
        totals.append(np.where((used <= room).all(2), value, -np.inf))
    total = np.concatenate(totals, axis=1)
    best = greatest_of_rows(total, count)
    return np.concatenate(found, axis=1)[rows, best], total[rows, best]
