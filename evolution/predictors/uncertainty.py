"""How far measured accuracies lie from predicted ones."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats

LEVEL, DEVIATIONS = 0.95, 1.959964  # a normal variable lies within so many standard deviations with this probability
LEAST_NOISE = 1e-9  # so that errors that are all zero have a scale


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The standard deviation of a measured accuracy around the predicted one: scale * hypot(noise, the model's own).

    noise: the part that does not depend on the architecture, a fraction. scale: set so that 95 % of the errors on
    held-out pairs are within 1.96 standard deviations, as in split-conformal prediction (arXiv:1604.04173).
    """

    noise: float
    scale: float

    def std(self, model_std: Floats) -> Floats:
        """(N,) standard deviations. model_std: (N,) the model's own, of its predicted accuracy without noise."""
        std: Floats = self.scale * np.hypot(self.noise, model_std)
        return std

    def covers(self, errors: Floats, model_std: Floats) -> NDArray[np.bool_]:
        """(N,) whether the 95 % interval around the predicted accuracy holds the measured one."""
        return np.abs(errors) <= DEVIATIONS * self.std(model_std)

    @classmethod
    def fit(cls, errors: Floats, model_std: Floats) -> Self:
        """Of (N,) errors on held-out pairs."""
        noise = math.sqrt(max(LEAST_NOISE**2, float(np.mean(errors**2 - model_std**2))))
        ratios = np.sort(np.abs(errors) / np.hypot(noise, model_std))
        rank = min(len(ratios), math.ceil((len(ratios) + 1) * LEVEL))
        return cls(noise, float(ratios[rank - 1]) / DEVIATIONS)
