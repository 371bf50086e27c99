"""Dropout and stochastic depth act in training alone, in every family, and follow from a seed."""

from dataclasses import replace

import pytest
import torch

from supernet.families import preset, supernet_class
from supernet.networks.noise import Classifier, residual_branch, training_noise
from supernet.networks.supernet import Supernet
from supernet.space import Architecture
from supernet.training import loop
from supernet.training.loop import TrainingState, subnet_losses
from supernet.training.schedule import Phase, Schedule

CPU = torch.device("cpu")


def shallow(arch: Architecture) -> Architecture:
    """The same first blocks, one in each stage."""
    return replace(arch, stages=tuple(stage[:1] for stage in arch.stages))


@pytest.mark.parametrize("name", ["mbv3-digits", "resnet-cifar"])
@torch.no_grad()
def test_a_network_whose_residual_branches_are_all_skipped_is_a_shallow_one(name: str) -> None:
    space = preset(name)
    supernet: Supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(0))
    supernet.eval()
    deep = space.largest().at(space.resolutions[0])
    images = torch.randn(3, space.in_channels, deep.resolution, deep.resolution)
    outside = supernet(images, deep)
    with training_noise(0.0, 1.0, 0, CPU):
        skipped, expected = supernet(images, deep), supernet(images, shallow(deep))
    assert torch.allclose(skipped, expected, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(skipped, outside, atol=1e-3 * float(outside.abs().max()))
    assert torch.equal(supernet(images, deep), outside)


@torch.no_grad()
def test_features_and_branches_are_dropped_by_the_seed_and_the_mean_stays() -> None:
    classifier = Classifier(4000, 1, bias=False)
    torch.nn.init.ones_(classifier.weight)
    before = torch.get_rng_state()
    with training_noise(0.25, 0.25, 7, CPU):
        first, branch = float(classifier(torch.ones(1, 4000))), residual_branch(torch.ones(4000, 1, 1, 1))
    with training_noise(0.25, 0.25, 7, CPU):
        assert float(classifier(torch.ones(1, 4000))) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert first != 4000
    assert first == pytest.approx(4000, rel=0.1)
    assert branch.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(branch.mean()) == pytest.approx(1, rel=0.1)
    assert float(classifier(torch.ones(1, 4000))) == 4000


@pytest.mark.parametrize(("sampler", "noisy"), [("uniform", 2), ("sandwich", 1)])
def test_under_the_sandwich_rule_the_largest_subnet_alone_gets_noise(
    sampler: str, noisy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def recorded(dropout: float, depth: float, seed: int, device: torch.device) -> object:
        seeds.append(seed)
        return training_noise(dropout, depth, seed, device)

    monkeypatch.setattr(loop, "training_noise", recorded)
    space = preset("mbv3-digits")
    phase = Phase("all", 1, 0.1, sampler=sampler, subnets_per_step=2)  # type: ignore[arg-type]
    state = TrainingState.fresh(space, Schedule((phase,), 8, dropout=0.5))
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    archs = (space.largest().at(8), space.smallest())
    for part in (0, 1):
        assert len(list(subnet_losses(state, phase, archs, images, labels, part))) == 2
    assert len(set(seeds)) == len(seeds) == 2 * noisy
