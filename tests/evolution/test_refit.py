"""Pairs as files, and predictors that are fitted again with pairs near the front."""

from pathlib import Path

import numpy as np
import pytest

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.pairs import MeasuredPairs
from evolution.predictors.refit import refit
from supernet.families import preset
from supernet.space import Genomes

SPACE = preset("mbv3-digits")


def truth(genomes: Genomes) -> Floats:
    """Log-likelihoods that fall off where two genes are both at their largest, as near a front."""
    flops = CostTables(SPACE).flops(genomes)
    large = (genomes[:, -1] == genomes[:, -1].max()) * (genomes[:, -2] == genomes[:, -2].max())
    return np.asarray(np.log(flops / flops.max()) / 4 - 1 - 0.1 * large)


def measured(count: int, seed: int, noise: float = 0.0) -> MeasuredPairs:
    rng = np.random.default_rng(seed)
    genomes = np.unique(SPACE.sample(rng, count), axis=0)
    scores = truth(genomes) - noise * rng.random(len(genomes))
    return MeasuredPairs(SPACE, genomes, np.exp(np.minimum(scores, 0.0)), scores)


def test_pairs_survive_their_file(tmp_path: Path) -> None:
    pairs = measured(30, 0)
    (tmp_path / "pairs.npz").write_bytes(pairs.to_bytes())
    loaded = MeasuredPairs.load(tmp_path / "pairs.npz", SPACE)
    for name in ("genomes", "accuracy", "log_likelihood"):
        assert getattr(loaded, name).tolist() == getattr(pairs, name).tolist()
    with pytest.raises(ValueError, match="has pairs of the space"):
        MeasuredPairs.load(tmp_path / "pairs.npz", preset("mbv3-cifar"))
    (tmp_path / "pairs.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match="is not a file of measured pairs"):
        MeasuredPairs.load(tmp_path / "pairs.npz", SPACE)


def test_pairs_without_others() -> None:
    pairs = measured(30, 0)
    assert (pairs[:10] + pairs[10:]).genomes.tolist() == pairs.genomes.tolist()
    assert pairs.without(pairs[:10]).genomes.tolist() == pairs.genomes[10:].tolist()
    assert len(pairs.without(pairs)) == 0


@pytest.mark.parametrize(("noise", "kept"), [(0.0, True), (3.0, False)])
def test_the_new_predictor_is_kept_where_it_is_no_worse_near_the_front(noise: float, kept: bool) -> None:
    """Twelve pairs are too few for this space, so more of them help, unless their scores are far too low."""
    old, new = measured(12, 0), measured(40, 1, noise)
    new = new.without(old)
    card = AccuracyPredictor.fit(
        SPACE, old.genomes, old.accuracy, old.log_likelihood, np.random.default_rng(0), "ridge"
    ).card
    result = refit(old, new, card, seed=0)
    assert result.is_kept == kept
    assert (result.new_errors["rmse"] <= result.old_errors["rmse"]) == kept
    assert result.old_errors["pairs"] == result.new_errors["pairs"] > 0
    assert result.predictor.card["kind"] == "ridge"  # a kind that was named stays
    assert result.predictor.card["pairs"] == len(old) + len(new)
    assert result.to_json()["new_pairs"] == len(new)
    again = refit(old, new, card, seed=0)
    assert again.predictor.to_bytes() == result.predictor.to_bytes()
