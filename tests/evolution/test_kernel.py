"""The Gaussian process against its equations and a function that no sum of genes is."""

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.predictors import kernel as module
from evolution.predictors.features import Features, cumulative, one_hot
from evolution.predictors.kernel import Kernel, fit_kernel
from evolution.predictors.layers import fit_ridge
from tests.support.pairs import SPACE, middling

RNG = np.random.default_rng(0)
GENOMES, FRESH = SPACE.sample(RNG, 150), SPACE.sample(RNG, 700)
FEATURES, UNSEEN = one_hot(SPACE, GENOMES), one_hot(SPACE, FRESH)


TARGET = middling(GENOMES) + RNG.normal(0, 0.01, len(GENOMES))


def fit(features: Features = FEATURES, target: Floats = TARGET) -> Kernel:
    return fit_kernel(features, target, cumulative(SPACE), np.random.default_rng(1))


def test_mean_and_deviation_are_those_of_the_process() -> None:
    fitted = fit()
    coding = cumulative(SPACE).astype(np.float64)
    seen, x = FEATURES @ coding, UNSEEN @ coding

    def kernel(a: Floats, b: Floats) -> Floats:
        distances = ((a[:, None] - b) ** 2).sum(-1)
        rbf = np.exp(-distances / (2 * fitted.length_scale**2))
        return np.asarray(fitted.linear_variance * a @ b.T + fitted.rbf_variance * rbf)

    inverse = np.linalg.inv(kernel(seen, seen) + fitted.noise_variance * np.eye(len(seen)))
    across = kernel(x, seen)
    mean = TARGET.mean() + across @ inverse @ (TARGET - TARGET.mean())
    variance = np.diag(kernel(x, x)) - ((across @ inverse) * across).sum(1)
    assert fitted.score(UNSEEN) == pytest.approx(mean, abs=1e-4 * TARGET.std())
    assert fitted.score_std(UNSEEN) == pytest.approx(np.sqrt(variance), rel=1e-3)
    assert fitted.additive is None


def test_it_learns_what_genes_do_together_and_is_surer_where_it_has_seen_more() -> None:
    fitted, truth = fit(), middling(FRESH)

    def error(score: Floats) -> float:
        return float(np.mean((score - truth) ** 2) / truth.var())

    assert error(fit_ridge(FEATURES, TARGET).score(UNSEEN)) > 0.8
    assert error(fitted.score(UNSEEN)) < 0.2
    assert fitted.score_std(FEATURES).mean() < 0.7 * fitted.score_std(UNSEEN).mean()


def test_the_same_generator_gives_the_same_fit_on_a_part_of_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIKELIHOOD_PAIRS", 60)
    monkeypatch.setattr(module, "MAX_PAIRS", 100)
    fitted = fit()
    assert fitted.support.shape == (100, FEATURES.shape[1])
    assert (fitted.score(UNSEEN) == fit().score(UNSEEN)).all()


@pytest.mark.parametrize("target", [np.zeros(12), np.arange(12.0)])
def test_few_pairs_and_equal_targets_suffice(target: Floats) -> None:
    fitted = fit(FEATURES[:12], target)
    assert np.isfinite(fitted.score(UNSEEN)).all()
    assert np.isfinite(fitted.score_std(UNSEEN)).all()


def test_the_rows_of_a_score_do_not_depend_on_their_number() -> None:
    fitted = fit()
    assert fitted.score(UNSEEN[:3]) == pytest.approx(fitted.score(UNSEEN)[:3], abs=1e-5)
    assert fitted.score(UNSEEN[:0]).shape == (0,)
