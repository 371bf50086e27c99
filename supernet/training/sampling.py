"""Which subnets a training step sees. A sampler is a pure function of (seed, step), so resuming needs no state.

Once-for-All's sampling (arXiv:1908.09791) is the uniform one, of several subnets a step, with a teacher's soft labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from supernet.costs.tables import PartTables
from supernet.operators import total_flops
from supernet.space import Architecture, Genomes, SearchSpace
from supernet.training.schedule import Phase, Schedule

CANDIDATES = 1024  # genomes drawn at once where only some are wanted
LEAST_SHARE = 1e-3  # of uniform draws that must be wanted, so that ROUNDS of candidates hold one for sure
ROUNDS = 100  # e ** -(ROUNDS * CANDIDATES * LEAST_SHARE) is the chance of finding none


class Sampler(ABC):
    """Draws the subnets of a phase's steps.

    open_choices: per gene, the indices that it may take. resolutions: the input sides, pixels, any multiples of 4; the
    subnets of a step share one. steps: how many the phase has.

    Raises:
        ValueError: a phase that asks for what this sampler cannot do in this space.
    """

    def __init__(
        self,
        space: SearchSpace,
        phase: Phase,
        open_choices: Sequence[Sequence[int]],
        resolutions: Sequence[int],
        steps: int,
        seed: Sequence[int],
    ) -> None:
        self.space = space
        self.phase = phase
        self.open_choices = open_choices
        self.resolutions = resolutions
        self.steps = steps
        self.seed = seed
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Refuse what this sampler cannot do; make what all draws need."""

    @abstractmethod
    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The architectures of a step, counted from 0."""

    @property
    def subnets(self) -> int:
        """Per step, as the phase says."""
        return self.phase.subnets_per_step or 1

    def _resolution(self, step: int, rng: np.random.Generator) -> int:
        """The input side of a step's subnets: the phase's growing one, or any, each as likely."""
        return self._grown(step) or int(rng.choice(self.resolutions))

    def _grown(self, step: int) -> int | None:
        growing = self.phase.growing
        return growing[step * len(growing) // self.steps] if growing else None

    def _rng(self, step: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, step])

    def _decoded(self, genomes: Genomes, resolution: int) -> tuple[Architecture, ...]:
        return tuple(self.space.decode(genome).at(resolution) for genome in genomes)


class UniformSampler(Sampler):
    """Every open gene uniform and independent: single-path sampling (Single-Path One-Shot, arXiv:1904.00420)."""

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures at one resolution."""
        rng = self._rng(step)
        resolution = self._resolution(step, rng)
        return self._decoded(self.space.sample(rng, self.subnets, self.open_choices), resolution)


