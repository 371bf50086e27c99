"""Hard limits on costs: which architectures are within them, exactly, and what to say when none is.

The floor of one limit is exact by variable elimination. Whether several limits can hold together is decided by
Lagrangian relaxation, whose bound often proves it either way, and then by branch and bound on the same eliminated
tables, where every limit's least completion of a partial genome is known exactly. The search is cut off after a number
of nodes, and the answer is then `NotProven` and not `Infeasible`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.costs import AdditiveCost, CostTables
from evolution.elimination import Floats
from evolution.latency import LatencyModel
from supernet.space import Architecture, Genomes

COSTS = ("flops", "params", "latency_ms")
MAX_NODES = 500_000  # partial genomes that branch and bound may visit per request, about half a second
ROUNDING = 1e-9  # of a limit: bounds may be this far above it before they count as proof
CHUNK = 64  # partial genomes expanded together
MULTIPLIER_STEPS = 40  # of the Lagrangian relaxation
PATH_STEPS = 9  # bisections of a repair: finer than one step of a path of some 200


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as asked: the most of one cost.

    cost: `flops` (multiply-adds), `params` or `latency_ms`. max: in that unit. device: for a latency.
    confidence: hold the latency's upper bound at this confidence, in (0.5, 1), instead of the predicted latency.

    Raises:
        ValueError: an unknown cost, a limit that is no positive number, a device missing or out of place.
    """

    cost: str
    max: float
    device: str | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise ValueError(f"unknown cost {self.cost!r}; the costs are {', '.join(COSTS)}")
        if not (math.isfinite(self.max) and self.max > 0):
            raise ValueError(f"the limit of {self.cost} is {self.max}; a positive number is needed")
        if (self.device is not None) != (self.cost == "latency_ms"):
            raise ValueError(
                f"{self.cost} needs a device"
                if self.device is None
                else f"{self.cost} is the same on every device; leave device {self.device!r} out"
            )
        if self.confidence is not None and not (self.cost == "latency_ms" and 0.5 < self.confidence < 1):
            raise ValueError(f"confidence {self.confidence} of {self.cost}: latency takes one between 0.5 and 1")

    @property
    def name(self) -> str:
        """`flops`, `params`, `latency_ms@DEVICE`, or `latency_ms@DEVICE@0.9` for a bound."""
        return "@".join(str(part) for part in (self.cost, self.device, self.confidence) if part is not None)


@dataclass(frozen=True, slots=True)
class Constraint:
    """A cost and the most it may be."""

    cost: AdditiveCost
    max: float


def cost_of(limit: Limit, tables: CostTables, latency: Mapping[str, LatencyModel]) -> AdditiveCost:
    """The cost that a limit is about. latency: the model of each device by name.

    Raises:
        ValueError: a device without a model, or a confidence that its measurements cannot support.
    """
    if limit.device is None:
        return tables.flops_cost if limit.cost == "flops" else tables.params_cost
    if limit.device not in latency:
        known = ", ".join(sorted(latency)) or "none"
        raise ValueError(f"device {limit.device!r} has no latency model; devices that have one: {known}")
    return latency[limit.device].cost(limit.name, limit.confidence)


def constrain(
    limits: Sequence[Limit], tables: CostTables, latency: Mapping[str, LatencyModel]
) -> tuple[Constraint, ...]:
    """Limits as constraints on costs; of several limits on one cost the lowest counts. Raises what `cost_of` does."""
    lowest: dict[str, Limit] = {}
    for limit in limits:
        if limit.name not in lowest or limit.max < lowest[limit.name].max:
            lowest[limit.name] = limit
    return tuple(Constraint(cost_of(limit, tables, latency), limit.max) for limit in lowest.values())


class Refused(ValueError):  # noqa: N818 - an answer, named as one
    """No architecture is answered for these limits.

    floors: the least each limited cost can be, alone, by name of the cost; inf where it cannot be predicted at all.
    smallest: the architecture that comes closest: of least violated cost, or nearest to all limits together.
    costs: the limited costs of that architecture, by name. limits: the limits by name.
    """

    def __init__(
        self,
        message: str,
        *,
        floors: Mapping[str, float],
        limits: Mapping[str, float],
        smallest: Architecture,
        costs: Mapping[str, float],
    ) -> None:
        super().__init__(message)
        self.floors = dict(floors)
        self.limits = dict(limits)
        self.smallest = smallest
        self.costs = dict(costs)


