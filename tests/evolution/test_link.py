"""The logistic link."""

import numpy as np
import pytest

from evolution.predictors.link import Link, logit


def test_the_link_increases_even_against_the_data() -> None:
    scores = np.linspace(-3, 3, 50)
    against = Link.fit(scores, 1 / (1 + np.exp(scores)))
    assert against.slope > 0
    along = Link.fit(scores, 1 / (1 + np.exp(-(2 * scores - 1))))
    assert (along.slope, along.intercept) == pytest.approx((2, -1), abs=1e-3)
    assert Link(1, 0)(np.array([-1e6, 0, 1e6])) == pytest.approx([0, 0.5, 1])


def test_its_derivative_is_the_accuracy_gained_per_unit_of_score() -> None:
    link, scores = Link(2.0, -0.5), np.linspace(-3, 3, 20)
    assert link.derivative(scores) == pytest.approx((link(scores + 1e-6) - link(scores - 1e-6)) / 2e-6, abs=1e-8)


def test_the_logit_is_finite_at_both_ends() -> None:
    assert Link(1, 0)(logit(np.array([0, 0.3, 1]))) == pytest.approx([1e-4, 0.3, 1 - 1e-4])
