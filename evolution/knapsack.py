"""The least of one cost within limits on several, exact wherever a proof is found: a multi-dimensional knapsack.

First the limits are added to the cost with multipliers, which gives a lower bound (M. Fisher, "The Lagrangian
relaxation method for solving integer programming problems", Management Science 27 (1981)), raised by Polyak's
subgradient steps; the genomes on the way are often within the limits, and one that meets the bound is the answer. What
stays open is searched breadth first over partial genomes. Genes are chosen in the reverse of the order in which they
were eliminated, so a partial genome's least completion is known exactly, for each cost and for the weighted sum of all.
Of partial genomes that no completion can tell apart one is kept. A pass keeps so many of the most promising ones;
passes grow wider until nothing that could be better was left out, or the nodes are spent, and then the answer is not
proven.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import AdditiveCost, CostTables
from evolution.elimination import Eliminated
from supernet.space import Genomes

ROUNDING = 1e-9  # of a cost's largest value: bounds may be this far off before they count as proof
STEPS = 6  # of the multipliers
WIDTHS = (64, 512, 4096)  # partial genomes that a pass keeps
NARROW = 64  # kept once the nodes are spent


class Knapsack:
    """P problems over the same K costs, each at one resolution; of each of Q groups of problems the least one counts.

    rows: (P,) the resolution of each, as gene 0. sought: (P,) which of the costs to make least. limits: (P, K) the most
    each cost may be; inf for none. groups: (P,) which group each is of. blocked: (R, F') which entries of the tables,
    as `Elimination.condition` lays them out, no architecture may have; those of unknown cost among them. first: any
    architecture within the limits will do. multipliers: (P, K) to start from, what similar problems ended with.

    value: (Q,) the least cost found, inf where none. genomes: (Q, G) what has it. proven: (Q,) whether nothing is less.
    """

    def __init__(
        self,
        tables: CostTables,
        costs: Sequence[AdditiveCost],
        *,
        rows: NDArray[np.intp],
        sought: NDArray[np.intp],
        limits: Floats,
        groups: NDArray[np.intp],
        num_groups: int,
        blocked: NDArray[np.bool_],
        first: bool = False,
        multipliers: Floats | None = None,
    ) -> None:
        self._tables, self._costs, self._elimination = tables, tuple(costs), tables.elimination
        self._rows, self._sought, self._limits, self._groups, self._first = rows, sought, limits, groups, first
        self._at_sought = np.arange(len(rows)), sought
        self.value = np.full(num_groups, np.inf)
        self.genomes = np.zeros((num_groups, tables.space.num_genes), np.int8)
        self._blocked = blocked[rows]  # (P, F')
        conditioned = np.stack([np.where(blocked, 0.0, cost.conditioned) for cost in costs])
        self._values = conditioned[:, rows].swapaxes(0, 1)  # (P, K, F'), 0 where blocked
        self._scale, self._offset = (
            np.stack([values[rows] for values in of], axis=1)  # (P, K)
            for of in ([cost.scale for cost in costs], [cost.offset for cost in costs])
        )
        negated = np.where(blocked, np.inf, -conditioned)
        least = self._elimination.eliminate(negated.reshape(-1, negated.shape[-1])).minimum
        largest = -least.reshape(len(costs), -1).T[rows]  # (P, K)
        self._open: NDArray[np.bool_] = np.asarray(np.isfinite(largest).all(1))
        self._unit = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
        self._caps = np.minimum((limits - self._offset) / self._scale, largest) + ROUNDING * self._unit
        self._caps[~self._open] = 0
        # (P, K) of the best bounds, for costs in units of their largest values
        self.multipliers = np.zeros(limits.shape) if multipliers is None else multipliers.copy()
        self.multipliers[self._at_sought] = 1
        self._bound = np.full(len(rows), -np.inf)  # (P,) of the sought sum, in units

    @property
    def proven(self) -> NDArray[np.bool_]:
        """(Q,) whether nothing is less than the value found."""
        left = np.bincount(self._groups[self._open], minlength=len(self.value))
        return np.asarray(left == 0)

    def solve(self, max_nodes: int) -> int:
        """Search until all is proven, or so many partial genomes were visited; how many that were."""
        self._raise_bounds()
        nodes = 0
        for width in WIDTHS:
            if nodes >= max_nodes or not self._open.any():
                break
            nodes += self._pass(width, max_nodes - nodes)
        return nodes

    def _consider(self, genomes: Genomes) -> Floats:
        """Keep those of (N, G) genomes that are better than what is known; (N, K) their sums of table values."""
        index = self._tables.index(genomes)
        sums = np.stack([cost.values[index].sum(1) for cost in self._costs], axis=1)
        columns = zip(self._costs, sums.T, strict=True)
        costs = np.stack([cost.calibrate(column, genomes[:, 0]) for cost, column in columns], axis=1)
        inside = (costs[:, None] <= self._limits).all(2) & (genomes[:, :1] == self._rows)  # (N, P)
        reached = np.where(inside, costs[:, self._sought], np.inf)
        for group in range(len(self.value)):
            of = self._groups == group
            least = reached[:, of].min(1, initial=np.inf)
            if (best := float(least.min())) < self.value[group]:
                self.value[group], self.genomes[group] = best, genomes[least.argmin()]
                here = of.nonzero()[0], self._sought[of]
                self._caps[here] = (best - self._offset[here]) / self._scale[here] - ROUNDING * self._unit[here]
                self._open[of] &= not self._first
        return sums

    def _weights(self, problems: NDArray[np.intp]) -> Floats:
        """(A, K) what table values of problems (A,) are multiplied by in their weighted sums."""
        weights: Floats = self.multipliers[problems] / self._unit[problems]
        return weights

    def _weighted(self, problems: NDArray[np.intp], weights: Floats) -> Floats:
        """(A, F') the weighted sums of the tables of problems (A,)."""
        total: Floats = np.einsum("ak,akf->af", weights, self._values[problems])
        total[self._blocked[problems]] = np.inf
        return total

    def _raise_bounds(self) -> None:
        """Subgradient steps on the multipliers, towards the least cost known (B. Polyak, 1969)."""
        multipliers = self.multipliers.copy()
        for _ in range(STEPS):
            problems = np.flatnonzero(self._open)
            if not len(problems):
                return
            at = np.arange(len(problems)), self._sought[problems]
            now, unit, caps = multipliers[problems], self._unit[problems], self._caps[problems].copy()
            result = self._elimination.eliminate(self._weighted(problems, now / unit))
            allowance = now * caps / unit
            bound = result.minimum - allowance.sum(1) + allowance[at]
            better = bound > self._bound[problems]
            self._bound[problems[better]], self.multipliers[problems[better]] = bound[better], now[better]
            genomes = self._elimination.argmin(result)
            genomes[:, 0] = self._rows[problems]
            sums = self._consider(genomes)
            target = (self._caps / self._unit)[self._at_sought]
            self._open &= self._bound <= target
            violation = (sums - caps) / unit
            violation[at] = 0
            violation[(now == 0) & (violation < 0)] = 0
            length = (violation**2).sum(1)
            gap = np.maximum(target[problems] - bound, 0)
            step = np.divide(gap, length, out=np.zeros_like(gap), where=length > 0)
            multipliers[problems] = np.maximum(0, now + step[:, None] * violation)

    def _pass(self, width: int, max_nodes: int) -> int:
        """Breadth first over partial genomes of the open problems, keeping `width` a level; how many there were."""
        problems = np.flatnonzero(self._open)
        weights = self._weights(problems)
        eliminated, most = self._eliminated(problems, weights), self._most(problems, weights)
        sums = most.shape[1]  # K + 1, the last one weighted
        of = np.arange(len(problems))  # (n,) the problem of each partial genome
        genomes = np.zeros((len(problems), self._elimination.num_genes), np.int8)
        genomes[:, 0] = self._rows[problems]
        bounds = eliminated.minimum.reshape(-1, sums)  # (n, K + 1) of the best completions
        dropped = np.full(len(problems), np.inf)  # the least weighted bound of what a level did not keep
        at_sought = problems, self._sought[problems]
        size = self._unit[at_sought] * self._scale[at_sought]  # (A,) of a unit of the cost sought
        nodes, buckets = 0, self._elimination.buckets
        for level in reversed(range(len(buckets))):
            bucket = buckets[level]
            at: Any = (of[:, None] * sums + np.arange(sums), *(genomes[:, gene, None] for gene in bucket.scope))
            regrets = eliminated.tables[level][at] - eliminated.messages[level][at][..., None]
            children = bounds[..., None] + regrets  # (n, K + 1, choices)
            parents, choices = np.nonzero((children <= most[of][..., None]).all(1))
            nodes += len(parents)
            of, genomes, bounds = of[parents], genomes[parents], children[parents, :, choices]
            genomes[:, bucket.gene] = choices
            keep = width if nodes < max_nodes else NARROW
            if len(of) > keep:
                distinct = self._distinct(level, of, genomes, bounds)
                of, genomes, bounds = of[distinct], genomes[distinct], bounds[distinct]
                groups, ahead = self._groups[problems], (bounds[:, -1] - most[of, -1]) * size[of]
                kept = _most_promising(groups[of], ahead, max(1, keep // len(np.unique(groups))))
                np.minimum.at(dropped, of[~kept], bounds[~kept, -1])
                of, genomes, bounds = of[kept], genomes[kept], bounds[kept]
            if not len(of):
                break
        else:
            self._consider(genomes)
        self._open[problems] &= dropped <= self._most(problems, weights)[:, -1]
        return nodes

    def _eliminated(self, problems: NDArray[np.intp], weights: Floats) -> Eliminated:
        """For problems (A,), A * (K + 1) eliminations: of every cost's tables, then of their weighted sum."""
        single = np.where(self._blocked[problems, None], np.inf, self._values[problems])
        tables = np.concatenate([single, self._weighted(problems, weights)[:, None]], axis=1)
        return self._elimination.eliminate(tables.reshape(-1, tables.shape[-1]))

    def _most(self, problems: NDArray[np.intp], weights: Floats) -> Floats:
        """(A, K + 1) what the sums and their weighted sum may be at most."""
        caps = self._caps[problems]
        return np.column_stack([caps, (weights * caps).sum(1)])

    def _distinct(self, level: int, of: NDArray[np.intp], genomes: Genomes, bounds: Floats) -> NDArray[np.intp]:
        """Which of n partial genomes to keep so that no two of a problem have equal sums and equal completions."""
        genes = self._elimination.frontiers[level]
        keys = np.column_stack([bounds[:, :-1], genomes[:, genes], of])
        order = np.lexsort(keys.T)
        keys = keys[order]
        differs = np.ones(len(order), bool)
        differs[1:] = (keys[1:] != keys[:-1]).any(1)
        return np.sort(order[differs])


def _most_promising(groups: NDArray[np.intp], values: Floats, count: int) -> NDArray[np.bool_]:
    """(n,) which have one of the `count` least values of their group."""
    order = np.lexsort((values, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    rank = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    kept = np.zeros(len(groups), bool)
    kept[order[rank < count]] = True
    return kept
