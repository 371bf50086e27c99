"""Hard limits on costs: which architectures are within them, exactly, and what to say when none is.

A limit on a sum bounds the sum of some tables' values; one on a peak forbids single entries of the tables. The floor of
one limit is exact by variable elimination. Whether several limits can hold together, and the nearest budget of each
with the others held, is decided by `evolution.knapsack`, which proves its answers or says that it could not: after so
many nodes a refusal is `NotProven` and not `Infeasible`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, Cost, CostTables, PeakCost
from evolution.knapsack import Knapsack
from evolution.limits import Constraint, Sum, allowed_resolutions
from evolution.refusal import Infeasible, Nearest, NotProven, Refused, _exact, _rounded_up
from supernet.space import Genomes

MAX_NODES = 15_000  # partial genomes visited to decide a request, and as many for its nearest budgets: some 5 ms
PATH_STEPS = 9  # bisections of a repair: finer than one step of a path of some 200


class Region:
    """The architectures within every limit, and for each resolution one of them, its anchor.

    constraints: the limits as sums: of one on a peak, that no part exceeds it (`PeakCost.excess`).
    anchors: (R, G) canonical; valid where `anchored`, (R,), says that this resolution has an architecture within the
    limits.
    """

    def __init__(
        self,
        tables: CostTables,
        constraints: Sequence[Constraint],
        resolution: int | None = None,
        max_resolution: int | None = None,
        max_nodes: int = MAX_NODES,
        known: Genomes | None = None,
    ) -> None:
        """Find out whether there are any.

        resolution: when given, the only input side allowed. max_resolution: when given, the largest. known: (N, G)
        architectures that serve as anchors where the nodes were spent without finding any.

        Raises:
            Infeasible, NotProven: there is none, or none was found. ValueError: no resolution of the space is allowed.
        """
        space = tables.space
        self.tables, self._asked, self._max_nodes = tables, tuple(constraints), max_nodes
        self._open = allowed_resolutions(space, resolution, max_resolution)
        self._where = f"of {space.name}" + (f" at resolution {resolution}" if resolution else "")
        self._where += f" up to resolution {max_resolution}" if max_resolution and not resolution else ""
        self._sums = [Sum(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, AdditiveCost)]
        self._peaks = [(limit.cost, limit.max) for limit in constraints if isinstance(limit.cost, PeakCost)]
        self.constraints = (*self._sums, *(Sum(cost.excess(most), 1.0) for cost, most in self._peaks))
        self.anchors = np.zeros((len(space.resolutions), space.num_genes), np.int8)
        self.anchors[:, 0] = np.arange(len(space.resolutions))
        self.anchored = self._open & (not constraints)
        if constraints:
            self._find_anchors(known)

    @property
    def maxima(self) -> Floats:
        """(L,) the limits, in the order of `constraints`."""
        return np.array([constraint.max for constraint in self.constraints])

    @cached_property
    def _floors(self) -> Floats:
        """(L, R) the least each limited cost can be, alone, as asked; inf at resolutions that are not allowed."""
        return np.stack([np.where(self._open, constraint.cost.floors, np.inf) for constraint in self._asked])

    @property
    def _within(self) -> NDArray[np.bool_]:
        """(L, R) whether each limit can be met alone."""
        met: NDArray[np.bool_] = self._floors <= np.array([constraint.max for constraint in self._asked])[:, None]
        return met

    @property
    def floors(self) -> dict[str, float]:
        """The least each limited cost can be, alone, by name of the cost; inf where it cannot be predicted at all."""
        if not self._asked:
            return {}
        names = [constraint.cost.name for constraint in self._asked]
        return dict(zip(names, self._floors.min(1).tolist(), strict=True))

    def anchor(self, genomes: Genomes) -> None:
        """Remember those of (N, G) genomes that are within the limits, at resolutions that have no anchor yet."""
        for genome in genomes[self.contains(genomes)]:
            if not self.anchored[genome[0]]:
                self.anchors[genome[0]] = self.tables.space.canonical(genome)
                self.anchored[genome[0]] = True

    def costs(self, genomes: Genomes) -> Floats:
        """(N, L) the costs of `constraints` of (N, G) genomes."""
        index = self.tables.index(genomes)
        columns = [constraint.cost.at(index, genomes[:, 0]) for constraint in self.constraints]
        return np.stack(columns, axis=1) if columns else np.zeros((len(genomes), 0))

    def contains(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N,) whether (N, G) genomes are within every limit and of an allowed resolution."""
        inside: NDArray[np.bool_] = (self.costs(genomes) <= self.maxima).all(1) & self._open[genomes[:, 0]]
        return inside

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """(N, G) canonical genomes within every limit: those given, the others moved towards the anchor.

        A genome outside the limits, at a resolution without an anchor, gets a random one that has an anchor. Then it
        walks to the anchor of its resolution, one step of one gene at a time in random order, and the walk is bisected
        for a point that is inside while an earlier one is not.
        """
        space = self.tables.space
        genomes = space.canonical(genomes)
        homeless = np.flatnonzero(~self.anchored[genomes[:, 0]] & ~self.contains(genomes))
        genomes[homeless, 0] = rng.choice(np.flatnonzero(self.anchored), len(homeless))
        outside = np.flatnonzero(~self.contains(genomes))
        if not len(outside):
            return genomes
        start = genomes[outside].astype(np.int16)
        goal = self.anchors[start[:, 0]].astype(np.int16)
        distance = np.abs(goal - start)
        order = rng.random((int(distance.max(initial=0)), *start.shape), np.float32)
        order[np.arange(len(order))[:, None, None] >= distance] = 2  # steps that a gene need not take
        low, high = np.zeros(len(start)), np.ones(len(start))
        for _ in range(PATH_STEPS):
            middle = (low + high) / 2
            inside = self.contains(_walk(start, goal, order, middle))
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        genomes[outside] = space.canonical(_walk(start, goal, order, high))
        return genomes

    # Whether there is one, and what to say if not.

    def _find_anchors(self, known: Genomes | None) -> None:
        """An anchor for every resolution that has an architecture within the limits, as far as the nodes reach."""
        for constraint in self._asked:
            self.anchor(constraint.cost.cheapest)
        complete = True
        rows = np.flatnonzero(self._within.all(0) & ~self.anchored)
        if len(self._asked) > 1 and len(rows):
            costs, limits = self._bounded
            tightest = np.stack([cost.floors[rows] for cost in costs]) / limits[:, None]
            search = self._knapsack(
                rows,
                tightest.argmax(0),
                np.tile(limits, (len(rows), 1)),
                np.arange(len(rows)),
                self._blocked(),
                num_groups=len(rows),
                first=True,
            )
            search.solve(self._max_nodes)
            self.anchor(search.genomes[np.isfinite(search.value)])
            complete = bool(search.proven.all())
        if known is not None and not self.anchored.any():
            self.anchor(known)
        if self.anchored.any():
            return
        nearest, genomes = self._nearest()
        self.anchor(genomes)
        if not self.anchored.any():
            raise self._refusal(complete, nearest, genomes)

    @property
    def _bounded(self) -> tuple[list[AdditiveCost], Floats]:
        """K sums, and (K,) the most each may be: those limited, or FLOPs without a limit where none is."""
        if not self._sums:
            return [self.tables.flops_cost], np.array([np.inf])
        return [limit.cost for limit in self._sums], np.array([limit.max for limit in self._sums])

    def _blocked(self, but: PeakCost | None = None) -> NDArray[np.bool_]:
        """(R, F') which entries no architecture may have: of an unknown cost, or above the limit on a peak.

        but: a peak whose limit does not count.
        """
        unknown = [np.isinf(cost.conditioned) for cost in self._bounded[0]]
        above = [cost.conditioned > most for cost, most in self._peaks if cost is not but]
        blocked: NDArray[np.bool_] = np.logical_or.reduce(unknown + above)
        return blocked

    def _knapsack(
        self,
        rows: NDArray[np.intp],
        sought: NDArray[np.intp],
        limits: Floats,
        groups: NDArray[np.intp],
        blocked: NDArray[np.bool_],
        **options: Any,
    ) -> Knapsack:
        """A knapsack over `_bounded`."""
        return Knapsack(
            self.tables,
            self._bounded[0],
            rows=rows,
            sought=sought,
            limits=limits,
            groups=groups,
            blocked=blocked,
            **options,
        )

    def _nearest(self) -> tuple[dict[str, Nearest], Genomes]:
        """By name of the limited cost the nearest budget, and (N, G) the architectures that reach those found."""
        found = {**self._nearest_sums(), **{cost.name: self._nearest_peak(cost) for cost, _ in self._peaks}}
        names = [constraint.cost.name for constraint in self._asked]
        genomes = [genome for name in names if (genome := found[name][1]) is not None]
        nothing = np.zeros((0, self.tables.space.num_genes), np.int8)
        return {name: found[name][0] for name in names}, np.stack(genomes) if genomes else nothing

    def _others_met(self, cost: Cost) -> NDArray[np.intp]:
        """The resolutions, as gene 0, at which every limit but that on one cost can be met alone."""
        others = [constraint.cost is not cost for constraint in self._asked]
        return np.flatnonzero(self._within[others].all(0) & self._open)

    def _nearest_sums(self) -> dict[str, tuple[Nearest, Genomes | None]]:
        """The nearest budgets of sums."""
        if not self._sums:
            return {}
        costs, maxima = self._bounded
        rows = [self._others_met(cost) for cost in costs]
        sought = np.repeat(np.arange(len(costs)), [len(some) for some in rows])
        limits = np.where(sought[:, None] == np.arange(len(costs)), np.inf, maxima)
        rows_of = np.concatenate(rows)
        search = self._knapsack(rows_of, sought, limits, sought, self._blocked(), num_groups=len(costs))
        search.solve(self._max_nodes)
        result: dict[str, tuple[Nearest, Genomes | None]] = {}
        for number, cost in enumerate(costs):
            value = float(search.value[number])
            genome = search.genomes[number] if math.isfinite(value) else None
            result[cost.name] = Nearest(value, bool(search.proven[number])), genome
        return result

    def _nearest_peak(self, peak: PeakCost) -> tuple[Nearest, Genomes | None]:
        """The nearest budget of a peak: a bisection of its values, each of which forbids what is above it."""
        maxima, rows = self._bounded[1], self._others_met(peak)
        if not len(rows):
            return Nearest(math.inf, True), None
        values, nodes, proven, found = np.unique(peak.conditioned[rows]), self._max_nodes, True, None
        low, high = int(np.searchsorted(values, peak.floors[rows].min())) - 1, len(values)
        first = [low + 1, high - 1]  # mostly the floor is it, or nothing helps
        multipliers = None
        while low + 1 < high:
            middle = first.pop(0) if first else (low + high) // 2
            search = self._knapsack(
                rows,
                np.zeros(len(rows), np.intp),
                np.tile(maxima, (len(rows), 1)),
                np.zeros(len(rows), np.intp),
                self._blocked(but=peak) | (peak.conditioned > values[middle]),
                num_groups=1,
                first=True,
                multipliers=multipliers,
            )
            nodes -= search.solve(nodes)
            multipliers = search.multipliers
            if np.isfinite(search.value[0]):
                found = search.genomes[0]
                high = int(np.searchsorted(values, peak(search.genomes)[0]))
            else:
                proven &= bool(search.proven[0])
                low = middle
        return Nearest(math.inf if found is None else float(values[high]), proven), found

    def _refusal(self, complete: bool, nearest: Mapping[str, Nearest], genomes: Genomes) -> Refused:
        """What to raise when there is no anchor.

        complete: whether that is proven. genomes: (N, G) what is within all limits but one.
        """
        space, limits = self.tables.space, {c.cost.name: c.max for c in self._asked}
        complete |= any(near.proven and near.value > limits[name] for name, near in nearest.items())
        costs = [constraint.cost for constraint in self._asked]
        maxima = np.array(list(limits.values()))
        candidates = genomes if len(genomes) else np.concatenate([cost.cheapest[self._open] for cost in costs])
        needed = np.stack([cost(candidates) for cost in costs], axis=1)  # (N, L)
        closest = int((needed / maxima).max(1).argmin())
        error = Infeasible if complete else NotProven
        return error(
            self._reason(complete, limits, nearest),
            floors=self.floors,
            nearest=nearest,
            limits=limits,
            smallest=space.decode(space.canonical(candidates[closest])),
            costs=dict(zip(limits, needed[closest].tolist(), strict=True)),
        )

    def _reason(self, complete: bool, limits: Mapping[str, float], nearest: Mapping[str, Nearest]) -> str:
        """A refusal in words: the limit furthest below its floor, or that several fail together, and what to raise."""
        floors = self.floors
        worst = max(limits, key=lambda name: floors[name] / limits[name])
        if math.isinf(floors[worst]):
            return f"{worst} cannot be predicted for any architecture {self._where}; measure the device there first"
        if floors[worst] > limits[worst]:
            reason = (
                f"{worst} is limited to {_exact(limits[worst])}, and no architecture {self._where} is below "
                f"{_rounded_up(floors[worst])}; "
            )
            if math.isfinite(least := nearest[worst].value):
                return f"{reason}raise the limit to at least {_rounded_up(least)}"
            return f"{reason}raising it alone is not enough, for the other limits cannot be met together either"
        together = ", ".join(f"{name} {_exact(value)}" for name, value in limits.items())
        raised = [
            f"{name} to at least {_rounded_up(near.value)}"
            for name, near in nearest.items()
            if math.isfinite(near.value)
        ]
        advice = f"raise {' or '.join(raised)}" if raised else "raise more than one"
        if complete:
            return (
                f"each of these limits can be met alone, but no architecture {self._where} meets them together: "
                f"{together}; {advice}"
            )
        return (
            f"no architecture {self._where} was found within all of these limits, nor proven impossible: {together}; "
            f"{advice}"
        )


def _walk(start: NDArray[np.int16], goal: NDArray[np.int16], order: NDArray[np.float32], time: Floats) -> Genomes:
    """(N, G) where walks from `start` to `goal` are at `time`, (N,): step s is taken at `order[s]`, (N, G)."""
    taken = np.zeros(start.shape, np.int16)
    for when in order:
        taken += when <= time[:, None]
    walked: Genomes = (start + np.sign(goal - start) * taken).astype(np.int8)
    return walked
