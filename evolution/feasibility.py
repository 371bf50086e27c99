"""Whether hard limits can be met, and if not, how far each one would have to be raised.

The lowest value of one cost alone, its floor, is exact by variable elimination. Whether several limits can be met
together, and the nearest budget of each one with the others unchanged, is decided by `evolution.knapsack`. It proves
its answers or says that it could not: after `max_nodes` nodes a refusal is `NotProven` instead of `Infeasible`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.choices import Choices
from evolution.costs import AdditiveCost, Cost, CostTables, PeakCost
from evolution.knapsack import Knapsacks, solve
from evolution.limits import Constraint
from evolution.refusal import Infeasible, Nearest, NotProven, Refused, describe_scope, explain
from evolution.region import Region
from supernet.space import Genomes

MAX_NODES = 15_000  # partial genomes visited to decide a request, and again for its nearest budgets: about 5 ms


def find_region(
    tables: CostTables,
    constraints: Sequence[Constraint],
    resolution: int | None = None,
    max_resolution: int | None = None,
    *,
    choices: Choices | None = None,
    max_nodes: int = MAX_NODES,
    known: Genomes | None = None,
) -> Region:
    """The region within limits, with an anchor at every resolution at which an architecture was found.

    resolution: the only input side allowed. max_resolution: the largest one allowed. choices: as in `Region`.
    known: (N, G) feasible architectures to fall back on when the feasibility search finds none.

    Raises:
        Infeasible, NotProven: no architecture is within the limits, or none was found. ValueError: no resolution of the
            space is allowed.
    """
    region = Region(tables, constraints, resolution, max_resolution, choices)
    if not constraints:
        return region
    for constraint in constraints:
        region.add_anchors(constraint.cost.cheapest)
    feasibility = Feasibility(tables, constraints, region.allowed, max_nodes)
    genomes, proven = feasibility.search(~region.anchored)
    region.add_anchors(genomes)
    if known is not None and not region.anchored.any():
        region.add_anchors(known)
    if not region.anchored.any():
        nearest, genomes = feasibility.nearest()
        region.add_anchors(genomes)
        if not region.anchored.any():
            scope = describe_scope(region.choices, resolution, max_resolution)
            raise feasibility.refusal(scope, proven, nearest, genomes)
    return region


class Feasibility:
    """Decides whether L limits can be met together at the allowed resolutions.

    floors: (L, R) the lowest value of each limited cost alone; inf at resolutions that are not allowed.
    met_alone: (L, R) whether each limit can be met alone.
    """

    def __init__(
        self, tables: CostTables, constraints: Sequence[Constraint], allowed: NDArray[np.bool_], max_nodes: int
    ) -> None:
        """constraints: at least one. allowed: (R,) whether a resolution is allowed."""
        self._tables, self._constraints, self._allowed, self._max_nodes = tables, constraints, allowed, max_nodes
        self._peaks = [(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, PeakCost)]
        sums = [(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, AdditiveCost)]
        # K sums and (K,) their limits; FLOPs without a limit where only peaks are limited.
        self._num_sums = len(sums)
        self._costs: list[AdditiveCost] = [cost for cost, _ in sums] or [tables.flops_cost]
        self._maxima = np.array([maximum for _, maximum in sums] or [np.inf])
        self.floors: Floats = np.stack([np.where(allowed, limit.cost.floors, np.inf) for limit in constraints])
        self.met_alone: NDArray[np.bool_] = self.floors <= np.array([limit.max for limit in constraints])[:, None]

    def search(self, resolutions: NDArray[np.bool_]) -> tuple[Genomes, bool]:
        """(N, G) an architecture within all limits for each of these resolutions, (R,), where one is found.

        Also whether it is proven that the other resolutions have none.
        """
        rows = np.flatnonzero(self.met_alone.all(0) & resolutions)
        if len(self._constraints) < 2 or not len(rows):
            return self._no_genomes, True
        tightest = np.stack([cost.floors[rows] for cost in self._costs]) / self._maxima[:, None]
        knapsacks = Knapsacks(
            resolutions=rows,
            objectives=tightest.argmax(0),
            limits=np.tile(self._maxima, (len(rows), 1)),
            groups=np.arange(len(rows)),
            num_groups=len(rows),
            blocked=self._blocked(self._peaks),
            any_feasible=True,
        )
        solutions = solve(self._tables, self._costs, knapsacks, self._max_nodes)
        return solutions.genomes[np.isfinite(solutions.values)], bool(solutions.proven.all())

    def nearest(self) -> tuple[dict[str, Nearest], Genomes]:
        """The nearest budget by name of the limited cost, and (N, G) the architectures that reach the finite ones."""
        by_name = {**self._nearest_sums(), **{cost.name: self._nearest_peak(cost) for cost, _ in self._peaks}}
        names = [limit.cost.name for limit in self._constraints]
        genomes = [genome for name in names if (genome := by_name[name][1]) is not None]
        return {name: by_name[name][0] for name in names}, np.stack(genomes) if genomes else self._no_genomes

    def refusal(self, scope: str, proven: bool, nearest: Mapping[str, Nearest], genomes: Genomes) -> Refused:
        """What to raise when no architecture was found.

        scope: the space and resolutions, in words. proven: whether the search has proven that there is none. genomes:
        (N, G) architectures within all limits but one.
        """
        space, costs = self._tables.space, [limit.cost for limit in self._constraints]
        limits = {limit.cost.name: limit.max for limit in self._constraints}
        floors = dict(zip(limits, self.floors.min(1).tolist(), strict=True))
        proven |= any(near.proven and near.value > limits[name] for name, near in nearest.items())
        candidates = genomes if len(genomes) else np.concatenate([cost.cheapest[self._allowed] for cost in costs])
        values = np.stack([cost(candidates) for cost in costs], axis=1)  # (N, L)
        # Quotients as differences of logarithms: a quotient by the smallest limits that there are would overflow.
        excess = np.log(np.maximum(values, np.finfo(np.float64).tiny)) - np.log(list(limits.values()))
        closest = int(excess.max(1).argmin())
        error = Infeasible if proven else NotProven
        return error(
            explain(scope, limits, floors, nearest, proven),
            floors=floors,
            nearest=nearest,
            limits=limits,
            smallest=space.decode(space.canonical(candidates[closest])),
            costs=dict(zip(limits, values[closest].tolist(), strict=True)),
        )

    @cached_property
    def _no_genomes(self) -> Genomes:
        return np.zeros((0, self._tables.space.num_genes), np.int8)

    def _blocked(self, peaks: Sequence[tuple[PeakCost, float]]) -> NDArray[np.bool_]:
        """(R, F') entries that no architecture may have: of unknown cost, or above the limit on one of these peaks."""
        unknown = [np.isinf(cost.conditioned) for cost in self._costs]
        above = [cost.conditioned > maximum for cost, maximum in peaks]
        blocked: NDArray[np.bool_] = np.logical_or.reduce(unknown + above)
        return blocked

    def _rest_met_alone(self, cost: Cost) -> NDArray[np.intp]:
        """The resolutions, as choices of gene 0, at which every limit on another cost can be met alone."""
        rest = [limit.cost is not cost for limit in self._constraints]
        return np.flatnonzero(self.met_alone[rest].all(0) & self._allowed)

    def _nearest_sums(self) -> dict[str, tuple[Nearest, Genomes | None]]:
        """The nearest budget of each sum: one group of problems per cost, each without a limit on that cost."""
        if not self._num_sums:
            return {}
        costs = range(len(self._costs))
        rows = [self._rest_met_alone(cost) for cost in self._costs]
        objectives = np.repeat(np.arange(len(costs)), [len(resolutions) for resolutions in rows])
        knapsacks = Knapsacks(
            resolutions=np.concatenate(rows),
            objectives=objectives,
            limits=np.where(objectives[:, None] == np.arange(len(costs)), np.inf, self._maxima),
            groups=objectives,
            num_groups=len(costs),
            blocked=self._blocked(self._peaks),
        )
        solutions = solve(self._tables, self._costs, knapsacks, self._max_nodes)
        result: dict[str, tuple[Nearest, Genomes | None]] = {}
        for number, cost in enumerate(self._costs):
            value = float(solutions.values[number])
            genome = solutions.genomes[number] if math.isfinite(value) else None
            result[cost.name] = Nearest(value, bool(solutions.proven[number])), genome
        return result

    def _nearest_peak(self, peak: PeakCost) -> tuple[Nearest, Genomes | None]:
        """The nearest budget of a peak, by bisection over its values: a budget forbids every entry above it."""
        rows = self._rest_met_alone(peak)
        if not len(rows):
            return Nearest(math.inf, True), None
        other_peaks = [(cost, maximum) for cost, maximum in self._peaks if cost is not peak]
        blocked = self._blocked(other_peaks)
        values = np.unique(peak.conditioned[rows])
        values = values[np.isfinite(values)]
        low, high = int(np.searchsorted(values, peak.floors[rows].min())) - 1, len(values)
        first_tries = [low + 1, high - 1]  # mostly the floor is the answer, or no budget is enough
        nodes, proven, genome, multipliers = self._max_nodes, True, None, None
        while low + 1 < high:
            middle = first_tries.pop(0) if first_tries else (low + high) // 2
            knapsacks = Knapsacks(
                resolutions=rows,
                objectives=np.zeros(len(rows), np.intp),
                limits=np.tile(self._maxima, (len(rows), 1)),
                groups=np.zeros(len(rows), np.intp),
                num_groups=1,
                blocked=blocked | (peak.conditioned > values[middle]),
                any_feasible=True,
            )
            solutions = solve(self._tables, self._costs, knapsacks, nodes, multipliers)
            nodes -= solutions.nodes
            multipliers = solutions.multipliers
            if np.isfinite(solutions.values[0]):
                genome = solutions.genomes[0]
                high = int(np.searchsorted(values, peak(solutions.genomes)[0]))
            else:
                proven &= bool(solutions.proven[0])
                low = middle
        return Nearest(math.inf if genome is None else float(values[high]), proven), genome
