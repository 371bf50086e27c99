"""Samplers are pure functions of (seed, step); each keeps the promise of its paper."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from service.bundles.config import read_config
from supernet.costs.architecture import of_architecture
from supernet.families import preset, supernet_class
from supernet.space import SearchSpace, Value
from supernet.training.loop import TrainingState, subnet_losses
from supernet.training.sampling import PathDropoutSampler, PhaseSampler, make_sampler
from supernet.training.schedule import Phase, SamplerName, Schedule

SPACE = preset("mbv3-digits")
FLOPS = (500e3, 900e3)
OPTIONS: dict[SamplerName, dict[str, object]] = {
    "uniform": {"subnets_per_step": 3},
    "flops_range": {"subnets_per_step": 3, "flops": FLOPS},
    "strict_fair": {},
    "sandwich": {"subnets_per_step": 3},
    "path_dropout": {"subnets_per_step": 3, "drop_rate": 0.8},
}
STEPS = 40


def make(
    sampler: SamplerName,
    space: SearchSpace = SPACE,
    opened: dict[str, Sequence[Value]] | None = None,
    *,
    seed: int = 0,
    resolutions: tuple[int, ...] | None = None,
    steps: int = STEPS,
    **options: object,
) -> PhaseSampler:
    options = OPTIONS[sampler] | options
    phase = Phase("x", 1, 0.1, opened or {}, sampler=sampler, **options)  # type: ignore[arg-type]
    return make_sampler(space, Schedule((phase,), 2, seed=seed, resolutions=resolutions), 0, steps)


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_a_step_is_a_function_of_seed_and_step(kind: SamplerName) -> None:
    first, again, other = (make(kind, seed=seed) for seed in (1, 1, 2))
    steps = [first.draw(step) for step in range(20)]
    assert steps == [again.draw(step) for step in reversed(range(20))][::-1]
    assert steps != [other.draw(step) for step in range(20)]
    assert len(set(steps)) > 15
    for archs in steps:
        assert len(archs) == first.subnets == 3
        assert len({arch.resolution for arch in archs}) == 1


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_closed_choices_are_never_drawn_and_other_resolutions_may_be(kind: SamplerName) -> None:
    flops = (1e6, 3e6) if kind == "flops_range" else None
    subnets = None if kind == "strict_fair" else 3
    opened: dict[str, Sequence[Value]] = {"kernel_size": (5, 7), "depth": (2,)}
    sampler = make(kind, opened=opened, resolutions=(20, 24), subnets_per_step=subnets, flops=flops)
    for step in range(30):
        for arch in sampler.draw(step):
            assert arch.resolution in (20, 24)
            assert all(len(stage) == 2 for stage in arch.stages)
            assert all(kernel in (5, 7) for stage in arch.stages for kernel, _ in stage)


def test_strict_fair_draws_every_choice_equally_often_when_cycles_complete() -> None:
    """All blocks are kept here, so every draw shows; 3 choices a gene make 3 subnets a step."""
    sampler = make("strict_fair", opened={"depth": (2,)}, seed=7)
    counts: Counter[tuple[int, int, int, float]] = Counter()
    resolutions: Counter[int] = Counter()
    for step in range(30):
        archs = sampler.draw(step)
        assert len(archs) == 3
        resolutions[archs[0].resolution] += 1
        for arch in archs:
            for s, stage in enumerate(arch.stages):
                for b, block in enumerate(stage):
                    counts.update((s, b, gene, value) for gene, value in enumerate(block))
        expected = step + 1
        assert set(counts.values()) == {expected}  # after every step, every choice of every gene
        assert max(resolutions.values()) - min(resolutions.get(side, 0) for side in SPACE.resolutions) <= 1
    assert len(counts) == 6 * 2 * 3


def test_strict_fair_depths_are_equal_when_their_own_cycle_completes() -> None:
    sampler = make("strict_fair", seed=3)
    depths: Counter[tuple[int, int]] = Counter()
    for step in range(20):
        for arch in sampler.draw(step):
            depths.update((s, len(stage)) for s, stage in enumerate(arch.stages))
        if (step + 1) * 3 % 2 == 0:
            assert len(set(depths.values())) == 1
    assert len(depths) == 6


def test_in_strict_fairness_genes_of_dropped_blocks_count_as_drawn() -> None:
    """The blocks that are kept are those that would be there if none were dropped: no cycle waits for its block."""
    dropping, keeping = make("strict_fair", seed=3), make("strict_fair", opened={"depth": (2,)}, seed=3)
    dropped = 0
    for step in range(12):
        for some, every in zip(dropping.draw(step), keeping.draw(step), strict=True):
            for kept, stage in zip(some.stages, every.stages, strict=True):
                assert kept == stage[: len(kept)]
                dropped += len(stage) - len(kept)
    assert dropped


def test_strict_fair_refuses_another_number_of_subnets() -> None:
    with pytest.raises(ValueError, match=r"subnets_per_step is 4; strict-fair sampling takes 3 here"):
        make("strict_fair", subnets_per_step=4)


def test_uniform_sampling_is_uniform_over_each_open_gene() -> None:
    sampler = make("uniform", seed=5, subnets_per_step=2)
    kernels = Counter(arch.stages[0][0][0] for step in range(600) for arch in sampler.draw(step))
    assert sum(kernels.values()) == 1200
    assert all(330 < count < 470 for count in kernels.values())  # 400 expected, standard deviation 16


@pytest.mark.parametrize("name", ["spos-cifar", "fairnas-cifar"])
def test_strict_fairness_updates_every_choice_of_every_layer_equally_after_any_number_of_steps(name: str) -> None:
    """Counted by the gradients that reach each choice's weights, over the subnets that a step accumulates."""
    space = preset(name)
    supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(0))
    updates: Counter[str] = Counter()
    for key, parameter in supernet.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: updates.update([key]))
    of_choices = {key for key, _ in supernet.named_parameters() if "block" in key}
    of_stem_and_head = {key for key, _ in supernet.named_parameters()} - of_choices
    assert of_choices
    sampler = make("strict_fair", space, resolutions=(8,))
    pixels, labels = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    for steps in (1, 2, 3):
        for arch in sampler.draw(steps - 1):
            F.cross_entropy(supernet(pixels, arch), labels).backward()
        assert {updates[key] for key in of_choices} == {steps}
        assert {updates[key] for key in of_stem_and_head} == {steps * len(space.block_genes[0].choices)}


