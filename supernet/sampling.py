"""Which subnets a training step sees. A sampler is a pure function of (seed, step), so resuming needs no state."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from supernet.space import Architecture, SearchSpace


class Sampler(Protocol):
    """Draws the subnets of a step; all of them share the step's resolution."""

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """The architectures of a step, counted from 0."""


class UniformSampler:
    """Every open gene uniform and independent: single-path sampling (SPOS, arXiv:1904.00420), `subnets` per step."""

    def __init__(
        self,
        space: SearchSpace,
        open_choices: Sequence[Sequence[int]],
        resolutions: Sequence[int],
        subnets: int,
        seed: Sequence[int],
    ) -> None:
        self.space = space
        self.open_choices = open_choices
        self.resolutions = resolutions
        self.subnets = subnets
        self.seed = seed

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """`subnets` architectures at one resolution."""
        rng = np.random.default_rng([*self.seed, step])
        resolution = int(rng.choice(self.resolutions))
        genomes = self.space.sample(rng, self.subnets, self.open_choices)
        return tuple(self.space.decode(genome).at(resolution) for genome in genomes)


class StrictFairSampler:
    """Each gene runs through shuffled permutations of its open choices, so that all are drawn equally often.

    Strict fairness (FairNAS, arXiv:1907.01845) is defined on layers of alternative choices: every choice is updated
    equally. On an elastic space slices are nested and dropped blocks get no gradient, so fairness here is over draws,
    which is our extension: counts are equal whenever a gene's cycle completes, and genes of blocks that are not kept
    count as drawn. A step has as many subnets as the most choices open in any gene but resolution; the resolution
    cycles over steps.
    """

    def __init__(
        self,
        space: SearchSpace,
        open_choices: Sequence[Sequence[int]],
        resolutions: Sequence[int],
        subnets: int | None,
        seed: Sequence[int],
    ) -> None:
        self.space = space
        self.open_choices = open_choices
        self.resolutions = resolutions
        self.subnets = max(len(choices) for choices in open_choices[1:])
        if subnets not in (None, self.subnets):
            raise ValueError(
                f"subnets_per_step is {subnets}; strict-fair sampling takes {self.subnets} here, the most choices open "
                "in any gene. Leave it out"
            )
        self.seed = seed

    def draw(self, step: int) -> tuple[Architecture, ...]:
        """As many architectures as the gene with most open choices has, at one resolution."""
        resolution = int(self._cycled(0, self.resolutions, step))
        first = step * self.subnets
        archs = []
        for draw in range(first, first + self.subnets):
            genes = [self._cycled(gene, choices, draw) for gene, choices in enumerate(self.open_choices[1:], 1)]
            archs.append(self.space.decode(np.array([0, *genes], np.int8)).at(resolution))
        return tuple(archs)

    def _cycled(self, gene: int, choices: Sequence[int], draw: int) -> int:
        """The choice at a position of the gene's endless run of shuffled permutations."""
        cycle, position = divmod(draw, len(choices))
        if len(choices) == 1:
            return choices[0]
        return choices[np.random.default_rng([*self.seed, gene, cycle]).permutation(len(choices))[position]]


SAMPLERS: dict[str, Callable[..., Sampler]] = {"uniform": UniformSampler, "strict_fair": StrictFairSampler}
