"""`supple rank` on a schedule of seconds: what it trains, what it says, and that it goes on where it was cut short."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from service.bundles import rank as ranking
from service.bundles.config import config_json
from service.bundles.rank import rank_agreement, with_sampler
from supernet.bundle import Bundle
from supernet.data import load
from supernet.families import preset, presets
from supernet.space import Architecture, SearchSpace
from supernet.training.checkpoints import train_resumably
from supernet.training.loop import TrainingError, TrainingState, train
from supernet.training.standalone import StandAlone, random_network, stand_alone
from tests.support.command_line import Ran
from tests.support.trainable import CONFIG, write_trainable

pytestmark = pytest.mark.slow  # it trains, or starts processes


@pytest.mark.parametrize("name", sorted(name for name in presets() if "imagenet" not in name))
def test_a_network_alone_is_the_one_that_is_extracted(name: str) -> None:
    """The same tensors in the same order, so the same network; its weights are fresh."""
    from supernet.families import supernet_class

    space = preset(name)
    arch = space.decode(space.sample(np.random.default_rng(0), 1)[0])
    alone = StandAlone(space, arch, random_network(space, arch, 0))
    extracted = supernet_class(space.family)(space, torch.Generator().manual_seed(0)).extract(arch)
    ours, theirs = ([tuple(tensor.shape) for tensor in net.state_dict().values()] for net in (alone.network, extracted))
    assert ours == theirs
    images = torch.randn(2, space.in_channels, arch.resolution, arch.resolution)
    assert alone(images, arch).shape == (2, space.classes)
    for run in (lambda other: alone(images, other), alone.extract):
        with pytest.raises(ValueError, match="this network is"):
            run(space.largest())


def test_a_killed_training_alone_goes_on_to_equal_weights_and_no_other_subnet_takes_it_up(tmp_path: Path) -> None:
    space = preset("mbv3-digits")
    full = load("digits", 16, seed=0, holdout=300, root=tmp_path)
    dataset = replace(full, train=full.train[:192])

    def fresh(arch: Architecture) -> TrainingState:
        return stand_alone(space, arch, random_network(space, arch, 0), CONFIG.schedule, 2, 0, "cpu")

    straight = fresh(space.smallest())
    for _ in train(straight, dataset):
        pass
    cut_short = fresh(space.smallest())
    for done in train_resumably(cut_short, dataset, tmp_path, steps=2):
        if done.step == 3:  # what the third of six steps did is lost
            break
    resumed = fresh(space.smallest())
    assert [done.step for done in train_resumably(resumed, dataset, tmp_path, steps=2)] == [3, 4, 5, 6]
    expected, ended = straight.supernet.state_dict(), resumed.supernet.state_dict()
    assert all(torch.equal(value, ended[name]) for name, value in expected.items())
    finished = fresh(space.smallest())
    assert list(train_resumably(finished, dataset, tmp_path, steps=2)) == []
    assert all(torch.equal(value, expected[name]) for name, value in finished.supernet.state_dict().items())
    genome = space.encode(space.smallest())
    genome[space.gene_of_block(0, 0)] += 1
    other = space.decode(genome)
    with pytest.raises(TrainingError, match="another schedule or space"):
        list(train_resumably(fresh(other), dataset, tmp_path))


def test_training_that_started_from_a_bundle_is_ranked_from_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "LARGEST_HOLDOUT", 100)
    source = write_trainable(tmp_path / "source")
    config = replace(CONFIG, init=str(source.path), space="")
    started: list[tuple[TrainingState, Architecture]] = []

    def recorded(space: SearchSpace, arch: Architecture, *arguments: Any, **options: Any) -> TrainingState:
        if len(started) == 2:
            raise KeyboardInterrupt
        state = stand_alone(space, arch, *arguments, **options)
        started.append((copy.deepcopy(state), arch))
        return state

    monkeypatch.setattr(ranking, "stand_alone", recorded)
    with pytest.raises(KeyboardInterrupt):
        ranking.rank_config(config, tmp_path / "out", nets=3, epochs=1, seed=0, data_root=tmp_path)
    inherited = source.supernet()
    for state, arch in started:
        assert state.start == source.hash
        expected = inherited.extract(arch).state_dict().values()
        actual = state.supernet.extract(arch).state_dict().values()
        assert all(torch.equal(value, other) for value, other in zip(actual, expected, strict=True))
    other = replace(config, init=str(write_trainable(tmp_path / "other", name="other").path))
    with pytest.raises(TrainingError, match="started from other weights"):
        ranking.rank_config(other, tmp_path / "out", nets=3, epochs=1, seed=0, data_root=tmp_path)


def test_both_samplers_see_as_many_subnets_in_every_step() -> None:
    space = preset("mbv3-digits")
    fair, uniform = (with_sampler(CONFIG.schedule, space, name) for name in ("strict_fair", "uniform"))
    assert [phase.sampler for phase in fair.phases] == ["strict_fair"] * 2
    assert [phase.subnets_per_step for phase in uniform.phases] == [3, 3]


def test_overlapping_intervals_show_no_difference_and_distant_ones_do() -> None:
    rng = np.random.default_rng(0)
    alone = np.stack([np.linspace(0, 0.9, 30)] * 2)
    shuffled = rng.permutation(alone[0])
    found = rank_agreement(alone, {"uniform": shuffled, "strict_fair": alone[0] + 0.1}, rng)
    assert found["verdict"] == "strict_fair ranks better: the intervals do not overlap"
    assert found["ceiling"]["kendall_tau"] == found["samplers"]["strict_fair"]["spearman"] == pytest.approx(1)
    assert found["samplers"]["strict_fair"]["gap"] == pytest.approx(0.1)
    low, high = found["samplers"]["uniform"]["interval"]
    assert low < found["samplers"]["uniform"]["kendall_tau"] < high
    assert (
        rank_agreement(alone, {"uniform": shuffled, "strict_fair": shuffled}, rng)["verdict"] == "no difference shown"
    )


def test_the_command_ranks_and_goes_on_where_it_was_cut_short(
    bundle_path: Path, tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_path)
    config = config_json(CONFIG)
    monkeypatch.setattr(Bundle, "open", lambda path: replace(bundle, manifest={**bundle.manifest, "config": config}))
    monkeypatch.setattr(ranking, "LARGEST_HOLDOUT", 100)
    trained: list[Any] = []
    real = stand_alone

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments[1])
        if len(trained) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(ranking, "stand_alone", counted)
    with pytest.raises(KeyboardInterrupt):
        ranking.rank_bundle(Bundle.open(bundle_path), tmp_path, nets=3, epochs=1, seed=0, data_root=tmp_path)
    command = ("rank", str(bundle_path), "-o", str(tmp_path), "--nets", "3")
    ran = run(*command)
    assert ran.code == 0, ran.stderr
    assert len(trained) == 4 + 3
    assert "alone again" in ran.stdout
    report = json.loads((tmp_path / "ranking.json").read_text())
    assert len(report["nets"]) == 3
    assert report["epochs"] == 1
    circles = ElementTree.fromstring((tmp_path / "ranking.svg").read_text()).findall("{*}circle")
    assert len(circles) == 2 * 3 + 2

    beside = bundle_path.with_name(f"{bundle_path.name}.ranking")
    beside.mkdir()
    monkeypatch.setattr(ranking, "rank_bundle", lambda _, folder, **__: report if folder == beside else None)
    assert run(*command[:2], "--nets", "3").code == 0
    assert json.loads((beside / "ranking.json").read_text()) == report
