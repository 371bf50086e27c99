"""The multipliers of the best Lagrangian bound, by cutting planes.

Every evaluation of a Lagrangian relaxation gives a plane above the bound as a function of the multipliers. The highest
point below all planes is the next trial (J. Kelley, "The cutting-plane method for solving convex programs", Journal of
the SIAM 8 (1960)). That point is the dual solution of a linear program with one column per plane and one row per limit
(G. Dantzig, P. Wolfe, "Decomposition principle for linear programs", Operations Research 8 (1960)). The simplex method
solves it anew after each plane, from the last basis; with few limits that is a few pivots.
"""

import numpy as np

from evolution.arrays import Floats

MOST_PIVOTS = 64  # after each plane; stopping early gives other trials, and no wrong bound
TOLERANCE = 1e-12  # of reduced costs and pivots; sums are in units of about 1


class Planes:
    """The planes of one problem with K limits, and the highest point below them.

    largest: of each multiplier.

    The bound of a problem that has 3 at no multiplier and violates its limit by 1, and 5 where it is 1 below it:

    >>> planes = Planes(1, largest=10.0)
    >>> planes.add(3.0, np.array([1.0]))
    >>> planes.add(5.0, np.array([-1.0]))
    >>> planes.highest()
    (array([1.]), 4.0)
    """

    def __init__(self, num_limits: int, largest: float) -> None:
        identity = np.eye(num_limits)
        # Slacks, then columns that may violate a limit at the price of the largest multiplier, then the planes.
        self._columns = np.column_stack([np.concatenate([identity, -identity]), np.zeros(2 * num_limits)])
        self._prices = np.repeat([0.0, largest], num_limits)
        self._basis: list[int] = []

    def add(self, value: float, violations: Floats) -> None:
        """Add the plane `value + multipliers @ violations`. violations: (K,)."""
        self._columns = np.vstack([self._columns, np.append(violations, 1.0)])
        self._prices = np.append(self._prices, value)
        if not self._basis:
            count = len(violations)
            self._basis = [*(np.arange(count) + count * (violations > 0)).tolist(), 2 * count]
            self._inverse = np.linalg.inv(self._columns[self._basis].T)
            self._shares = self._inverse[:, -1].copy()

    def highest(self) -> tuple[Floats, float]:
        """(K,) the multipliers of the highest point below all planes, and its height. One plane at least is needed."""
        for _ in range(MOST_PIVOTS):
            duals = self._prices[self._basis] @ self._inverse
            reduced = self._prices - self._columns @ duals
            entering = int(reduced.argmin())
            if reduced[entering] >= -TOLERANCE:
                break
            direction = self._inverse @ self._columns[entering]
            ratios = np.full(len(direction), np.inf)
            np.divide(self._shares, direction, out=ratios, where=direction > TOLERANCE)
            leaving = int(ratios.argmin())
            self._shares -= ratios[leaving] * direction
            self._shares[leaving] = ratios[leaving]
            row = self._inverse[leaving] / direction[leaving]
            self._inverse -= np.outer(direction, row)
            self._inverse[leaving] = row
            self._basis[leaving] = entering
        return np.maximum(0, -duals[:-1]), float(duals[-1])
