"""Which subnets a training step trains. A sampler is a pure function of (seed, step), so resuming needs no state.

Once-for-All's sampling (arXiv:1908.09791) is `uniform` with several subnets per step and distillation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from supernet.costs.tables import PartTables
from supernet.operators import total_flops
from supernet.space import Architecture, Genomes, SearchSpace
from supernet.streams import Stream, random_generator
from supernet.training.schedule import Phase, Schedule

CANDIDATES = 1024  # genomes drawn at once by rejection sampling
LEAST_SHARE = 1e-3  # least acceptance rate of rejection sampling
ROUNDS = 100  # most draws of CANDIDATES; the chance to accept none is e ** -(ROUNDS * CANDIDATES * LEAST_SHARE)


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """A phase of a schedule in one space: what a sampler draws from.

    number: of the phase, from 0. open_choices: per gene, the indices of the choices that it may take. resolutions:
    input image sizes, pixels, any multiples of 4; the subnets of a step share one. steps: optimiser steps of the phase.
    """

    space: SearchSpace
    phase: Phase
    number: int
    open_choices: Sequence[Sequence[int]]
    resolutions: Sequence[int]
    steps: int
    seed: int

    def random(self, *position: int) -> np.random.Generator:
        """The random generator of a position in the phase, such as a step."""
        return random_generator(self.seed, Stream.SUBNETS, self.number, *position)


class Sampler(Protocol):
    """Draws the subnets of a phase's steps."""

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The architectures of a step, counted from 0. All have the same resolution."""


class FixedSampler:
    """The same subnet at every step: stand-alone training."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The subnet."""
        return (self._arch,)


class PhaseSampler(ABC):
    """A sampler of a phase's open choices.

    Raises:
        ValueError: the phase asks for what this sampler cannot do in this space.
    """

    def __init__(self, plan: PhasePlan) -> None:
        self.plan = plan
        self.space = plan.space
        self.phase = plan.phase
        self.open_choices = plan.open_choices
        self.resolutions = plan.resolutions

    @abstractmethod
    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The architectures of a step, counted from 0. All have the same resolution."""

    @property
    def subnets(self) -> int:
        """Subnets per step; by default what the phase says, else 1."""
        return self.phase.subnets_per_step or 1

    def _resolution(self, step: int, rng: np.random.Generator) -> int:
        """The resolution of a step's subnets: the phase's growing one, or one drawn uniformly."""
        return self._grown(step) or int(rng.choice(self.resolutions))

    def _grown(self, step: int) -> int | None:
        growing = self.phase.growing
        return growing[step * len(growing) // self.plan.steps] if growing else None

    def _decoded(self, genomes: Genomes, resolution: int) -> tuple[Architecture, ...]:
        return tuple(self.space.decode(genome).at(resolution) for genome in genomes)


class UniformSampler(PhaseSampler):
    """Every open gene uniform and independent: single-path sampling (Single-Path One-Shot, arXiv:1904.00420)."""

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures, at one resolution."""
        rng = self.plan.random(step)
        resolution = self._resolution(step, rng)
        return self._decoded(self.space.sample(rng, self.subnets, self.open_choices), resolution)