def test_genes_with_fewer_choices_than_a_step_has_subnets_are_fair_whenever_their_cycle_completes() -> None:
    """Channel scales are most in number, so they are fair after every step; blocks are whenever the draws divide."""
    space = preset("spos-cifar-channels")
    blocks, scales = (len(gene.choices) for gene in space.block_genes)
    assert scales % blocks
    sampler = make("strict_fair", space)
    counts: Counter[tuple[int, int, int, float]] = Counter()
    for steps in range(1, 9):
        archs = sampler.draw(steps - 1)
        assert len(archs) == scales
        for arch in archs:
            for s, stage in enumerate(arch.stages):
                for b, block in enumerate(stage):
                    counts.update((s, b, gene, value) for gene, value in enumerate(block))
        drawn = steps * scales
        least, most = drawn // blocks, -(-drawn // blocks)
        assert {count for (_, _, gene, _), count in counts.items() if gene == 0} == {least, most}
        assert {count for (_, _, gene, _), count in counts.items() if gene == 1} == {steps}
    assert len(counts) == sum(depths[-1] for depths in space.depths) * (blocks + scales)


@pytest.mark.slow
def test_subnets_of_a_flops_range_are_inside_it_and_uniform_there() -> None:
    sampler = make("flops_range", seed=4)
    drawn = [arch for step in range(400) for arch in sampler.draw(step)]
    assert all(FLOPS[0] <= of_architecture(SPACE, arch)["flops"] <= FLOPS[1] for arch in drawn)
    rng = np.random.default_rng(0)
    uniform = [SPACE.decode(genome).at(12) for genome in SPACE.sample(rng, 4000)]
    inside = [arch for arch in uniform if FLOPS[0] <= of_architecture(SPACE, arch)["flops"] <= FLOPS[1]]
    at_12 = [arch for arch in drawn if arch.resolution == 12]
    shares = [np.mean([arch.stages[0][0][1] == 2 for arch in archs]) for archs in (inside, at_12)]
    assert abs(shares[0] - shares[1]) < 0.1  # of ratio 2; about 400 draws, standard deviation 0.025


