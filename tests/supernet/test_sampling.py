"""Samplers are pure functions of (seed, step); strict fairness counts draws exactly."""

from collections import Counter

import pytest

from supernet.families import preset
from supernet.sampling import SAMPLERS, StrictFairSampler, UniformSampler

SPACE = preset("mbv3-digits")
EVERYTHING = SPACE.open_choices()


@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_a_step_is_a_function_of_seed_and_step(kind: str) -> None:
    subnets = 3
    first, again, other = (SAMPLERS[kind](SPACE, EVERYTHING, SPACE.resolutions, subnets, [seed]) for seed in (1, 1, 2))
    steps = [first.draw(step) for step in range(20)]
    assert steps == [again.draw(step) for step in reversed(range(20))][::-1]
    assert steps != [other.draw(step) for step in range(20)]
    assert len(set(steps)) > 15
    for archs in steps:
        assert len(archs) == subnets
        assert len({arch.resolution for arch in archs}) == 1


@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_closed_choices_are_never_drawn_and_other_resolutions_may_be(kind: str) -> None:
    open_choices = SPACE.open_choices(kernel_size=(5, 7), depth=(2,))
    sampler = SAMPLERS[kind](SPACE, open_choices, (20, 24), None if kind == "strict_fair" else 2, [0])
    for step in range(30):
        for arch in sampler.draw(step):
            assert arch.resolution in (20, 24)
            assert all(len(stage) == 2 for stage in arch.stages)
            assert all(kernel in (5, 7) for stage in arch.stages for kernel, _ in stage)


def test_strict_fair_draws_every_choice_equally_often_when_cycles_complete() -> None:
    """All blocks are kept here, so every draw shows; 3 choices a gene make 3 subnets a step."""
    open_choices = SPACE.open_choices(depth=(2,))
    sampler = StrictFairSampler(SPACE, open_choices, SPACE.resolutions, None, [7])
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
    sampler = StrictFairSampler(SPACE, EVERYTHING, SPACE.resolutions, None, [3])
    depths: Counter[tuple[int, int]] = Counter()
    for step in range(20):
        for arch in sampler.draw(step):
            depths.update((s, len(stage)) for s, stage in enumerate(arch.stages))
        if (step + 1) * 3 % 2 == 0:
            assert len(set(depths.values())) == 1
    assert len(depths) == 6


def test_strict_fair_refuses_another_number_of_subnets() -> None:
    with pytest.raises(ValueError, match=r"subnets_per_step is 4; strict-fair sampling takes 3 here"):
        StrictFairSampler(SPACE, EVERYTHING, SPACE.resolutions, 4, [0])


def test_uniform_sampling_is_uniform_over_each_open_gene() -> None:
    sampler = UniformSampler(SPACE, EVERYTHING, SPACE.resolutions, 2, [5])
    kernels = Counter(arch.stages[0][0][0] for step in range(600) for arch in sampler.draw(step))
    assert sum(kernels.values()) == 1200
    assert all(330 < count < 470 for count in kernels.values())  # 400 expected, standard deviation 16
