"""How sums of block times become latencies of whole networks: an overhead of a call, and a line per resolution.

A probe runs each block alone, so each block's time may contain the overhead of a call, which a whole network pays
once. For networks of a fraction of a millisecond this overhead is most of the sum. Our probe subtracts it already; then
the fitted overhead is about 0. The additive table is that of ProxylessNAS and Once-for-All (arXiv:1812.00332,
arXiv:1908.09791); the calibration is ours.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from evolution.arrays import Floats
from supernet.space import Genomes

SHRINKAGE = 4.0  # a resolution's own factor has weight n / (n + SHRINKAGE) for n networks measured there
MIN_SHARE = 1e-9  # of a sum of block times; anything smaller is a rounding error
REWEIGHTINGS = 10  # of Huber's robust fit
HUBER = 1.345  # 95 % efficiency under normal errors; P. Huber, "Robust statistics" (1981)


@dataclass(frozen=True)
class Calibration:
    """overhead: ms per block. scale: (R,) without unit. offset: (R,) ms."""

    overhead: float
    scale: Floats
    offset: Floats

    @classmethod
    def fit(
        cls, sums: Floats, blocks: Floats, resolution: Genomes, measured: Floats, overheads: Floats, count: int
    ) -> Self:
        """Fit relative errors.

        sums: (M,) sums of block times, ms. blocks: (M,) numbers of blocks. count: R. overheads: candidates, ms per
        block, none of which makes a sum zero or negative.

        1. Take the overhead, and the line, of lowest robust error over all networks.
        2. Scale the line at each resolution by a factor shrunk towards 1, so that a resolution with few measured
           networks or none keeps the pooled line.
        """
        fits = [(*_robust_line(sums - overhead * blocks, measured), overhead) for overhead in overheads.tolist()]
        _, slope, intercept, overhead = min(fits)
        pooled = slope * (sums - overhead * blocks) + intercept
        log_ratio = np.log(measured / pooled)
        factor = np.ones(count)
        for r in np.unique(resolution):
            here = log_ratio[resolution == r]
            factor[r] = math.exp(float(np.median(here)) * len(here) / (len(here) + SHRINKAGE))
        return cls(overhead, slope * factor, intercept * factor)

    def predict(self, sums: Floats, blocks: Floats, resolution: Genomes) -> Floats:
        """(M,) ms."""
        predicted: Floats = self.scale[resolution] * (sums - self.overhead * blocks) + self.offset[resolution]
        return predicted


def _robust_line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Error, slope > 0 and intercept >= 0 of y = slope * x + intercept, by Huber's loss on relative residuals."""
    weight = np.ones(len(x))
    slope = intercept = 0.0
    constant = np.ptp(x) <= MIN_SHARE * x.max()
    residual = np.zeros(len(x))
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weight) / y
        columns = np.column_stack([x, np.ones(len(x))]) * root[:, None]
        if not constant:
            slope, intercept = np.linalg.lstsq(columns, y * root, rcond=None)[0].tolist()
        if constant or intercept < 0 or slope <= 0:  # too little spread for two numbers: a line through the origin
            slope, intercept = float((columns[:, 0] @ (y * root)) / (columns[:, 0] @ columns[:, 0])), 0.0
        residual = np.abs((slope * x + intercept) / y - 1)
        spread = max(1.4826 * float(np.median(residual)), 1e-9)  # of normal errors, from their median absolute value
        weight = np.minimum(1, HUBER * spread / np.maximum(residual, 1e-12))
    return float(np.mean(weight * residual**2)), slope, intercept
