"""The architectures within hard limits: which ones they are, and how other architectures are moved among them."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.choices import Choices
from evolution.costs import AdditiveCost, CostTables, PeakCost
from evolution.limits import Constraint, SumConstraint, allowed_resolutions
from evolution.moves import Moves
from supernet.space import Genomes

PATH_STEPS = 9  # bisections of a repair: finer than one step of a path of about 200 steps


class Region:
    """The architectures within every limit, with one of them per resolution, its anchor, where one is known.

    allowed: (R,) whether a resolution is allowed.
    constraints: the L limits, each on a sum. A limit on a peak is a limit on how many parts exceed it
        (`PeakCost.excess`).
    choices: the open choices of each gene; the costs of other architectures are unknown, which no limit allows.
    anchors: (R, G) canonical genomes. anchored: (R,) whether the resolution has an anchor; other rows mean nothing.
    """

    def __init__(
        self,
        tables: CostTables,
        constraints: Sequence[Constraint] = (),
        resolution: int | None = None,
        max_resolution: int | None = None,
        choices: Choices | None = None,
    ) -> None:
        """Without constraints the smallest architecture of each resolution is its anchor; else there are no anchors.

        resolution: the only input side allowed. max_resolution: the largest one allowed. choices: the open ones, all
        unless given. Where some are excluded, a constraint is needed, and every constraint is on a cost without
        the entries that they exclude.

        Raises:
            ValueError: no resolution of the space is allowed.
        """
        space = tables.space
        self.tables = tables
        self.choices = choices or tables.choices
        self.allowed = allowed_resolutions(self.choices, resolution, max_resolution)
        sums = [SumConstraint(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, AdditiveCost)]
        peaks = [(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, PeakCost)]
        self.constraints = (*sums, *(SumConstraint(cost.excess(maximum), 1.0) for cost, maximum in peaks))
        self.anchors = np.zeros((len(space.resolutions), space.num_genes), np.int8)
        self.anchors[:, 0] = np.arange(len(space.resolutions))
        self.anchored: NDArray[np.bool_] = self.allowed & (not constraints)

    @cached_property
    def moves(self) -> Moves:
        """The moves among the open choices."""
        return Moves(self.choices) if self.choices.restricted else self.tables.moves

    @property
    def maxima(self) -> Floats:
        """(L,) the limits, in the order of `constraints`."""
        return np.array([constraint.max for constraint in self.constraints])

    def add_anchors(self, genomes: Genomes) -> None:
        """Make anchors of those of (N, G) genomes that are inside, at resolutions that have none yet."""
        for genome in genomes[self.contains(genomes)]:
            if not self.anchored[genome[0]]:
                self.anchors[genome[0]] = self.tables.space.canonical(genome)
                self.anchored[genome[0]] = True

    def costs(self, genomes: Genomes) -> Floats:
        """(N, L) the costs that `constraints` limit, of (N, G) genomes."""
        index = self.tables.index(genomes)
        columns = [constraint.cost.at(index, genomes[:, 0]) for constraint in self.constraints]
        return np.stack(columns, axis=1) if columns else np.zeros((len(genomes), 0))

    def contains(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N,) whether (N, G) genomes are within every limit and of an allowed resolution."""
        inside: NDArray[np.bool_] = (self.costs(genomes) <= self.maxima).all(1) & self.allowed[genomes[:, 0]]
        return inside

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """(N, G) canonical genomes inside: genomes that are inside stay, others move towards an anchor.

        1. An excluded choice becomes the nearest open one.
        2. A genome that is outside at a resolution without an anchor gets a random resolution that has one.
        3. Every genome outside walks to the anchor of its resolution: one gene moves by one open choice per step, in
           random order.
        4. Bisection finds a point of the walk that is inside, whose predecessor at the last precision is outside.
        """
        space = self.tables.space
        genomes = self.choices.nearest(genomes)
        infeasible_without_anchor = np.flatnonzero(~self.anchored[genomes[:, 0]] & ~self.contains(genomes))
        genomes[infeasible_without_anchor, 0] = rng.choice(
            np.flatnonzero(self.anchored), len(infeasible_without_anchor)
        )
        outside = np.flatnonzero(~self.contains(genomes))
        if not len(outside):
            return genomes
        ranks = self.choices.ranks
        start = ranks(genomes[outside]).astype(np.int16)
        goal = ranks(self.anchors[genomes[outside, 0]]).astype(np.int16)
        distance = np.abs(goal - start)
        times = rng.random((int(distance.max(initial=0)), *start.shape), np.float32)
        times[np.arange(len(times))[:, None, None] >= distance] = 2  # after the end: a step that the gene does not need
        low, high = np.zeros(len(start)), np.ones(len(start))
        for _ in range(PATH_STEPS):
            middle = (low + high) / 2
            inside = self.contains(self.choices.from_ranks(_walk(start, goal, times, middle)))
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        genomes[outside] = space.canonical(self.choices.from_ranks(_walk(start, goal, times, high)))
        return genomes


def _walk(
    start: NDArray[np.int16], goal: NDArray[np.int16], times: NDArray[np.float32], now: Floats
) -> NDArray[np.int8]:
    """(N, G) the points at times `now`, (N,), of walks from `start` to `goal`.

    times: (S, N, G) when each gene takes its s-th step.
    """
    steps = np.zeros(start.shape, np.int16)
    for time in times:
        steps += time <= now[:, None]
    walked: NDArray[np.int8] = (start + np.sign(goal - start) * steps).astype(np.int8)
    return walked
