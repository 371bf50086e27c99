"""The lowest value of one cost within limits on several costs: a multi-dimensional knapsack, solved with proofs.

1. Lower bounds. Multipliers add the limited costs to the objective, and variable elimination minimises the sum exactly
   (M. Fisher, "The Lagrangian relaxation method for solving integer programming problems", Management Science 27
   (1981)). Polyak's subgradient steps raise the bound a little; cutting planes raise it to its highest. A minimiser
   that is within the limits is a solution; one whose objective meets the bound is optimal.
2. Breadth-first search over partial genomes, for problems that step 1 leaves open. Genes are chosen in the reverse of
   the order in which they were eliminated, so the lowest completion of a partial genome is known exactly, for each cost
   and for the weighted sum of all costs. A partial genome is pruned when one of these exceeds what is allowed, and when
   another one with the same completions has no larger sum of any cost (G. Nemhauser, Z. Ullmann, "Discrete dynamic
   programming and capital allocation", Management Science 15 (1969)).
3. A pass keeps a limited number of partial genomes per gene. Wider passes follow until nothing was left out that could
   be better (the solution is proven), or until the nodes are spent (it is not).

A worked example: three items of values 6, 5, 4 and weights 5, 4, 3. Each is taken or left; the weight taken is at most
8, and the value left behind is to be as low as possible.

- The multiplier 1.2 charges 1.2 per unit of weight. The cheapest choice per item costs min(6, 1.2 * 5) = 6,
  min(5, 1.2 * 4) = 4.8 and min(4, 1.2 * 3) = 3.6. Minus 1.2 * 8 for the weight allowed, the bound is 4.8.
- Taking items 1 and 3 weighs 8 and leaves 5 behind. The bound 4.8 does not rule out a better choice yet.
- The search does. Item 1 left: at least 6 is left behind, no better than 5. Item 1 taken and item 2 left: at least 5.
  Items 1 and 2 taken: weight 9. All three are pruned, so 5 is optimal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.cutting_planes import Planes
from evolution.elimination import Eliminated
from evolution.pareto import non_dominated
from supernet.space import Genomes

ROUNDING = 1e-9  # of a cost's largest value: a bound proves nothing unless it is off by more
STEPS = 6  # of the subgradient method
LARGEST = 64.0  # multiplier of cutting planes, for sums in units of about 1
CONVERGED = 1e-6  # of the objective's largest value: cutting planes end this close to the highest bound
WIDTHS = (64, 512, 4096)  # partial genomes that a pass keeps per gene
NARROW = 64  # kept per gene once the nodes are spent
COMPARED = 8_192  # partial genomes compared at once


@dataclass(frozen=True, eq=False)
class Knapsacks:
    """P problems over the same K costs, each at one resolution. Problems form Q groups with one solution each.

    resolutions: (P,) each problem's choice of gene 0.
    objectives: (P,) the cost that each problem minimises.
    limits: (P, K) the largest allowed value of each cost; inf for no limit.
    groups: (P,) the group of each problem. A group's solution is the best one of its problems.
    num_groups: Q.
    blocked: (R, F') entries of the tables, laid out by `Elimination.condition`, that no architecture may have. Entries
        of unknown cost must be among them.
    any_feasible: stop at any architecture within the limits instead of minimising.
    """

    resolutions: NDArray[np.intp]
    objectives: NDArray[np.intp]
    limits: Floats
    groups: NDArray[np.intp]
    num_groups: int
    blocked: NDArray[np.bool_]
    any_feasible: bool = False


@dataclass(frozen=True, eq=False)
class Solutions:
    """What was found for Q groups.

    values: (Q,) the lowest cost found; inf for none. genomes: (Q, G) the architecture that has it.
    bounds: (Q,) no architecture has a lower cost; equal to `values` where that is proven.
    proven: (Q,) whether no architecture has less (or, for `any_feasible`, whether the question is decided).
    multipliers: (P, K) of the best bounds; a start for similar problems. nodes: partial genomes visited.
    """

    values: Floats
    genomes: Genomes
    bounds: Floats
    proven: NDArray[np.bool_]
    multipliers: Floats
    nodes: int


def solve(
    tables: CostTables,
    costs: Sequence[AdditiveCost],
    knapsacks: Knapsacks,
    max_nodes: int,
    multipliers: Floats | None = None,
) -> Solutions:
    """Search until every solution is proven or `max_nodes` partial genomes were visited.

    multipliers: (P, K) to start from, such as those of similar problems.
    """
    solver = Solver(tables, costs, knapsacks, multipliers)
    solver.raise_bounds()
    nodes = 0
    for width in WIDTHS:
        if nodes >= max_nodes or not solver.is_open:
            break
        nodes += solver.search(width, max_nodes - nodes)
    return solver.solutions(nodes)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """The data of P problems over K costs that a search only reads.

    values: (P, K, F') table values, 0 where blocked. blocked: (P, F').
    scale, offset: (P, K) from a sum of table values to a cost. unit: (P, K) the largest possible sum, or 1 where that
    is not positive; sums are compared in this unit. largest: (P, K) the same sum; -inf where every architecture is
    blocked.
    """

    values: Floats
    blocked: NDArray[np.bool_]
    scale: Floats
    offset: Floats
    unit: Floats
    largest: Floats

    @classmethod
    def gather(cls, tables: CostTables, costs: Sequence[AdditiveCost], knapsacks: Knapsacks) -> Self:
        blocked, rows = knapsacks.blocked, knapsacks.resolutions
        conditioned = np.stack([np.where(blocked, 0.0, cost.conditioned) for cost in costs])  # (K, R, F')
        negated = np.where(blocked, np.inf, -conditioned)
        lowest = tables.elimination.eliminate(negated.reshape(-1, negated.shape[-1])).minimum
        largest = -lowest.reshape(len(costs), -1).T[rows]
        return cls(
            values=conditioned[:, rows].swapaxes(0, 1),
            blocked=blocked[rows],
            scale=np.stack([cost.scale[rows] for cost in costs], axis=1),
            offset=np.stack([cost.offset[rows] for cost in costs], axis=1),
            unit=np.where(np.isfinite(largest) & (largest > 0), largest, 1.0),
            largest=largest,
        )


@dataclass(frozen=True, eq=False)
class _Beam:
    """n partial genomes of A open problems.

    problems: (n,) the problem of each, below A. genomes: (n, G), 0 for genes not chosen yet.
    bounds: (n, K + 1) sums of table values of the best completion: for each cost alone, then for the weighted sum.
    """

    problems: NDArray[np.intp]
    genomes: Genomes
    bounds: Floats

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, rows: NDArray[Any]) -> "_Beam":
        return _Beam(self.problems[rows], self.genomes[rows], self.bounds[rows])


class Solver:
    """The state of a search: what is allowed, which problems are open, the bounds, and the best solutions so far."""

    def __init__(
        self,
        tables: CostTables,
        costs: Sequence[AdditiveCost],
        knapsacks: Knapsacks,
        multipliers: Floats | None = None,
    ) -> None:
        self._tables, self._costs, self._elimination = tables, tuple(costs), tables.elimination
        self._knapsacks, self._arrays = knapsacks, _Arrays.gather(tables, costs, knapsacks)
        arrays, limits = self._arrays, knapsacks.limits
        self._objective = np.arange(len(limits)), knapsacks.objectives  # of (P, K) arrays: each problem's objective
        self._values = np.full(knapsacks.num_groups, np.inf)
        self._genomes = np.zeros((knapsacks.num_groups, tables.space.num_genes), np.int8)
        self._open: NDArray[np.bool_] = np.asarray(np.isfinite(arrays.largest).all(1))  # (P,)
        # (P, K) the largest sum of table values allowed; the objective's falls below the best solution.
        self._caps = np.minimum((limits - arrays.offset) / arrays.scale, arrays.largest) + ROUNDING * arrays.unit
        self._caps[~self._open] = 0
        # (P, K) of the best bounds, for sums in `unit`.
        self._multipliers = np.zeros(limits.shape) if multipliers is None else multipliers.copy()
        self._multipliers[self._objective] = 1
        self._bound = np.full(len(limits), -np.inf)  # (P,) of the objective's sum, in `unit`

    @property
    def is_open(self) -> bool:
        """Whether some problem may have a better solution than the best so far."""
        return bool(self._open.any())

    def solutions(self, nodes: int) -> Solutions:
        """The best so far. nodes: visited so far."""
        knapsacks, arrays = self._knapsacks, self._arrays
        proven = np.bincount(knapsacks.groups[self._open], minlength=len(self._values)) == 0
        bounds = self._values.copy()
        below = (self._bound * arrays.unit[self._objective]) * arrays.scale[self._objective]
        below += arrays.offset[self._objective]
        np.minimum.at(bounds, knapsacks.groups[self._open], below[self._open])
        return Solutions(self._values, self._genomes, bounds, np.asarray(proven), self._multipliers, nodes)

    def consider(self, genomes: Genomes) -> Floats:
        """Record those of (N, G) genomes that are better than the best so far. Returns (N, K) sums of table values."""
        index = self._tables.index(genomes)
        sums = np.stack([cost.values[index].sum(1) for cost in self._costs], axis=1)
        columns = zip(self._costs, sums.T, strict=True)
        costs = np.stack([cost.calibrate(column, genomes[:, 0]) for cost, column in columns], axis=1)
        knapsacks, arrays = self._knapsacks, self._arrays
        feasible = (costs[:, None] <= knapsacks.limits).all(2) & (genomes[:, :1] == knapsacks.resolutions)  # (N, P)
        reached = np.where(feasible, costs[:, knapsacks.objectives], np.inf)
        for group in range(len(self._values)):
            members = knapsacks.groups == group
            lowest = reached[:, members].min(1, initial=np.inf)
            if (value := float(lowest.min())) < self._values[group]:
                self._values[group], self._genomes[group] = value, genomes[lowest.argmin()]
                objective = members.nonzero()[0], knapsacks.objectives[members]
                cap = (value - arrays.offset[objective]) / arrays.scale[objective]
                self._caps[objective] = cap - ROUNDING * arrays.unit[objective]
                self._open[members] &= not knapsacks.any_feasible
        return sums

    def raise_bounds(self) -> None:
        """Subgradient steps on the multipliers; their length aims at the best solution so far (B. Polyak, 1969)."""
        multipliers = self._multipliers.copy()
        for _ in range(STEPS):
            problems = np.flatnonzero(self._open)
            if not len(problems):
                return
            objective = np.arange(len(problems)), self._knapsacks.objectives[problems]
            current = multipliers[problems]
            bound, _, violation = self._relax(problems, current)
            violation[objective] = 0
            violation[(current == 0) & (violation < 0)] = 0
            length = (violation**2).sum(1)
            target = (self._caps[problems] / self._arrays.unit[problems])[objective]
            gap = np.maximum(target - bound, 0)
            step = np.divide(gap, length, out=np.zeros_like(gap), where=length > 0)
            multipliers[problems] = np.maximum(0, current + step[:, None] * violation)

    def tighten_bounds(self, steps: int) -> None:
        """Steps of the cutting-plane method, at most so many; it ends near the highest bound of every open problem."""
        num_costs = self._multipliers.shape[1]
        planes = {problem: Planes(num_costs - 1, LARGEST) for problem in np.flatnonzero(self._open).tolist()}
        trials = self._multipliers.copy()
        for _ in range(steps):
            problems = np.array([problem for problem in planes if self._open[problem]], np.intp)
            if not len(problems):
                return
            _, sums, violations = self._relax(problems, trials[problems])
            for problem, total, violation in zip(problems.tolist(), sums, violations, strict=True):
                objective = self._knapsacks.objectives[problem]
                limited = np.arange(num_costs) != objective
                planes[problem].add(total[objective], violation[limited])
                trials[problem, limited], height = planes[problem].highest()
                if height - self._bound[problem] <= CONVERGED:
                    del planes[problem]

    def minimisers(self, factors: Floats) -> Genomes:
        """(P * T, G) genomes that minimise the Lagrangians of P problems at their multipliers times (T,) factors.

        A problem whose limits have no price yet, since none of them matters, gets a price of 1 for each.
        """
        limited = np.ones(self._multipliers.shape, bool)
        limited[self._objective] = False
        free: NDArray[np.bool_] = ~np.any(self._multipliers * limited, axis=1, keepdims=True)
        prices = np.where(limited & free, 1.0, self._multipliers)
        scaled = np.where(limited[:, None], prices[:, None] * factors[:, None], prices[:, None])  # (P, T, K)
        problems = np.repeat(np.arange(len(prices)), len(factors))
        weights = scaled.reshape(-1, prices.shape[1]) / self._arrays.unit[problems]
        genomes = self._elimination.argmin(self._elimination.eliminate(self._weighted(problems, weights)))
        genomes[:, 0] = self._knapsacks.resolutions[problems]
        return genomes

    def _relax(self, problems: NDArray[np.intp], multipliers: Floats) -> tuple[Floats, Floats, Floats]:
        """Minimise the Lagrangian of problems (A,) at (A, K) multipliers, and close those that its bound closes.

        Returns, for sums in `unit`, the (A,) bounds, and of the minimisers the (A, K) sums and the (A, K) sums above
        the caps.
        """
        objective = np.arange(len(problems)), self._knapsacks.objectives[problems]
        unit = self._arrays.unit[problems]
        caps = self._caps[problems] / unit
        eliminated = self._elimination.eliminate(self._weighted(problems, multipliers / unit))
        allowance = multipliers * caps
        bound = eliminated.minimum - allowance.sum(1) + allowance[objective]
        better = bound > self._bound[problems]
        self._bound[problems[better]], self._multipliers[problems[better]] = bound[better], multipliers[better]
        genomes = self._elimination.argmin(eliminated)
        genomes[:, 0] = self._knapsacks.resolutions[problems]
        sums = self.consider(genomes) / unit
        self._close()
        return bound, sums, sums - caps

    def _close(self) -> None:
        """Close the problems whose bound is no better than the best solution so far."""
        self._open &= self._bound <= (self._caps / self._arrays.unit)[self._objective]

    def search(self, width: int, max_nodes: int) -> int:
        """One pass over the open problems that keeps `width` partial genomes per gene. Returns the nodes visited."""
        problems = np.flatnonzero(self._open)
        weights = self._multipliers[problems] / self._arrays.unit[problems]  # (A, K) of table values
        eliminated, caps = self._eliminate(problems, weights), self._weighted_caps(problems, weights)
        genomes = np.zeros((len(problems), self._elimination.num_genes), np.int8)
        genomes[:, 0] = self._knapsacks.resolutions[problems]
        beam = _Beam(np.arange(len(problems)), genomes, eliminated.minimum.reshape(-1, caps.shape[1]))
        groups = self._knapsacks.groups[problems]
        objective = problems, self._knapsacks.objectives[problems]
        size = self._arrays.unit[objective] * self._arrays.scale[objective]  # (A,) a unit of the objective, as a cost
        left_out = np.full(len(problems), np.inf)  # (A,) the lowest weighted bound of what was not kept
        nodes = 0
        for level in reversed(range(len(self._elimination.buckets))):
            beam = self._extend(level, beam, eliminated, caps)
            nodes += len(beam)
            keep = width if nodes < max_nodes else NARROW
            if len(beam) > NARROW:
                beam = beam[self._undominated(level, beam)]
            if len(beam) > keep:
                excess = (beam.bounds[:, -1] - caps[beam.problems, -1]) * size[beam.problems]
                beam_groups = groups[beam.problems]
                promising = _lowest_per_group(beam_groups, excess, max(1, keep // len(np.unique(beam_groups))))
                np.minimum.at(left_out, beam.problems[~promising], beam.bounds[~promising, -1])
                beam = beam[promising]
            if not len(beam):
                break
        else:
            self.consider(beam.genomes)
        # What was left out is all that may be better. Its weighted bound, less what the limits allow, bounds the rest.
        caps = self._caps[problems] * weights
        unlimited = np.arange(len(problems)), objective[1]
        caps[unlimited] = 0
        self._bound[problems] = np.maximum(self._bound[problems], left_out - caps.sum(1))
        self._close()
        return nodes

    def front(self, pair: tuple[int, int], known: Genomes, width: int) -> tuple[Genomes, Floats]:
        """The whole front of two costs within all limits, if no more than `width` partial genomes are needed per gene.

        pair: which of the K costs. known: (N, G) genomes within the limits, the more of the front the faster.
        Returns (M, G) genomes that, with the known ones, hold the front; and (L, 2) points that no architecture left
        out is better than in any of the two costs. Without these, the front is whole.
        """
        columns, problems = list(pair), np.flatnonzero(self._open)
        weights = self._multipliers[problems] / self._arrays.unit[problems]
        eliminated, caps = self._eliminate(problems, weights), self._weighted_caps(problems, weights)
        scale, offset = (array[problems][:, columns] for array in (self._arrays.scale, self._arrays.offset))
        genomes = np.zeros((len(problems), self._elimination.num_genes), np.int8)
        genomes[:, 0] = self._knapsacks.resolutions[problems]
        beam = _Beam(np.arange(len(problems)), genomes, eliminated.minimum.reshape(-1, caps.shape[1]))
        index = self._tables.index(known)
        stairs = np.stack([self._costs[column].at(index, known[:, 0]) for column in pair], axis=1)
        stairs = stairs[np.argsort(stairs[:, 0])]
        lowest = np.minimum.accumulate(np.append(np.inf, stairs[:, 1]))  # of the second cost, up to one in the first
        left_out = [np.zeros((0, 2))]
        for level in reversed(range(len(self._elimination.buckets))):
            beam = self._extend(level, beam, eliminated, caps)
            best = beam.bounds[:, columns] * scale[beam.problems] + offset[beam.problems]  # (n, 2) as costs
            beaten = lowest[np.searchsorted(stairs[:, 0], best[:, 0], side="right")] <= best[:, 1]
            beam, best = beam[~beaten], best[~beaten]
            rows = self._undominated(level, beam)
            if len(rows) > width:
                rows = rows[np.lexsort((best[rows, 1], beam.problems[rows]))]
                positions = np.unique(np.linspace(0, len(rows) - 1, width).astype(np.intp))
                others = best[np.delete(rows, positions)]
                left_out.append(others[non_dominated(others)])
                rows = rows[positions]
            beam = beam[rows]
            if not len(beam):
                break
        return beam.genomes, np.concatenate(left_out)

    def _extend(self, level: int, beam: _Beam, eliminated: Eliminated, caps: Floats) -> _Beam:
        """Every choice of this level's gene for every partial genome, unless a bound exceeds its cap, (A, K + 1)."""
        bucket, sums = self._elimination.buckets[level], caps.shape[1]
        rows: Any = (
            beam.problems[:, None] * sums + np.arange(sums),
            *(beam.genomes[:, gene, None] for gene in bucket.scope),
        )
        regrets = eliminated.tables[level][rows] - eliminated.messages[level][rows][..., None]
        bounds = beam.bounds[..., None] + regrets  # (n, K + 1, choices)
        parents, choices = np.nonzero((bounds <= caps[beam.problems][..., None]).all(1))
        genomes = beam.genomes[parents]
        genomes[:, bucket.gene] = choices
        return _Beam(beam.problems[parents], genomes, bounds[parents, :, choices])

    def _undominated(self, level: int, beam: _Beam) -> NDArray[np.intp]:
        """The partial genomes that no other one of their problem dominates: with equal completions, in every sum.

        Of partial genomes with equal sums and equal completions, one stays. With more than three sums they are compared
        in pieces, since comparing all takes quadratic time; some dominated ones may then stay.
        """
        if not len(beam):
            return np.zeros(0, np.intp)
        frontier = self._elimination.frontiers[level]  # the chosen genes that completions depend on
        keys = beam.problems.copy()
        for gene in frontier:
            keys = keys * self._tables.space.num_choices[gene] + beam.genomes[:, gene]
        sums = beam.bounds[:, :-1]
        if sums.shape[1] == 2:
            return _undominated_pairs(keys, sums)
        order = np.lexsort((beam.bounds[:, -1], keys))
        groups = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
        piece = COMPARED if sums.shape[1] > 3 else len(order)
        pieces = [group[start : start + piece] for group in groups for start in range(0, len(group), piece)]
        return np.sort(np.concatenate([rows[non_dominated(sums[rows])] for rows in pieces]))

    def _weighted(self, problems: NDArray[np.intp], weights: Floats) -> Floats:
        """(A, F') the weighted sum of the tables of problems (A,); inf where blocked."""
        total: Floats = np.einsum("ak,akf->af", weights, self._arrays.values[problems])
        total[self._arrays.blocked[problems]] = np.inf
        return total

    def _eliminate(self, problems: NDArray[np.intp], weights: Floats) -> Eliminated:
        """A * (K + 1) eliminations for problems (A,): the tables of every cost, then their weighted sum."""
        single = np.where(self._arrays.blocked[problems, None], np.inf, self._arrays.values[problems])
        tables = np.concatenate([single, self._weighted(problems, weights)[:, None]], axis=1)
        return self._elimination.eliminate(tables.reshape(-1, tables.shape[-1]))

    def _weighted_caps(self, problems: NDArray[np.intp], weights: Floats) -> Floats:
        """(A, K + 1) the largest sums allowed for problems (A,): of every cost, then of the weighted sum."""
        caps = self._caps[problems]
        return np.column_stack([caps, (weights * caps).sum(1)])


def _undominated_pairs(keys: NDArray[np.intp], sums: Floats) -> NDArray[np.intp]:
    """The rows of (n, 2) sums that no other row with the same key dominates, ascending; of equal rows the first."""
    order = np.lexsort((sums[:, 1], sums[:, 0], keys))
    first, second = keys[order], sums[order, 1]
    # A row stays if its second sum is below all before it. Ranks make one running minimum serve all keys.
    rank = np.unique(second, return_inverse=True)[1] + (first.max() - first) * len(second)
    lowest = np.minimum.accumulate(rank)
    return np.sort(order[np.append(True, rank[1:] < lowest[:-1])])


def _lowest_per_group(groups: NDArray[np.intp], values: Floats, count: int) -> NDArray[np.bool_]:
    """(n,) whether a value is one of the `count` lowest of its group."""
    order = np.lexsort((values, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    mask = np.zeros(len(groups), bool)
    mask[order[rank < count]] = True
    return mask