class FlopsRangeSampler(PhaseSampler):
    """Uniform over the open architectures whose FLOPs are in the phase's range (arXiv:1904.00420, section 3.2).

    Rejection sampling, as in that paper. A resolution at which fewer than one in a thousand uniform draws lie in the
    range is left out; if all are, the range is refused before training.
    """

    def __init__(self, plan: PhasePlan) -> None:
        super().__init__(plan)
        assert self.phase.flops is not None
        self.least, self.most = self.phase.flops
        self._flops = {resolution: _flops_at(self.space, resolution) for resolution in self.resolutions}
        rng = plan.random(plan.steps)  # no step has this number
        genomes = self.space.sample(rng, 16 * CANDIDATES, self.open_choices)
        flops = {resolution: flops_of(genomes) for resolution, flops_of in self._flops.items()}
        self.resolutions = [size for size in self.resolutions if self._inside(flops[size]).mean() >= LEAST_SHARE]
        if not self.resolutions:
            low, middle, high = np.quantile(np.concatenate(list(flops.values())), (0, 0.5, 1))
            raise ValueError(
                f"flops is [{self.least:g}, {self.most:g}]; fewer than one open architecture in {1 / LEAST_SHARE:,.0f} "
                f"has so many multiply-adds: they have {low:,.0f} to {high:,.0f}, half of them at most {middle:,.0f}. "
                "Widen the range"
            )

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures, at one resolution."""
        rng = self.plan.random(step)
        resolution = self._resolution(step, rng)
        accepted: list[Genomes] = []
        for _ in range(ROUNDS):
            candidates = self.space.sample(rng, CANDIDATES, self.open_choices)
            accepted += list(candidates[self._inside(self._flops[resolution](candidates))])
            if len(accepted) >= self.subnets:
                return self._decoded(np.stack(accepted[: self.subnets]), resolution)
        raise ValueError(f"no architecture with {self.least:g} to {self.most:g} FLOPs found; widen the range `flops`")

    def _inside(self, flops: NDArray[np.float64]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (self.least <= flops) & (flops <= self.most)
        return inside


def _flops_at(space: SearchSpace, resolution: int) -> Callable[[Genomes], NDArray[np.float64]]:
    """A function from (N, G) genomes to their (N,) multiply-adds at one resolution, not at their own."""
    tables = PartTables(space, resolution)
    values = tables.values(total_flops)

    def flops(genomes: Genomes) -> NDArray[np.float64]:
        return np.asarray(values[tables.index(genomes)].sum(1))

    return flops


class StrictFairSampler(PhaseSampler):
    """Each gene runs through shuffled permutations of its open choices, so that all are drawn equally often.

    FairNAS (arXiv:1907.01845, definition 2) defines strict fairness on layers with m alternative choices each: a step
    trains m paths in which every choice of every layer occurs once. So all choices are updated equally often after any
    number of steps. Here m, the number of subnets per step, is the largest number of choices open in any gene other
    than resolution. The definition holds for every gene with m open choices whose block is always kept.

    The rest is our extension. A gene with n < m choices runs through its permutations over the same draws. After k
    steps its choices were drawn equally often if k * m is a multiple of n; otherwise their counts differ by one. In an
    elastic space slices are nested and dropped blocks get no gradient, so fairness is over draws, not over updates:
    genes of dropped blocks count as drawn. The resolution cycles over steps, unless the phase grows it.
    """

    def __init__(self, plan: PhasePlan) -> None:
        super().__init__(plan)
        if self.phase.subnets_per_step not in (None, self.subnets):
            raise ValueError(
                f"subnets_per_step is {self.phase.subnets_per_step}; strict-fair sampling takes {self.subnets} here, "
                "the most choices open in any gene. Leave it out"
            )

    @property
    def subnets(self) -> int:
        """Subnets per step: the largest number of choices open in any gene other than resolution."""
        return max(len(choices) for choices in self.open_choices[1:])

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """One architecture per open choice of the gene with the most open choices, at one resolution."""
        resolution = self._grown(step) or int(self._cycled(0, self.resolutions, step))
        draws = range(step * self.subnets, (step + 1) * self.subnets)
        genes = enumerate(self.open_choices[1:], 1)
        columns = [[self._cycled(gene, choices, draw) for draw in draws] for gene, choices in genes]
        return self._decoded(np.array([[0] * self.subnets, *columns], np.int8).T, resolution)

    def _cycled(self, gene: int, choices: Sequence[int], draw: int) -> int:
        """The gene's choice at a draw, counted from 0, in an endless run of shuffled permutations."""
        cycle, position = divmod(draw, len(choices))
        if len(choices) == 1:
            return choices[0]
        return choices[self.plan.random(gene, cycle).permutation(len(choices))[position]]


