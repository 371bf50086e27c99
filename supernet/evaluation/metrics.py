"""What a network scores on images, and the metrics that a search can rank subnets by. Loads no torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Metric = Literal["accuracy", "top5", "f1_macro", "log_likelihood"]
METRICS: tuple[Metric, ...] = get_args(Metric)
TOP = 5  # the most probable classes, among which `top5` looks for the true class


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A network's scores on images; higher is better.

    accuracy: top-1, in [0, 1]. log_likelihood: mean of the true class, nats. images: their number.
    top5: how often the true class is among the five most probable; always 1 with five classes or fewer.
    f1_macro: the mean over classes of F1, as `macro_f1` computes it.
    top5 and f1_macro are None where an earlier release stored the scores.
    """

    accuracy: float
    log_likelihood: float
    images: int
    top5: float | None = None
    f1_macro: float | None = None

    def value(self, metric: Metric) -> float | None:
        """The score by this metric, None where it is not known."""
        value: float | None = getattr(self, metric)
        return value


def to_fraction(metric: Metric, value: float) -> float:
    """A score as a fraction in [0, 1] that ranks subnets as the score does. Searches work on fractions.

    A mean log-likelihood becomes the geometric mean of the true class's probability; the other metrics are fractions.
    """
    return math.exp(value) if metric == "log_likelihood" else value


def from_fraction(metric: Metric, fraction: float) -> float:
    """The score that `to_fraction` made a fraction of; minus infinity for a geometric mean that was rounded to 0."""
    if metric != "log_likelihood":
        return fraction
    return math.log(fraction) if fraction > 0 else -math.inf


def macro_f1(hits: NDArray[np.int64], guesses: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The mean of F1 over the classes that are among the labels or the guesses, as scikit-learn's `f1_score` has it.

    hits, guesses, labels: (C,) by class, how many images were rightly given it, were given it, and have it.
    """
    occurs = guesses + labels > 0
    return float((2 * hits[occurs] / (guesses + labels)[occurs]).mean())