class FlopsRangeSampler(Sampler):
    """Uniform over the open architectures whose FLOPs are in the phase's range (arXiv:1904.00420, section 3.2).

    Drawn until inside, as there; a range that fewer than one in a thousand uniform draws hit, at each resolution, is
    refused before training. Resolutions at which the range is so rare are left out.
    """

    def prepare(self) -> None:
        """Refuse what this sampler cannot do; make what all draws need."""
        assert self.phase.flops is not None
        self.least, self.most = self.phase.flops
        self._flops = {resolution: _flops_at(self.space, resolution) for resolution in self.resolutions}
        rng = np.random.default_rng([*self.seed, self.steps])
        drawn = self.space.sample(rng, 16 * CANDIDATES, self.open_choices)
        flops = {resolution: table(drawn) for resolution, table in self._flops.items()}
        self.resolutions = [side for side in self.resolutions if self._inside(flops[side]).mean() >= LEAST_SHARE]
        if not self.resolutions:
            every = np.concatenate(list(flops.values()))
            low, middle, high = np.quantile(every, (0, 0.5, 1))
            raise ValueError(
                f"flops is [{self.least:g}, {self.most:g}]; fewer than one open architecture in {1 / LEAST_SHARE:,.0f} "
                f"has so many multiply-adds: they have {low:,.0f} to {high:,.0f}, half of them at most {middle:,.0f}. "
                "Widen the range"
            )

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures at one resolution."""
        rng = self._rng(step)
        resolution = self._resolution(step, rng)
        found: list[Genomes] = []
        for _ in range(ROUNDS):
            candidates = self.space.sample(rng, CANDIDATES, self.open_choices)
            found += list(candidates[self._inside(self._flops[resolution](candidates))])
            if len(found) >= self.subnets:
                return self._decoded(np.stack(found[: self.subnets]), resolution)
        raise ValueError(f"no architecture with {self.least:g} to {self.most:g} FLOPs found; widen the range `flops`")

    def _inside(self, flops: NDArray[np.float64]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (self.least <= flops) & (flops <= self.most)
        return inside


def _flops_at(space: SearchSpace, resolution: int) -> Callable[[Genomes], NDArray[np.float64]]:
    """A function from (N, G) genomes to their (N,) multiply-adds at one resolution, whatever their gene 0 says."""
    tables = PartTables(space, resolution)
    values = tables.values(total_flops)

    def flops(genomes: Genomes) -> NDArray[np.float64]:
        return np.asarray(values[tables.index(genomes)].sum(1))

    return flops


class StrictFairSampler(Sampler):
    """Each gene runs through shuffled permutations of its open choices, so that all are drawn equally often.

    Strict fairness (FairNAS, arXiv:1907.01845, definition 2) is defined on layers of alternative choices, m each: a
    step trains m paths in which every choice of every layer occurs once, so that all are updated equally often after
    any number of steps. Here m, the subnets of a step, is the most choices open in any gene but resolution, and the
    definition holds for every gene with m open choices whose block is always kept. The rest is our extension. A gene
    with n < m choices runs through its permutations over the same draws: its choices have been drawn equally often
    after every k steps of which k * m is a multiple of n, and otherwise differ by one draw. On an elastic space slices
    are nested and dropped blocks get no gradient, so fairness is over draws, not updates: genes of blocks that are not
    kept count as drawn. The resolution cycles over steps, unless the phase grows it.
    """

    def prepare(self) -> None:
        """Refuse what this sampler cannot do; make what all draws need."""
        if self.phase.subnets_per_step not in (None, self.subnets):
            raise ValueError(
                f"subnets_per_step is {self.phase.subnets_per_step}; strict-fair sampling takes {self.subnets} here, "
                "the most choices open in any gene. Leave it out"
            )

    @property
    def subnets(self) -> int:
        """Per step: the most choices open in any gene but resolution."""
        return max(len(choices) for choices in self.open_choices[1:])

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """As many architectures as the gene with most open choices has, at one resolution."""
        resolution = self._grown(step) or int(self._cycled(0, self.resolutions, step))
        draws = range(step * self.subnets, (step + 1) * self.subnets)
        genes = enumerate(self.open_choices[1:], 1)
        columns = [[self._cycled(gene, choices, draw) for draw in draws] for gene, choices in genes]
        return self._decoded(np.array([[0] * self.subnets, *columns], np.int8).T, resolution)

    def _cycled(self, gene: int, choices: Sequence[int], draw: int) -> int:
        """The choice at a position of the gene's endless run of shuffled permutations."""
        cycle, position = divmod(draw, len(choices))
        if len(choices) == 1:
            return choices[0]
        return choices[np.random.default_rng([*self.seed, gene, cycle]).permutation(len(choices))[position]]