class SandwichSampler(PhaseSampler):
    """The largest open subnet, the smallest, then random ones: the sandwich rule (BigNAS, arXiv:2003.11142, 3.1).

    All subnets but the first learn from the first one's soft labels of the same step. We deviate twice. In BigNAS each
    subnet of a step has its own resolution; here they share one. And BigNAS always trains more than two subnets; here,
    with two per step, the second is the smallest and a random one in turns, which suits short runs, since the largest
    sees more images. If choices have no order, largest and smallest mean the last and the first.
    """

    def __init__(self, plan: PhasePlan) -> None:
        super().__init__(plan)
        if self.subnets < 2:
            raise ValueError(f"subnets_per_step is {self.subnets}; the sandwich rule takes at least 2")

    @property
    def subnets(self) -> int:
        """Subnets per step: what the phase says, else four, as in BigNAS."""
        return self.phase.subnets_per_step or 4

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The largest, the smallest and random architectures, at one resolution; of two, the second is one of these."""
        rng = self.plan.random(step)
        resolution = self._resolution(step, rng)
        ends = np.array([[choices[end] for choices in self.open_choices] for end in (-1, 0)], np.int8)
        if self.subnets == 2 and step % 2:
            ends = ends[:1]
        between = self.space.sample(rng, self.subnets - len(ends), self.open_choices)
        return self._decoded(np.concatenate([ends, between]), resolution)


class PathDropoutSampler(PhaseSampler):
    """Paths are dropped from the largest open subnet, at a rate that rises linearly from 0 over the phase.

    Path dropout comes from G. Bender et al., "Understanding and simplifying one-shot architecture search" (ICML 2018,
    section 3.2): each of the k paths into a layer is dropped with probability r^(1/k), so that all k are dropped with
    probability r. On an elastic gene a path is what one choice adds to the next smaller one. Of m open choices the
    smallest always stays, and each of the other k = m - 1 paths may be dropped; the number of paths that remain gives
    the choice.

    Bender et al. sum the paths of a layer. Our supernets do not sum choices that have weights of their own: one of the
    remaining choices would run, all equally likely at any rate. That is uniform sampling, so such spaces are refused.
    """

    def __init__(self, plan: PhasePlan) -> None:
        super().__init__(plan)
        alternatives = {gene for part in self.space.parts for gene in part.paths if len(self.open_choices[gene]) > 1}
        if alternatives:
            raise ValueError(
                f"the choices of {self.space.genes[min(alternatives)].name} have weights of their own, of which one "
                "runs at a time: dropping paths among them is uniform sampling. Take the sampler uniform or strict_fair"
            )

    def rate(self, step: int) -> float:
        """The probability that all paths of a gene which may be dropped are dropped at a step."""
        assert self.phase.drop_rate is not None
        return self.phase.drop_rate * step / max(1, self.plan.steps - 1)

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures, at one resolution."""
        rng = self.plan.random(step)
        resolution = self._resolution(step, rng)
        columns = []
        for choices in self.open_choices:
            paths = len(choices) - 1
            keep_probability = 1 - self.rate(step) ** (1 / paths) if paths else 0
            columns.append(np.asarray(choices)[rng.binomial(paths, keep_probability, self.subnets)])
        return self._decoded(np.stack(columns, axis=1).astype(np.int8), resolution)


SAMPLERS: Mapping[str, Callable[[PhasePlan], PhaseSampler]] = {
    "uniform": UniformSampler,
    "flops_range": FlopsRangeSampler,
    "strict_fair": StrictFairSampler,
    "sandwich": SandwichSampler,
    "path_dropout": PathDropoutSampler,
}


def make_sampler(space: SearchSpace, schedule: Schedule, number: int, steps: int) -> PhaseSampler:
    """The sampler of phase `number` (from 0) of a schedule; the phase has `steps` steps.

    Raises:
        ValueError: the phase does not fit the space; the message names the phase and what does not fit.
    """
    phase = schedule.phases[number]
    try:
        open_choices = space.open_choices(**phase.open)
        resolutions = schedule.resolutions or tuple(int(space.resolutions[index]) for index in open_choices[0])
        plan = PhasePlan(space, phase, number, open_choices, resolutions, steps, schedule.seed)
        return SAMPLERS[phase.sampler](plan)
    except ValueError as error:
        raise ValueError(f"phase {phase.name}: {error}") from error
