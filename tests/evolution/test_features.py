"""Features of genomes: one-hot, and coded so that distances count steps."""

import numpy as np
import pytest

from evolution.predictors.features import cumulative, one_hot
from tests.support.pairs import SPACE


def test_features_are_one_hot_and_zero_for_dropped_blocks() -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 100)
    features = one_hot(SPACE, genomes)
    assert features.sum(1).tolist() == SPACE.alive(genomes).sum(1).tolist()
    starts = np.cumsum(SPACE.num_choices) - SPACE.num_choices
    for genome, row in zip(genomes[:10], features[:10], strict=True):
        for gene, alive in enumerate(SPACE.alive(genome)):
            expected = np.zeros(SPACE.num_choices[gene])
            expected[genome[gene]] = alive
            assert row[starts[gene] :][: len(expected)].tolist() == expected.tolist()


def test_the_squared_distance_of_codes_counts_the_steps_between_choices() -> None:
    genomes = SPACE.sample(np.random.default_rng(1), 60)
    steps = np.where(SPACE.alive(genomes), genomes.astype(int) + 1, 0)
    codes = one_hot(SPACE, genomes) @ cumulative(SPACE)
    assert set(np.unique(codes)) == {0, 1}
    expected = np.abs(steps[:, None] - steps).sum(-1)
    assert ((codes[:, None] - codes) ** 2).sum(-1) == pytest.approx(expected)