def test_a_flops_range_that_nothing_is_in_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"phase x: flops is \[1, 2\]; fewer than one .* Widen the range"):
        make("flops_range", flops=(1, 2))


def test_the_sandwich_rule_draws_the_largest_the_smallest_and_random_ones() -> None:
    sampler = make("sandwich", opened={"kernel_size": (3, 5)}, subnets_per_step=None)
    between = set()
    for step in range(10):
        largest, smallest, *others = sampler.draw(step)
        assert {block for stage in largest.stages for block in stage} == {(5, 4)}
        assert [len(stage) for stage in largest.stages] == [2, 2, 2]
        assert smallest == SPACE.smallest().at(smallest.resolution)
        assert len(others) == 2
        between.update(others)
    assert len(between) > 15
    with pytest.raises(ValueError, match="subnets_per_step is 1; the sandwich rule takes at least 2"):
        make("sandwich", subnets_per_step=1)


def test_of_two_subnets_in_the_sandwich_the_second_is_the_smallest_and_a_random_one_by_turns() -> None:
    sampler = make("sandwich", resolutions=(16,), subnets_per_step=2)
    largest, smallest = SPACE.largest().at(16), SPACE.smallest().at(16)
    drawn = [sampler.draw(step) for step in range(20)]
    assert all(len(archs) == 2 and archs[0] == largest for archs in drawn)
    assert all(archs[1] == smallest for archs in drawn[::2])
    assert len({archs[1] for archs in drawn[1::2]}) == 10


@pytest.mark.parametrize("kind", sorted(set(OPTIONS) - {"flops_range"}))
def test_growing_resolutions_take_equal_shares_of_the_steps_one_after_another(kind: SamplerName) -> None:
    sampler = make(kind, resolutions=(16,), steps=41, growing=(8, 12, 20))
    resolutions = [{arch.resolution for arch in sampler.draw(step)} for step in range(41)]
    assert resolutions == 14 * [{8}] + 14 * [{12}] + 13 * [{20}]


