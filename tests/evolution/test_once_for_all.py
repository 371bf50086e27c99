"""Once-for-All's predictor against its definition."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layer
from evolution.predictors.once_for_all import from_once_for_all
from supernet.families import preset
from supernet.space import Architecture


def once_for_all_layers(seed: int = 0) -> list[Layer]:
    rng = np.random.default_rng(seed)
    sizes = list(pairwise((128, 400, 400, 400, 1)))
    layers = [(rng.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32), np.zeros(o, np.float32)) for i, o in sizes]
    layers[-1][1][:] = 0.7
    layers[-1][0][:] *= 0.05
    return layers


def once_for_all_features(arch: Architecture) -> list[int]:
    """As documented: 20 x 3 kernel sizes, 20 x 3 expansion ratios, zeros for dropped blocks, 8 resolutions."""
    slots = [stage[b] if b < len(stage) else (0, 0) for stage in arch.stages for b in range(4)]
    kernels = [int(kernel == choice) for kernel, _ in slots for choice in (3, 5, 7)]
    ratios = [int(ratio == choice) for _, ratio in slots for choice in (3, 4, 6)]
    return kernels + ratios + [int(arch.resolution == side) for side in range(112, 225, 16)]


def test_once_for_alls_predictor_predicts_what_its_features_say(tmp_path: Path) -> None:
    space, layers = preset("mbv3-imagenet-w1.2"), once_for_all_layers()
    genomes = space.sample(np.random.default_rng(1), 200)
    x = np.array([once_for_all_features(space.decode(genome)) for genome in genomes], np.float64)
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    expected = (x @ layers[-1][0] + layers[-1][1])[:, 0]
    assert 0 < expected.min() < expected.max() < 1
    made = from_once_for_all(space, layers, {"kind": "published"})
    (tmp_path / "predictor.npz").write_bytes(made.to_bytes())
    loaded = AccuracyPredictor.load(tmp_path / "predictor.npz", space)
    assert loaded.predict(genomes) == pytest.approx(expected, abs=1e-5)
    assert (loaded.predict(genomes) == loaded.score(genomes)).all()
    assert loaded.card == {"kind": "published"}


def test_a_predictor_without_a_link_still_predicts_fractions() -> None:
    wild = [(weight * 10, bias) for weight, bias in once_for_all_layers()]
    space = preset("mbv3-imagenet-w1.0")
    predictor = from_once_for_all(space, wild, {})
    genomes = space.sample(np.random.default_rng(2), 100)
    assert np.ptp(predictor.score(genomes)) > 1
    assert (predictor.predict(genomes) == np.clip(predictor.score(genomes), 0, 1)).all()


def test_once_for_alls_predictor_needs_its_layers_and_its_space() -> None:
    layers = once_for_all_layers()
    with pytest.raises(ValueError, match="has layers 128-400-400-400-1; these are"):
        from_once_for_all(preset("mbv3-imagenet-w1.2"), layers[1:], {})
    with pytest.raises(ValueError, match="is of its MobileNetV3 space, which mbv3-cifar is not"):
        from_once_for_all(preset("mbv3-cifar"), layers, {})
