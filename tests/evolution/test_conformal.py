"""Split-conformal bounds beside MAPIE's, and their coverage."""

from typing import Self

import numpy as np
import pytest
from mapie.conformity_scores import GammaConformityScore
from mapie.regression import SplitConformalRegressor
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin

from evolution.predictors.conformal import conformal_bound


class Given(RegressorMixin, BaseEstimator):
    """A fitted model whose predictions are its input."""

    def fit(self, features: NDArray[np.float64], target: NDArray[np.float64]) -> Self:
        self.fitted_ = True
        return self

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return features[:, 0]


@pytest.mark.parametrize("count", [24, 41, 60])
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_a_bound_is_mapies(count: int, confidence: float) -> None:
    """MAPIE's asymmetric interval of level 1 - 2 alpha has a one-sided upper bound of level 1 - alpha."""
    rng = np.random.default_rng(count)
    predicted = rng.uniform(1, 5, count)
    measured = predicted * rng.lognormal(0, 0.1, count)
    regressor = SplitConformalRegressor(
        Given().fit(predicted, measured),
        confidence_level=2 * confidence - 1,
        conformity_score=GammaConformityScore(sym=False),
        prefit=True,
    ).conformalize(predicted[:, None], measured)
    (bound,) = regressor.predict_interval(np.array([[3.0]]))[1][:, 1, 0]
    assert 3 * conformal_bound(measured / predicted, confidence) == pytest.approx(bound)


def test_it_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0, 0.2, (4_000, 25))
    covered = np.mean([row[0] <= conformal_bound(row[1:], 0.9) for row in scores])
    assert 0.9 - 0.015 < covered < 0.9 + 1 / 25 + 0.015


@pytest.mark.parametrize("confidence", [0.0, 1.0, 0.96, float("nan")])
def test_a_confidence_that_needs_more_networks_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"confidence is {confidence}; 20 measured networks support at most 0\.952"):
        conformal_bound(np.ones(20), confidence)
    assert conformal_bound(np.ones(20), 20 / 21) == 1