def test_path_dropout_rises_linearly_from_the_largest_network() -> None:
    sampler = make("path_dropout", seed=1, subnets_per_step=400)
    assert isinstance(sampler, PathDropoutSampler)
    assert [sampler.rate(step) for step in (0, STEPS - 1)] == [0, 0.8]
    assert sampler.rate(STEPS // 2) == pytest.approx(0.8 * (STEPS // 2) / (STEPS - 1))
    first = sampler.draw(0)
    assert set(first) == {SPACE.largest().at(first[0].resolution)}
    last = sampler.draw(STEPS - 1)
    kernels = Counter(arch.stages[0][0][0] for arch in last)
    assert abs(kernels[3] / len(last) - 0.8) < 0.08  # all paths dropped: with the rate itself
    assert abs(kernels[7] / len(last) - (1 - 0.8**0.5) ** 2) < 0.03  # none dropped
    depths = Counter(len(arch.stages[1]) for arch in last)
    assert abs(depths[1] / len(last) - 0.8) < 0.08


def test_path_dropout_among_alternatives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stage1.block1.choice have weights of their own.*uniform or strict_fair"):
        make("path_dropout", preset("spos-cifar"))


@pytest.mark.parametrize(
    ("make_phase", "message"),
    [
        (lambda: Phase("x", 1, 0.1, sampler="flops_range"), "flops_range and flops belong together"),
        (lambda: Phase("x", 1, 0.1, drop_rate=0.5), "path_dropout and drop_rate belong together"),
        (lambda: Phase("x", 1, 0.1, sampler="flops_range", flops=(2.0, 1.0)), "the most, is 1.0"),
        (lambda: Phase("x", 1, 0.1, sampler="sandwich", distillation=1.0), "leave distillation out"),
        (lambda: Phase("x", 1, 0.1, growing=(16, 18)), "phase x: growing has 18; multiples of 4"),
        (lambda: Phase("x", 1, 0.1, growing=(32, 16)), r"growing is \[32, 16\]; give resolutions from small to large"),
        (lambda: Phase("x", 1, 0.1, {"resolution": (16,)}, growing=(16,)), "keep one of them"),
        (lambda: Phase("x", 1, 0.1, sampler="flops_range", flops=FLOPS, growing=(16,)), "what `flops` counts"),
    ],
)
def test_options_that_contradict_the_sampler_are_refused(make_phase: Callable[[], Phase], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_phase()


def test_in_place_distillation_teaches_the_others_by_the_largest_of_the_same_step() -> None:
    """Only the largest sees the labels, smoothed; no gradient goes back into what it teaches."""
    phase = Phase("x", 1, 0.1, sampler="sandwich", subnets_per_step=3)
    state = TrainingState.fresh(SPACE, Schedule((phase,), 8, label_smoothing=0.2))
    archs = make_sampler(SPACE, state.schedule, 0, STEPS).draw(0)
    pixels, labels = torch.randn(8, 1, *2 * [archs[0].resolution]), torch.arange(8)
    losses = list(subnet_losses(state, phase, archs, pixels, labels))
    with torch.no_grad():
        logits = [state.supernet(pixels, arch) for arch in archs]
    assert losses[0].item() == pytest.approx(F.cross_entropy(logits[0], labels, label_smoothing=0.2).item())
    for loss, made in zip(losses[1:], logits[1:], strict=True):
        assert loss.item() == pytest.approx(F.cross_entropy(made, logits[0].softmax(1)).item())
    losses[1].backward()
    only_largest = [
        parameter for name, parameter in state.supernet.named_parameters() if name.startswith("stages.0.1.")
    ]
    assert only_largest
    assert all(parameter.grad is None for parameter in only_largest)


def test_a_teacher_adds_its_weighted_soft_labels_to_the_labels() -> None:
    """Once-for-All's distillation: the teacher's batch statistics are the batch's own, and no gradient goes into it."""
    phases = (Phase("x", 1, 0.1), Phase("y", 1, 0.1, subnets_per_step=2, distillation=0.7))
    state = TrainingState.fresh(SPACE, Schedule(phases, 8, label_smoothing=0.2))
    state.teacher = TrainingState.fresh(SPACE, replace(state.schedule, seed=1)).fresh_teacher()
    archs = make_sampler(SPACE, state.schedule, 1, STEPS).draw(0)
    pixels, labels = torch.randn(8, 1, *2 * [archs[0].resolution]), torch.arange(8)
    losses = list(subnet_losses(state, phases[1], archs, pixels, labels))
    with torch.no_grad():
        soft_labels = state.teacher(pixels).softmax(1)
        logits = [state.supernet(pixels, arch) for arch in archs]
    for loss, made in zip(losses, logits, strict=True):
        expected = F.cross_entropy(made, labels, label_smoothing=0.2) + 0.7 * F.cross_entropy(made, soft_labels)
        assert loss.item() == pytest.approx(expected.item())
    losses[0].backward()
    assert all(parameter.grad is None for parameter in state.teacher.parameters())


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_phase_of_every_configuration_draws_subnets(path: Path) -> None:
    config = read_config(path)
    space = preset(config.space or "mbv3-imagenet-w1.0")  # one that `init` may have
    for number, phase in enumerate(config.schedule.phases):
        sampler = make_sampler(space, config.schedule, number, 1000)
        for step in (0, 999):
            archs = sampler.draw(step)
            assert len(archs) == sampler.subnets >= (phase.subnets_per_step or 1)
            for arch in archs:
                space.encode(arch.at(space.resolutions[0]))
