"""What is searched for: cost tables, an accuracy predictor, limits and an objective; and how genomes are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.choices import Choices
from evolution.costs import DEVICE_COSTS, Cost, CostTables
from evolution.feasibility import find_region
from evolution.limits import Constraint, Limit, allowed_resolutions, constrain, cost_of
from evolution.predictors.latency import LatencyModel
from evolution.region import Region
from supernet.space import Genomes, Value

MOST_FRONT_COSTS = 2  # beside accuracy
Measure = Callable[[Genomes], Floats]  # of (N, G) genomes, (N,) fractions in [0, 1], higher is better


class Predictor(Protocol):
    """Predicts accuracy. `evolution.predictors.accuracy.AccuracyPredictor` is one."""

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) predicted accuracy of (N, G) genomes, fractions in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of N genomes. fitness: (N,) higher is better. costs: (N, C).

    accuracy: (N,) predicted, or what the problem's `measure` gave.
    """

    fitness: Floats
    accuracy: Floats
    costs: Floats


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched for: the highest accuracy, the least cost at an accuracy, or a Pareto front.

    constraints: hard limits. resolution: the only input resolution allowed. max_resolution: the largest one allowed.
    minimise, min_accuracy: set both to search for the least of this cost at this accuracy or more.
    pareto: one or two costs. Set it to search for the front of accuracy and these costs, up to their limits; the best
    architecture is then the most accurate one on the front.
    known: (N, G) feasible architectures to fall back on when the feasibility search finds none.
    measure: measures accuracy, or another quality, in place of the predictor, which then only guides the strategies
    that follow its gradient.
    choices: the open choices of each gene; all unless given.

    Raises:
        ValueError: one of `minimise` and `min_accuracy` without the other, a `min_accuracy` outside (0, 1), a front
            over more than two costs, or a front together with a minimised cost.
    """

    tables: CostTables
    predictor: Predictor
    constraints: tuple[Constraint, ...] = ()
    resolution: int | None = None
    minimise: Cost | None = None
    min_accuracy: float | None = None
    pareto: tuple[Cost, ...] = ()
    max_resolution: int | None = None
    known: Genomes | None = None
    measure: Measure | None = None
    choices: Choices | None = None

    def __post_init__(self) -> None:
        if (self.minimise is None) != (self.min_accuracy is None):
            raise ValueError("a cost to minimise and min_accuracy belong together; give both or neither")
        if self.min_accuracy is not None and not 0 < self.min_accuracy < 1:
            raise ValueError(f"min_accuracy is {self.min_accuracy}; a fraction between 0 and 1 is needed")
        if len({cost.name for cost in self.pareto}) != len(self.pareto) or len(self.pareto) > MOST_FRONT_COSTS:
            names = ", ".join(cost.name for cost in self.pareto)
            raise ValueError(f"a front is over accuracy and 1 or {MOST_FRONT_COSTS} different costs, not {names}")
        if self.pareto and self.minimise:
            raise ValueError("a front is over all accuracies; leave min_accuracy and the cost to minimise out")

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """The C costs that answers report: the front's, the limited ones, the minimised one, FLOPs and parameters."""
        limited = (constraint.cost for constraint in self.constraints)
        minimised = [self.minimise] if self.minimise else []
        costs = [*self.pareto, *limited, *minimised, self.tables.flops_cost, self.tables.params_cost]
        return tuple({cost.name: cost for cost in costs}.values())

    @cached_property
    def bounded(self) -> tuple[Constraint, ...]:
        """The constraints, and one for each unlimited cost of the objective: its ceiling, so it must be predictable.

        Where choices are excluded, the costs are unknown for every architecture that has one, and FLOPs are limited to
        their ceiling if nothing else is limited. So no architecture with an excluded choice is within the limits.
        """
        limited = {constraint.cost.name for constraint in self.constraints}
        objectives = [*self.pareto, *([self.minimise] if self.minimise else [])]
        ceilings = (Constraint(cost, cost.ceiling) for cost in objectives if cost.name not in limited)
        constraints = (*self.constraints, *ceilings)
        if self.choices is None or not self.choices.restricted:
            return constraints
        flops = self.tables.flops_cost
        excluded = self.choices.excluded(self.tables)
        return tuple(
            Constraint(constraint.cost.without(excluded), constraint.max)
            for constraint in constraints or (Constraint(flops, flops.ceiling),)
        )

    @cached_property
    def region(self) -> Region:
        """The architectures within every limit. Raises what `find_region` does."""
        return find_region(
            self.tables, self.bounded, self.resolution, self.max_resolution, choices=self.choices, known=self.known
        )

    def require_feasible(self) -> None:
        """Check that some architecture is within every limit. Raises Infeasible or NotProven otherwise."""
        _ = self.region  # building it finds such an architecture

    def within(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N,) whether each of (N, G) genomes is within every limit, of an allowed resolution and of open choices."""
        choices = self.choices or self.tables.choices
        inside = allowed_resolutions(choices, self.resolution, self.max_resolution)[genomes[:, 0]]
        for constraint in self.bounded:
            inside &= constraint.cost(genomes) <= constraint.max
        return inside

    @cached_property
    def cost_names(self) -> tuple[str, ...]:
        """(C,) the names of `costs`."""
        return tuple(cost.name for cost in self.costs)

    @property
    def front_costs(self) -> int:
        """How many of `costs`, from the first, span the front: `pareto`, else the limited and minimised, else FLOPs."""
        if self.pareto:
            return len(self.pareto)
        return max(1, len({c.cost.name for c in self.constraints} | ({self.minimise.name} if self.minimise else set())))

    @property
    def reference(self) -> tuple[float, ...]:
        """(1 + front_costs,) the reference point of hypervolumes: error 1, then each cost's limit or else its ceiling.

        With one cost, the hypervolume divided by (limit - floor) is the mean accuracy over the limits in that range.
        """
        limits = {constraint.cost.name: constraint.max for constraint in self.constraints}
        ends = {cost.name: cost.ceiling for cost in self.costs} | limits
        return (1.0, *(ends[name] for name in self.cost_names[: self.front_costs]))

    def value(self, accuracy: Floats, price: Floats) -> Floats:
        """(N,) higher is better: the accuracy; with a minimised cost, minus its price.

        An architecture below `min_accuracy` is worse than every one that reaches it. price: (N,) the minimised cost.
        """
        if self.minimise is None or self.min_accuracy is None:
            return accuracy
        return np.where(accuracy >= self.min_accuracy, -price, -self.minimise.ceiling * (2 - accuracy))

    def fitness(self, accuracy: Floats, costs: Floats) -> Floats:
        """(N,) `value`, with the price taken from (N, C) costs."""
        return self.value(accuracy, costs[:, self.cost_names.index(self.minimise.name) if self.minimise else 0])

    def score(self, genomes: Genomes) -> Scores:
        """Predict or measure what (N, G) genomes achieve, and count what they cost.

        Raises:
            ValueError: the predictor, or `measure`, did not return N fractions.
        """
        accuracy = np.asarray((self.measure or self.predictor.predict)(genomes), np.float64)
        if accuracy.shape != (len(genomes),) or not ((accuracy >= 0) & (accuracy <= 1)).all():
            source = "the measurement" if self.measure else "the predictor"
            raise ValueError(
                f"{source} must give {len(genomes)} fractions in [0, 1], not {accuracy.shape} {accuracy[:3]}"
            )
        index = self.tables.index(genomes)
        costs = np.stack([cost.at(index, genomes[:, 0]) for cost in self.costs], axis=1)
        return Scores(self.fitness(accuracy, costs), accuracy, costs)


def build_problem(
    tables: CostTables,
    predictor: Predictor,
    latency_models: Mapping[str, LatencyModel],
    *,
    limits: Sequence[Limit] = (),
    minimise: str | None = None,
    min_accuracy: float | None = None,
    front: Sequence[str] = (),
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    choices: Mapping[str, Sequence[Value]] | None = None,
    known: Genomes | None = None,
    measure: Measure | None = None,
) -> Problem:
    """The problem that these limits and objectives state, with costs given by name.

    latency_models: by device. minimise, front: names of costs, as in `Problem.minimise` and `Problem.pareto`.
    device: where an objective of `DEVICE_COSTS` is predicted. choices: restrictions by name, as `Choices` takes them.
    The other arguments are those of `Problem`.

    Raises:
        ValueError: a device without a latency model. Also what `Problem` and `Choices` raise.
    """

    def objective(cost: str) -> Cost:
        return cost_of(Limit(cost, 1.0, device if cost in DEVICE_COSTS else None), tables, latency_models)

    return Problem(
        tables,
        predictor,
        constrain(limits, tables, latency_models),
        resolution,
        minimise=None if minimise is None else objective(minimise),
        min_accuracy=min_accuracy,
        pareto=tuple(objective(cost) for cost in front),
        max_resolution=max_resolution,
        known=known,
        measure=measure,
        choices=Choices(tables.space, choices) if choices else None,
    )