class SandwichSampler(Sampler):
    """The largest open subnet, the smallest, then random ones: the sandwich rule (BigNAS, arXiv:2003.11142, 3.1).

    The trainer lets all but the first learn from the first's soft labels of the same step. We deviate in two things:
    BigNAS gives every subnet a resolution of its own, here a step's subnets share one; and of two subnets a step, which
    BigNAS does not have, the second is the smallest and a random one by turns: for little time, in which the largest
    should see more images. For choices without an order, largest and smallest are the last and the first.
    """

    def prepare(self) -> None:
        """Refuse what this sampler cannot do; make what all draws need."""
        if self.subnets < 2:
            raise ValueError(f"subnets_per_step is {self.subnets}; the sandwich rule takes at least 2")

    @property
    def subnets(self) -> int:
        """Per step: four, as BigNAS has, unless the phase says otherwise."""
        return self.phase.subnets_per_step or 4

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The largest, the smallest, and random architectures, at one resolution; of two, not both of the others."""
        rng = self._rng(step)
        resolution = self._resolution(step, rng)
        ends = np.array([[choices[end] for choices in self.open_choices] for end in (-1, 0)], np.int8)
        if self.subnets == 2 and step % 2:
            ends = ends[:1]
        between = self.space.sample(rng, self.subnets - len(ends), self.open_choices)
        return self._decoded(np.concatenate([ends, between]), resolution)


class PathDropoutSampler(Sampler):
    """Paths are dropped from the largest open subnet, at a rate that rises linearly from 0 over the phase.

    Path dropout is of G. Bender et al., "Understanding and simplifying one-shot architecture search" (ICML 2018,
    section 3.2): each of the k paths into a layer is dropped with probability r^(1/k), so that all are with probability
    r. On an elastic gene a path is what one choice has beyond the next smaller one: of m open choices the smallest is
    always there, k = m - 1 paths may be dropped, and as many are added to it as were kept. There, paths of one
    layer are summed. Choices with weights of their own are not, in our supernets: of those left one would run, each
    as likely as any other, whatever the rate. That is uniform sampling, so such spaces are refused.
    """

    def prepare(self) -> None:
        """Refuse what this sampler cannot do; make what all draws need."""
        alternatives = {gene for part in self.space.parts for gene in part.paths if len(self.open_choices[gene]) > 1}
        if alternatives:
            raise ValueError(
                f"the choices of {self.space.genes[min(alternatives)].name} have weights of their own, of which one "
                "runs at a time: dropping paths among them is uniform sampling. Take the sampler uniform or strict_fair"
            )

    def rate(self, step: int) -> float:
        """The probability that all the paths of a gene that can be dropped are, at a step."""
        assert self.phase.drop_rate is not None
        return self.phase.drop_rate * step / max(1, self.steps - 1)

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The phase's number of architectures at one resolution."""
        rng = self._rng(step)
        resolution = self._resolution(step, rng)
        columns = []
        for choices in self.open_choices:
            paths = len(choices) - 1
            kept = 1 - self.rate(step) ** (1 / paths) if paths else 0
            columns.append(np.asarray(choices)[rng.binomial(paths, kept, self.subnets)])
        return self._decoded(np.stack(columns, axis=1).astype(np.int8), resolution)


SAMPLERS: Mapping[str, Callable[..., Sampler]] = {
    "uniform": UniformSampler,
    "flops_range": FlopsRangeSampler,
    "strict_fair": StrictFairSampler,
    "sandwich": SandwichSampler,
    "path_dropout": PathDropoutSampler,
}


def make_sampler(space: SearchSpace, schedule: Schedule, number: int, steps: int) -> Sampler:
    """The sampler of a schedule's phase (from 0), which has so many steps.

    Raises:
        ValueError: naming the phase, and what in it does not fit the space.
    """
    phase = schedule.phases[number]
    try:
        open_choices = space.open_choices(**phase.open)
        resolutions = schedule.resolutions or tuple(int(space.resolutions[index]) for index in open_choices[0])
        return SAMPLERS[phase.sampler](space, phase, open_choices, resolutions, steps, [schedule.seed, 2, number])
    except ValueError as error:
        raise ValueError(f"phase {phase.name}: {error}") from error
