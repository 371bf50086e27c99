"""Ridge regression and the MLP."""

from typing import Any

import numpy as np
import pytest
import torch

from evolution.arrays import Floats
from evolution.predictors import layers as module
from evolution.predictors.features import one_hot
from evolution.predictors.layers import PENALTIES, fit_mlp, fit_ridge
from supernet.space import Genomes
from tests.support.pairs import SPACE


def test_the_penalty_has_the_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(2)
    x = one_hot(SPACE, SPACE.sample(rng, 40)).astype(np.float64)
    y = x @ rng.normal(0, 1, x.shape[1]) + rng.normal(0, 1, 40)

    def solve(rows: Any, penalty: float) -> tuple[Floats, float]:
        centre, mean = x[rows].mean(0), y[rows].mean()
        gram = (x[rows] - centre).T @ (x[rows] - centre) + penalty * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, (x[rows] - centre).T @ (y[rows] - mean))
        return weight, float(mean - centre @ weight)

    def left_out(penalty: float) -> float:
        errors = []
        for i in range(40):
            weight, bias = solve(np.delete(np.arange(40), i), penalty)
            errors.append((x[i] @ weight + bias - y[i]) ** 2)
        return float(np.mean(errors))

    best = min(PENALTIES, key=left_out)
    weight, bias = solve(np.arange(40), best)
    ((fitted_weight, fitted_bias),) = fit_ridge(x.astype(np.float32), y).layers
    assert fitted_weight[:, 0] == pytest.approx(weight, abs=1e-4)
    assert fitted_bias[0] == pytest.approx(bias, abs=1e-4)


@pytest.mark.slow
def test_an_mlp_learns_what_genes_do_together() -> None:
    rng = np.random.default_rng(5)
    genomes, fresh = SPACE.sample(rng, 500), SPACE.sample(rng, 1000)

    def together(genomes: Genomes) -> Floats:
        first, kernel, resolution = SPACE.gene_of_block(0, 0), genomes[:, SPACE.gene_of_block(1, 0)], genomes[:, 0]
        signs = np.where(kernel == 0, 1, -1) * np.where(resolution == 0, 1, -1)
        return 0.2 * signs + 0.02 * genomes[:, first] - 0.5

    truth, features = together(genomes), one_hot(SPACE, genomes)

    def error(score: Floats) -> float:
        return float(np.mean((score - together(fresh)) ** 2) / together(fresh).var())

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HIDDEN", (32, 32, 32)), ("MLP_STEPS", 400)):
            patch.setattr(module, name, value)
        mlp, again = (fit_mlp(features, truth, np.random.default_rng(0)) for _ in range(2))
    unseen = one_hot(SPACE, fresh)
    assert error(fit_ridge(features, truth).score(unseen)) > 0.5
    assert error(mlp.score(unseen)) < 0.1
    assert len(mlp.layers) == 4
    assert (mlp.score(unseen) == again.score(unseen)).all()
