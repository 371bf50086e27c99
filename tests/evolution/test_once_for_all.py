"""Once-for-All's predictors against their definitions."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.layers import Layer
from evolution.predictors.once_for_all import from_once_for_all
from supernet.families import preset
from supernet.ofa import read_predictor
from supernet.space import Architecture
from tests.support.published import resnet_predictor_state


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
    assert loaded.predict_std(genomes) is None  # it was published without an error


@pytest.mark.parametrize(("resolution", "below", "above"), [(128, 128, 128), (140, 128, 144), (196, 192, 208)])
def test_between_its_resolutions_the_predictor_shares_a_feature_between_neighbours(
    resolution: int, below: int, above: int
) -> None:
    space, layers = preset("mbv3-imagenet-w1.2-r25"), once_for_all_layers()
    predictor = from_once_for_all(space, layers, {"kind": "published"})
    archs = [space.decode(genome).at(resolution) for genome in space.sample(np.random.default_rng(1), 50)]
    share = (resolution - below) / (above - below) if above > below else 0.0
    x = sum(
        weight * np.array([once_for_all_features(arch.at(side)) for arch in archs], np.float64)
        for weight, side in ((1 - share, below), (share, above))
    )
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    expected = (x @ layers[-1][0] + layers[-1][1])[:, 0]
    assert predictor.predict(np.stack([space.encode(arch) for arch in archs])) == pytest.approx(expected, abs=1e-5)
    between = [side for side in range(128, 225, 4) if side % 16]
    assert predictor.card == {"kind": "published", "interpolated_resolutions": between}


def resnet_features(arch: Architecture) -> list[int]:
    """As `ResNetArchEncoder` of Once-for-All's code orders them; see `in_once_for_alls_words`."""
    words = in_once_for_alls_words(arch)
    features = [int(words["image_size"] == side) for side in (128, 144, 160, 176, 192, 224, 240, 256)]
    features += [int((words["d"][0] > 0) == has_residual) for has_residual in (False, True)]
    features += [int(width == choice) for width in words["w"] for choice in range(3)]
    for stage, (base, depth) in enumerate(zip((2, 2, 4, 2), words["d"][1:], strict=True)):
        start = sum((4, 4, 6, 4)[:stage])
        for block in range(base + 2):
            kept = block < base + depth
            features += [int(kept and words["e"][start + block] == ratio) for ratio in (0.2, 0.25, 0.35)]
    return features


def in_once_for_alls_words(arch: Architecture) -> dict[str, Any]:
    """An architecture as Once-for-All's code writes it: depths above the least, indices of widths, all ratios."""
    extra, base = dict(arch.extra), (2, 2, 4, 2)
    ratios = [[ratio for (ratio,) in stage] for stage in arch.stages]
    widths = [extra[name] for name in ("stem.mid.width", "stem.width", *(f"stage{s}.width" for s in (1, 2, 3, 4)))]
    return {
        "image_size": arch.resolution,
        "d": [
            2 * int(extra["stem.residual"]),
            *(len(stage) - least for stage, least in zip(ratios, base, strict=True)),
        ],
        "w": [(0.65, 0.8, 1.0).index(width) for width in widths],
        "e": [
            ratio
            for stage, least in zip(ratios, base, strict=True)
            for ratio in stage + [0.2] * (least + 2 - len(stage))
        ],
    }


@pytest.fixture(scope="module")
def resnets() -> list[Architecture]:
    """At the resolutions that the predictor was trained on."""
    space = preset("resnet50d-imagenet")
    archs = map(space.decode, space.sample(np.random.default_rng(4), 200))
    return [arch for arch in archs if arch.resolution != 208]


def test_the_predictor_of_its_resnet_predicts_what_its_features_say(
    tmp_path: Path, resnets: list[Architecture]
) -> None:
    state, space = resnet_predictor_state(), preset("resnet50d-imagenet")
    torch.save({"state_dict": state}, tmp_path / "predictor.pth")
    predictor = from_once_for_all(space, read_predictor(tmp_path / "predictor.pth"), {})
    genomes = np.stack([space.encode(arch) for arch in resnets])
    x = torch.tensor([resnet_features(arch) for arch in resnets], dtype=torch.float64)
    for layer in ("layers.0.0", "layers.1.0", "layers.2.0"):
        x = torch.relu(x @ state[f"{layer}.weight"].T.double() + state[f"{layer}.bias"])
    expected = (x @ state["layers.3.weight"].T.double())[:, 0] + state["base_acc"]
    assert predictor.predict(genomes) == pytest.approx(expected.numpy(), abs=1e-6)
    assert float(expected.std()) > 0.005
    assert predictor.card["interpolated_resolutions"] == [208]


def test_the_features_of_its_resnet_are_those_of_its_own_code(resnets: list[Architecture]) -> None:
    encoder = pytest.importorskip("ofa.nas.accuracy_predictor.arch_encoder").ResNetArchEncoder(
        image_size_list=[128, 144, 160, 176, 192, 224, 240, 256]
    )
    for arch in resnets:
        assert encoder.arch2feature(in_once_for_alls_words(arch)).tolist() == resnet_features(arch)


def test_a_predictor_without_a_link_still_predicts_fractions() -> None:
    wild = [(weight * 10, bias) for weight, bias in once_for_all_layers()]
    space = preset("mbv3-imagenet-w1.0")
    predictor = from_once_for_all(space, wild, {})
    genomes = space.sample(np.random.default_rng(2), 100)
    assert np.ptp(predictor.score(genomes)) > 1
    assert (predictor.predict(genomes) == np.clip(predictor.score(genomes), 0, 1)).all()


def test_once_for_alls_predictor_needs_its_layers_and_its_space() -> None:
    layers = once_for_all_layers()
    with pytest.raises(
        ValueError, match="has layers 128-400-400-400-1, or for its ResNet-50 82-400-400-400-1; these are"
    ):
        from_once_for_all(preset("mbv3-imagenet-w1.2"), layers[1:], {})
    with pytest.raises(ValueError, match="is of its MobileNetV3 space, which mbv3-cifar is not"):
        from_once_for_all(preset("mbv3-cifar"), layers, {})
    with pytest.raises(ValueError, match=r"is of its ResNet-50, which mbv3-imagenet-w1\.0 is not"):
        from_once_for_all(
            preset("mbv3-imagenet-w1.0"), [(np.zeros((82, 400), np.float32), layers[0][1]), *layers[1:]], {}
        )
    wide = replace(preset("mbv3-imagenet-w1.0"), resolutions=(96, 224))
    with pytest.raises(
        ValueError, match=r"trained on resolutions from 112 to 224, and mbv3-imagenet-w1.0 has 96 to 224"
    ):
        from_once_for_all(wide, layers, {})
