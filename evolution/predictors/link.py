"""The link from scores to accuracies."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from evolution.arrays import Floats

MARGIN = 1e-4  # accuracies are kept this far from 0 and 1, where the link has no finite score


def logit(accuracy: Floats) -> Floats:
    """(N,) finite scores that the standard logistic function maps to accuracies, which are kept off 0 and 1."""
    bounded = np.clip(accuracy, MARGIN, 1 - MARGIN)
    scores: Floats = np.log(bounded / (1 - bounded))
    return scores


@dataclass(frozen=True, slots=True)
class Link:
    """accuracy = 1 / (1 + exp(-(slope * score + intercept))), slope > 0."""

    slope: float
    intercept: float

    def __call__(self, scores: Floats) -> Floats:
        """(N,) accuracies in [0, 1]."""
        exponent = np.clip(self.slope * scores + self.intercept, -700, 700)
        accuracy: Floats = 1 / (1 + np.exp(-exponent))
        return accuracy

    def score_of(self, accuracy: float) -> float:
        """The score of an accuracy in (0, 1)."""
        return (math.log(accuracy / (1 - accuracy)) - self.intercept) / self.slope

    def derivative(self, scores: Floats) -> Floats:
        """(N,) accuracy gained per unit of score."""
        accuracy = self(scores)
        return self.slope * accuracy * (1 - accuracy)

    @classmethod
    def fit(cls, scores: Floats, accuracy: Floats) -> Self:
        """Logistic regression of accuracies, as fractions, on scores; increasing even if the data are not."""
        from scipy.optimize import minimize

        centre, spread = float(scores.mean()), float(scores.std()) or 1.0
        x, y = (scores - centre) / spread, np.clip(accuracy, MARGIN, 1 - MARGIN)

        def loss(parameters: Floats) -> tuple[float, Floats]:
            exponent = math.exp(parameters[0]) * x + parameters[1]
            error = 1 / (1 + np.exp(-exponent)) - y
            gradient = np.array([(error * x).mean() * math.exp(parameters[0]), error.mean()])
            return float((np.logaddexp(0, exponent) - y * exponent).mean()), gradient

        start = np.array([-2.0, math.log(y.mean() / (1 - y.mean()))])
        log_slope, intercept = minimize(loss, start, jac=True, bounds=[(-10, 5), (-50, 50)]).x.tolist()
        slope = math.exp(log_slope) / spread
        return cls(slope, intercept - slope * centre)
