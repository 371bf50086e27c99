"""The networks that a handful of measurements should be of."""

import numpy as np
import pytest

from evolution.predictors.latency_design import NOISE, PRIOR, choose_networks
from evolution.predictors.latency_features import PartFeatures
from supernet.costs.tables import PartTables
from supernet.families import preset
from supernet.space import Genomes

SPACE = preset("mbv3-digits")
FEATURES = PartFeatures(PartTables(SPACE))


def information(genomes: Genomes) -> float:
    """The logarithm of the determinant of what these networks' relative latencies tell of the features' weights."""
    expected = FEATURES.totals(FEATURES.size, genomes)[:, None]
    columns = [deviation * FEATURES.totals(FEATURES.groups[name], genomes) for name, deviation in PRIOR.items()]
    relative = np.concatenate(columns, 1) / expected / NOISE
    return float(np.linalg.slogdet(np.eye(len(genomes)) + relative @ relative.T)[1])


@pytest.mark.parametrize("count", [1, 10, 40])
def test_chosen_networks_tell_more_than_random_ones(count: int) -> None:
    chosen = choose_networks(SPACE, count, seed=0)
    assert len(np.unique(chosen, axis=0)) == count
    assert (chosen == SPACE.canonical(chosen)).all()
    random = [information(SPACE.sample(np.random.default_rng(seed), count)) for seed in range(20)]
    assert information(chosen) > max(random)


def test_of_a_small_pool_the_best_pair_is_chosen() -> None:
    pool = np.unique(SPACE.sample(np.random.default_rng(1), 12), axis=0)
    pairs = [(information(pool[[i, j]]), {i, j}) for i in range(len(pool)) for j in range(i)]
    chosen = choose_networks(SPACE, 2, seed=0, pool=pool)
    assert information(chosen) == pytest.approx(max(pairs)[0])


def test_the_same_seed_chooses_the_same_and_another_seed_others() -> None:
    first, again, other = (choose_networks(SPACE, 8, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_measured_networks_are_not_chosen_again_and_count_as_told() -> None:
    known = choose_networks(SPACE, 10, seed=0)
    more = choose_networks(SPACE, 10, seed=0, known=known)
    both = np.concatenate([known, more])
    assert len(np.unique(both, axis=0)) == 20
    blind = choose_networks(SPACE, 10, seed=5)
    assert information(both) > information(np.concatenate([known, blind]))


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_the_pool_lacks_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} networks asked for; 1 to 3 can be chosen"):
        choose_networks(SPACE, count, 0, pool=np.unique(SPACE.sample(np.random.default_rng(0), 3), axis=0))
