"""Fitting a latency model: on block times and whole networks, or on whole networks alone; and how good the fit is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.latency_calibration import MIN_SHARE, Calibration
from evolution.predictors.latency_regression import Expected, LatencyRegression, PartTimes, Rows
from evolution.predictors.validation import folds, kendall_tau
from supernet.space import Genomes

FOLDS = 10
OVERHEADS = 21  # candidates for the overhead of a call, between 0 and the fastest block
RELEARN = 30  # with more networks, folds take over the standard deviations that all networks taught
CURVE = (5, 10, 15, 20, 30, 50, 100, 200, 500)  # numbers of networks of a learning curve
CURVE_SHARE = 0.8  # of the networks, at most, to fit on; the others tell the error
CURVE_REPEATS = 5


class LatencyFit:
    """Fits on subsets of M whole networks.

    blocks: (F,) ms of each entry's block, inf where it was not measured; None for whole networks alone.
    genomes: (M, G). measured: (M,) ms. known_devices: (F,) ms each, part times of other devices.

    1. Block times are calibrated: an overhead, and a line per resolution (`latency_calibration`).
    2. The regression corrects each part, or from whole networks alone finds it (`latency_regression`).
    """

    def __init__(
        self,
        tables: CostTables,
        blocks: Floats | None,
        genomes: Genomes,
        measured: Floats,
        known_devices: Sequence[Floats] = (),
    ) -> None:
        self.tables, self.genomes, self.measured = tables, genomes, measured
        self._regression = LatencyRegression(tables, genomes, measured, known_devices)
        self._index = tables.index(genomes)
        self._blocks = blocks
        if blocks is not None:
            self._kept = (~tables.dropped).astype(np.float64)
            self._sums, self._counts = blocks[self._index].sum(1), self._kept[self._index].sum(1)
            self._overheads = self._possible_overheads(blocks)

    def _possible_overheads(self, blocks: Floats) -> Floats:
        """Candidates, none of which makes a sum of block times zero or negative."""
        overheads = np.linspace(0, float(np.min(blocks[~self.tables.dropped])), OVERHEADS)
        left = self._sums - overheads[:, None] * self._counts  # (OVERHEADS, M)
        possible: Floats = overheads[(left > MIN_SHARE * self._sums).all(1)]
        return possible

    def fit(self, rows: Rows, deviations: Floats | None = None) -> PartTimes:
        """Part times from the networks of these rows. deviations: of an earlier fit, not to learn them again."""
        if self._blocks is None:
            return self._regression.fit(rows, None, deviations)
        resolution, count = self.genomes[rows, 0], len(self.tables.space.resolutions)
        data = self._sums[rows], self._counts[rows], resolution, self.measured[rows]
        line = Calibration.fit(*data, self._overheads, count)
        expected = Expected(self._blocks - line.overhead * self._kept, line.scale, line.offset)
        return self._regression.fit(rows, expected, deviations)

    def predict(self, times: PartTimes, rows: Rows) -> Floats:
        """(len(rows),) ms."""
        resolution = self.genomes[rows, 0]
        predicted: Floats = times.scale[resolution] * times.values[self._index[rows]].sum(1) + times.offset[resolution]
        return predicted

    def cross_validated(self, times: PartTimes, rng: np.random.Generator) -> Floats:
        """(M,) ms, each predicted by a fit that did not see its network. times: the fit on all."""
        count = len(self.measured)
        predicted = np.empty(count)
        for seen, unseen in folds(count, FOLDS, rng):
            fitted = self.fit(seen, None if count <= RELEARN else times.deviations)
            predicted[unseen] = self.predict(fitted, unseen)
        return predicted

    def learning_curve(self, times: PartTimes, rng: np.random.Generator) -> dict[int, float]:
        """By number of networks, the mean absolute percentage error on the other networks, mean of random choices."""
        count = len(self.measured)
        curve = {}
        for size in (size for size in CURVE if size <= CURVE_SHARE * count):
            errors = []
            for _ in range(CURVE_REPEATS):
                seen, unseen = np.split(rng.permutation(count), [size])
                fitted = self.fit(seen, None if size <= RELEARN else times.deviations)
                errors.append(error_card(self.predict(fitted, unseen), self.measured[unseen]))
            curve[size] = float(np.mean([error["mean_absolute_percentage_error"] for error in errors]))
        return curve


def error_card(predicted: Floats, measured: Floats) -> dict[str, Any]:
    """The number of networks, the mean absolute percentage error, the bias in per cent, and Kendall's tau.

    A positive bias says that predictions are too high.
    """
    relative = 100 * (predicted / measured - 1)
    return {
        "networks": len(measured),
        "mean_absolute_percentage_error": float(np.abs(relative).mean()),
        "bias_percent": float(relative.mean()),
        "kendall_tau": kendall_tau(predicted, measured),
    }


def more_networks(curve: Mapping[int, float], networks: int) -> dict[str, Any] | None:
    """What further networks would buy: the curve `a + b / n`, fitted to a learning curve; None of fewer than 2 points.

    Returns the error expected with one more network than `networks` and with twice as many, and the percentage points
    that one more would take away.
    """
    from scipy.optimize import nnls

    if len(curve) < 2:
        return None
    sizes, errors = (np.array(list(values), np.float64) for values in (curve, curve.values()))
    (limit, slope), _ = nnls(np.stack([np.ones(len(sizes)), 1 / sizes], 1), errors)
    now, one, twice = (float(limit + slope / n) for n in (networks, networks + 1, 2 * networks))
    return {
        "error_expected": now,
        "one_more_gains_points": now - one,
        "error_with_twice_as_many": twice,
        "error_in_the_limit": float(limit),
    }
