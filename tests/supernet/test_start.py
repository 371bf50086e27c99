"""Training that starts from a trained supernet takes all weights that fit its classes and channels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet.conversion.convert import convert
from supernet.data import Dataset, load
from supernet.families import preset, supernet_class
from supernet.networks.supernet import Supernet
from supernet.space import SearchSpace
from supernet.training.checkpoints import load_checkpoint, save_checkpoint
from supernet.training.loop import TrainingError, TrainingState, start_phase, train
from supernet.training.schedule import Phase, Schedule
from supernet.training.start import start_from
from tests.support.networks import SIZE, squeezed_resnext, with_random_statistics

SPACE = preset("mbv3-digits")
ELASTIC = Schedule((Phase("all", 1, 0.01, distillation=1.0, sort_channels=True), Phase("more", 1, 0.01)), 32)
SMALL = {"depth": (1,), "expand_ratio": (2,)}


def trained(space: SearchSpace = SPACE, seed: int = 7) -> Supernet:
    """A supernet whose statistics fit its weights, so that logits are far from zero."""
    supernet: Supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(seed))
    for layer in supernet.modules():
        if hasattr(layer, "momentum"):
            layer.momentum = 1.0
    images = torch.randn(16, space.in_channels, space.resolutions[-1], space.resolutions[-1])
    with torch.no_grad():
        supernet.train()(images, space.largest())
    supernet.eval()
    return supernet


def converted() -> Supernet:
    network = with_random_statistics(squeezed_resnext()).eval()
    return convert(network, SIZE, "converted").supernet


def equal(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(torch.allclose(actual, expected, atol=1e-4 * float(expected.detach().abs().max())))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    full = load("digits", 16, seed=0, holdout=300, root=tmp_path_factory.mktemp("data"))
    return replace(full, train=full.train[:64])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mbv3-digits", "spos-cifar-channels", "fairnas-cifar", "resnet-cifar", "converted"])
@pytest.mark.parametrize(
    ("same_classes", "channels"),
    [(True, 3), (False, 3), (True, 2), (False, 2)],
)
def test_the_classifier_and_the_stem_are_new_where_they_differ(name: str, same_classes: bool, channels: int) -> None:
    source = converted() if name == "converted" else trained(preset(name, in_channels=3))
    space = replace(source.space, classes=source.space.classes + (not same_classes), in_channels=channels)
    state = TrainingState.fresh(space, ELASTIC)
    random = {key: value.clone() for key, value in state.supernet.state_dict().items()}
    tensors = start_from(state, source, same_classes=same_classes, identity="abc")
    after, before = state.supernet.state_dict(), source.state_dict()
    assert set(tensors["taken"]) | set(tensors["new"]) == set(after)
    differing = [key for key in after if after[key].shape != before[key].shape]
    assert sorted(tensors["new"]) == sorted(differing)
    assert len([key for key in differing if after[key].ndim == 4]) == (channels == 2)  # the stem
    assert len([key for key in differing if after[key].ndim == 2]) == (not same_classes)  # the classifier
    assert all(torch.equal(after[key], before[key]) for key in tensors["taken"])
    assert all(torch.equal(after[key], random[key]) for key in tensors["new"])
    if same_classes and channels == 3:
        images = torch.randn(4, 3, space.resolutions[0], space.resolutions[0])
        arch = space.smallest().at(space.resolutions[0])
        assert equal(state.supernet.eval()(images, arch), source(images, arch))


def test_other_classes_of_the_same_number_get_a_new_classifier() -> None:
    state = TrainingState.fresh(SPACE, ELASTIC)
    tensors = start_from(state, trained(), same_classes=False, identity="abc")
    assert len(tensors["new"]) == 2
    assert state.teacher is None


def test_weights_of_another_space_are_refused() -> None:
    with pytest.raises(ValueError, match="the weights are of the space mbv3-cifar, not of mbv3-digits"):
        start_from(
            TrainingState.fresh(SPACE, ELASTIC), trained(preset("mbv3-cifar")), same_classes=True, identity="abc"
        )


def test_phases_may_be_elastic_at_once_and_learn_from_the_largest_trained_network(dataset: Dataset) -> None:
    source = trained()
    state = TrainingState.fresh(SPACE, ELASTIC)
    start_from(state, source, same_classes=True, identity="abc")
    assert state.teacher is not None
    images = dataset.normalization(dataset.train[:8].pixels, 16)
    expected = source(images, SPACE.largest())
    arch = SPACE.decode(SPACE.sample(np.random.default_rng(0), 1)[0]).at(16)
    small = source(images, arch)
    assert equal(state.teacher.eval()(images), expected)
    start_phase(state, ELASTIC.phases[0])  # which sorts channels: within what every trained width has
    assert equal(state.supernet.eval()(images, arch), small)
    teacher = {name: value.clone() for name, value in state.teacher.named_parameters()}
    assert len(list(train(state, dataset))) == 4
    assert all(torch.equal(value, teacher[name]) for name, value in state.teacher.named_parameters())


def test_without_a_trained_teacher_the_first_phase_cannot_distil(dataset: Dataset) -> None:
    for identity in (None, "abc"):
        state = TrainingState.fresh(SPACE, ELASTIC)
        if identity is not None:
            start_from(state, trained(), same_classes=False, identity=identity)
        with pytest.raises(ValueError, match=r"phase all cannot distil.*start from a bundle for the same classes"):
            next(train(state, dataset))
    later = Schedule((Phase("some", 1, 0.01, SMALL), Phase("all", 1, 0.01, distillation=1.0)), 32)
    with pytest.raises(ValueError, match="would have untrained weights"):
        next(train(TrainingState.fresh(SPACE, later), dataset))
    state = TrainingState.fresh(SPACE, later)
    start_from(state, trained(), same_classes=False, identity="abc")
    assert next(train(state, dataset)).phase == "some"


def test_a_checkpoint_of_a_run_that_started_from_other_weights_is_refused(tmp_path: Path) -> None:
    states = []
    for identity in ("abc", "abc", "def", ""):
        states.append(TrainingState.fresh(SPACE, ELASTIC))
        if identity:
            start_from(states[-1], trained(), same_classes=True, identity=identity)
    save_checkpoint(states[0], tmp_path)
    assert load_checkpoint(states[1], tmp_path)
    assert states[1].teacher is not None
    for state in states[2:]:
        with pytest.raises(TrainingError, match="belongs to a run that started from other weights"):
            load_checkpoint(state, tmp_path)