class Infeasible(Refused):
    """Proven: no architecture of the space is within every limit."""


class NotProven(Refused):
    """Branch and bound stopped at its node limit: none was found within every limit, and none is proven not to be."""


class Region:
    """The architectures within every limit, and for each resolution one of them, its anchor.

    resolution: when given, the only input side allowed.
    anchors: (R, G) canonical; valid where `anchored`, (R,), says that this resolution has an architecture within the
    limits.

    Raises:
        Infeasible, NotProven: there is none, or none was found. ValueError: the space lacks this resolution.
    """

    def __init__(
        self,
        tables: CostTables,
        constraints: Sequence[Constraint],
        resolution: int | None = None,
        max_nodes: int = MAX_NODES,
    ) -> None:
        space = tables.space
        if resolution is not None and resolution not in space.resolutions:
            raise ValueError(f"resolution is {resolution}; {space.name} has {', '.join(map(str, space.resolutions))}")
        self.tables = tables
        self.constraints = tuple(constraints)
        self.resolution = resolution
        self._open = np.array([resolution in (None, side) for side in space.resolutions])
        self.anchors = np.zeros((len(space.resolutions), space.num_genes), np.int8)
        self.anchors[:, 0] = np.arange(len(space.resolutions))
        self.anchored = self._open & (not self.constraints)
        if not self.constraints:
            return
        within = self._floors <= self.maxima[:, None]
        for constraint in self.constraints:
            self.anchor(constraint.cost.cheapest)
        undecided = self._open & within.all(0) & ~self.anchored
        complete = True
        if len(self.constraints) > 1 and undecided.any():
            relaxation = _Relaxation(self, np.flatnonzero(undecided))
            nodes = max_nodes
            for row in relaxation.undecided():
                genome, used = relaxation.branch_and_bound(row, nodes)
                nodes -= used
                if genome is not None:
                    self.anchor(genome[None])
                elif nodes < 0:
                    complete = False
                    break
        if not self.anchored.any():
            raise self._refusal(complete)

    @property
    def maxima(self) -> Floats:
        """(L,) the limits, in the order of the constraints."""
        return np.array([constraint.max for constraint in self.constraints])

    @property
    def _floors(self) -> Floats:
        """(L, R) the least each limited cost can be, alone; inf at resolutions that are not allowed."""
        floors = [np.where(self._open, constraint.cost.floors, np.inf) for constraint in self.constraints]
        return np.reshape(floors, (len(floors), len(self._open)))

    @property
    def floors(self) -> dict[str, float]:
        """The least each limited cost can be, alone, by name of the cost; inf where it cannot be predicted at all."""
        names = [constraint.cost.name for constraint in self.constraints]
        return dict(zip(names, self._floors.min(1).tolist(), strict=True))

    def anchor(self, genomes: Genomes) -> None:
        """Remember those of (N, G) genomes that are within the limits, at resolutions that have no anchor yet."""
        for genome in genomes[self.holds(genomes)]:
            if self._open[genome[0]] and not self.anchored[genome[0]]:
                self.anchors[genome[0]] = self.tables.space.canonical(genome)
                self.anchored[genome[0]] = True

    def costs(self, genomes: Genomes) -> Floats:
        """(N, L) the limited costs of (N, G) genomes."""
        index = self.tables.index(genomes)
        columns = [constraint.cost.at(index, genomes[:, 0]) for constraint in self.constraints]
        return np.stack(columns, axis=1) if columns else np.zeros((len(genomes), 0))

    def holds(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N,) whether (N, G) genomes are within every limit and of an allowed resolution."""
        inside: NDArray[np.bool_] = (self.costs(genomes) <= self.maxima).all(1) & self._open[genomes[:, 0]]
        return inside

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """(N, G) canonical genomes within every limit: those given, the others moved towards the anchor.

        A genome at a resolution without an anchor gets a random one that has an anchor. A genome outside the limits
        walks to the anchor of its resolution, one step of one gene at a time in random order, and the walk is bisected
        for a point that is inside while an earlier one is not.
        """
        space = self.tables.space
        genomes = space.canonical(genomes)
        homeless = np.flatnonzero(~self.anchored[genomes[:, 0]])
        genomes[homeless, 0] = rng.choice(np.flatnonzero(self.anchored), len(homeless))
        outside = np.flatnonzero(~self.holds(genomes))
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
            inside = self.holds(_walk(start, goal, order, middle))
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        genomes[outside] = space.canonical(_walk(start, goal, order, high))
        return genomes

    def _refusal(self, complete: bool) -> Refused:
        """What to raise when no resolution has an anchor. complete: whether that is proven."""
        space, limits = self.tables.space, {c.cost.name: c.max for c in self.constraints}
        lowest = self._floors.min(1)
        excess = lowest / self.maxima
        worst = int(excess.argmax())
        if excess[worst] > 1:
            genome = self.constraints[worst].cost.cheapest[self._floors[worst].argmin()]
            name = self.constraints[worst].cost.name
            where = f"of {space.name}" + (f" at resolution {self.resolution}" if self.resolution else "")
            if math.isinf(lowest[worst]):
                message = f"{name} cannot be predicted for any architecture {where}; measure the device there first"
            else:
                least = _rounded_up(float(lowest[worst]))
                message = (
                    f"{name} is limited to {_exact(limits[name])}, and no architecture {where} is below {least}; "
                    f"raise the limit to at least {least}"
                )
        else:
            candidates = np.concatenate([c.cost.cheapest[self._open] for c in self.constraints])
            genome = candidates[(self.costs(candidates) / self.maxima).max(1).argmin()]
            together = ", ".join(f"{name} {_exact(value)}" for name, value in limits.items())
            message = (
                f"each of these limits can be met alone, but no architecture meets them together: {together}; raise one"
                if complete
                else f"no architecture was found within all of these limits, nor proven impossible: {together}; "
                "raise one a little"
            )
        costs = dict(zip(limits, self.costs(genome[None])[0].tolist(), strict=True))
        error = Infeasible if complete else NotProven
        return error(message, floors=self.floors, limits=limits, smallest=space.decode(genome), costs=costs)


def _walk(start: NDArray[np.int16], goal: NDArray[np.int16], order: NDArray[np.float32], time: Floats) -> Genomes:
    """(N, G) where walks from `start` to `goal` are at `time`, (N,): step s is taken at `order[s]`, (N, G)."""
    taken = np.zeros(start.shape, np.int16)
    for when in order:
        taken += when <= time[:, None]
    walked: Genomes = (start + np.sign(goal - start) * taken).astype(np.int8)
    return walked


def _exact(value: float) -> str:
    """A limit for people, every digit of it."""
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _rounded_up(value: float) -> str:
    """A number for people that is never below the value."""
    if value == int(value):
        return _exact(value)
    digits = 5 - math.floor(math.log10(abs(value)))
    return f"{math.ceil(value * 10.0**digits) / 10.0**digits:,.{max(digits, 0)}f}"


class _Relaxation:
    """Whether all limits can hold at once at some resolutions: weighted sums of the limits, then branch and bound.

    rows: the resolutions in question, r of them; those where an architecture turns up on the way get their anchor.
    Each limit is taken to the sums of table values, (L, r). For positive weights that sum to 1, the least weighted sum
    of (table sum - limit) / |limit| is a bound: above 0, no architecture is within all limits.
    """

    def __init__(self, region: Region, rows: NDArray[np.intp]) -> None:
        costs = [constraint.cost for constraint in region.constraints]
        self.region, self.rows = region, rows
        self.elimination = region.tables.elimination
        self.tables = np.stack([cost.conditioned[rows] for cost in costs])  # (L, r, F')
        offset = np.stack([cost.offset[rows] for cost in costs])
        self.limits = (region.maxima[:, None] - offset) / np.stack([cost.scale[rows] for cost in costs])
        self.unit = np.maximum(np.abs(self.limits), np.finfo(np.float64).tiny)
        self.weights = np.full(self.limits.shape, 1 / len(costs))  # (L, r), of the best bound
        self.bound = np.full(len(rows), -np.inf)
        self._tighten(costs)

    def _tighten(self, costs: Sequence[AdditiveCost]) -> None:
        """Raise the bounds by exponentiated subgradient steps on the weights."""
        weights = self.weights
        for step in range(1, MULTIPLIER_STEPS + 1):
            result = self.elimination.eliminate(self._weighted(weights))
            bound = result.minimum - (weights * self.limits / self.unit).sum(0)
            better = bound > self.bound
            self.bound[better], self.weights[:, better] = bound[better], weights[:, better]
            genomes = self.elimination.argmin(result)
            genomes[:, 0] = self.rows
            self.region.anchor(genomes)
            if not len(self.undecided()):
                return
            index = self.region.tables.index(genomes)
            sums = np.stack([cost.values[index].sum(1) for cost in costs])
            excess = np.clip((sums - self.limits) / self.unit, -1e6, 1e6)
            step_size = 2 / math.sqrt(step) / np.maximum(np.abs(excess).max(0), 1e-12)
            weights = np.maximum(weights * np.exp(step_size * excess), 1e-9)
            weights = weights / weights.sum(0)

    def _weighted(self, weights: Floats) -> Floats:
        """(r, F') the weighted sum of the limits' tables."""
        total: Floats = ((weights / self.unit)[..., None] * self.tables).sum(0)
        return total

    def undecided(self) -> NDArray[np.intp]:
        """Which of the r rows have no architecture yet and no proof that there is none."""
        return np.flatnonzero(~self.region.anchored[self.rows] & (self.bound <= ROUNDING))

    def branch_and_bound(self, row: int, max_nodes: int) -> tuple[Genomes | None, int]:
        """A (G,) genome within all limits at one of the rows, or None, and how many nodes that took.

        None with more than `max_nodes` means that the search was cut off. Genes are chosen in the reverse of the order
        in which they were eliminated, so the least completion of a partial genome is known exactly for every limit and
        for the weighted sum of them, the tightest: it is the minimum plus the regrets of the choices made.
        """
        weighted = self._weighted(self.weights)[row]
        eliminated = self.elimination.eliminate(np.concatenate([self.tables[:, row], weighted[None]]))
        together = (self.weights[:, row] * self.limits[:, row] / self.unit[:, row]).sum()
        limits = np.append(self.limits[:, row], together)
        limits += ROUNDING * np.append(self.unit[:, row], 1)
        buckets = self.elimination.buckets
        root = np.zeros((1, self.elimination.num_genes), np.int8)
        root[0, 0] = self.rows[row]
        stack = [(len(buckets), root, eliminated.minimum[:, None])]  # bounds: (L + 1, n)
        nodes = 0
        while stack and nodes <= max_nodes:
            level, genomes, bounds = stack.pop()
            if level == 0:
                if (inside := self.region.holds(genomes)).any():
                    return genomes[inside.argmax()], nodes
                continue
            bucket = buckets[level - 1]
            at: Any = (slice(None), *(genomes[:, gene] for gene in bucket.scope))
            least = eliminated.messages[level - 1][at].reshape(len(limits), -1, 1)
            regrets = eliminated.tables[level - 1][at].reshape(len(limits), least.shape[1], -1) - least
            children = bounds[..., None] + regrets  # (L + 1, n, choices)
            parents, choices = np.nonzero((children <= limits[:, None, None]).all(0))
            nodes += len(parents)
            order = np.argsort(children[-1, parents, choices], kind="stable")
            for start in reversed(range(0, len(order), CHUNK)):
                chosen = order[start : start + CHUNK]
                grown = genomes[parents[chosen]]
                grown[:, bucket.gene] = choices[chosen]
                stack.append((level - 1, grown, children[:, parents[chosen], choices[chosen]]))
        return None, nodes
