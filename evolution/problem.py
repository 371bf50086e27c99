"""What is searched for: tables, limits, a predictor and an objective, and how genomes are scored by them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evolution.arrays import Floats
from evolution.costs import Cost, CostTables
from evolution.feasibility import find_region
from evolution.limits import Constraint, allowed_resolutions
from evolution.region import Region
from supernet.space import Genomes

MOST_FRONT_COSTS = 2  # beside accuracy


class Predictor(Protocol):
    """What predicts accuracy, as `evolution.predictors.accuracy.AccuracyPredictor` does."""

    def predict(self, genomes: Genomes) -> Floats:
        """(N,) predicted accuracy of (N, G) genomes, fractions in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What N genomes scored. fitness: (N,) higher is better. accuracy: (N,) predicted. costs: (N, C)."""

    fitness: Floats
    accuracy: Floats
    costs: Floats


@dataclass(frozen=True, eq=False)
class Problem:
    """What is searched for: the highest predicted accuracy, the least of one cost at a predicted accuracy, or a front.

    constraints: hard limits. resolution, max_resolution: when given, the only input side allowed and the largest.
    minimise, min_accuracy: given together, they replace the objective. pareto: one or two costs; the front of accuracy
    and these is then sought, over all budgets up to their limits, and the best is its most accurate architecture.
    known: (N, G) architectures that show that the limits can be met, where no others are found to.

    Raises:
        ValueError: one of `minimise` and `min_accuracy` without the other, a `min_accuracy` outside (0, 1), or a front
            over more than two costs or beside a minimised one.
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
        wanted = [*self.pareto, *(constraint.cost for constraint in self.constraints)]
        wanted += [self.minimise] if self.minimise else []
        wanted += [self.tables.flops_cost, self.tables.params_cost]
        return tuple({cost.name: cost for cost in wanted}.values())

    @property
    def bounded(self) -> tuple[Constraint, ...]:
        """The constraints; sought costs without a limit get one that only rules out what cannot be predicted."""
        limited = {constraint.cost.name for constraint in self.constraints}
        sought = [*self.pareto, *([self.minimise] if self.minimise else [])]
        return (*self.constraints, *(Constraint(cost, cost.ceiling) for cost in sought if cost.name not in limited))

    @cached_property
    def region(self) -> Region:
        """The architectures within every limit. Raises what `find_region` does."""
        return find_region(self.tables, self.bounded, self.resolution, self.max_resolution, known=self.known)

    def within(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(N,) whether (N, G) genomes are within every limit and of an allowed resolution."""
        inside = allowed_resolutions(self.tables.space, self.resolution, self.max_resolution)[genomes[:, 0]]
        for constraint in self.bounded:
            inside &= constraint.cost(genomes) <= constraint.max
        return inside

    @cached_property
    def cost_names(self) -> tuple[str, ...]:
        """(C,) their names."""
        return tuple(cost.name for cost in self.costs)

    @property
    def front_costs(self) -> int:
        """How many of the costs, the first ones, span the front: as asked, or the limited and minimised, or FLOPs."""
        if self.pareto:
            return len(self.pareto)
        return max(1, len({c.cost.name for c in self.constraints} | ({self.minimise.name} if self.minimise else set())))

    @property
    def reference(self) -> tuple[float, ...]:
        """(1 + front_costs,) where hypervolumes end: error 1, and each cost's limit or the most that any network costs.

        With one cost, a hypervolume over that cost's range, limit - floor, is the mean accuracy over the budgets in it.
        """
        limits = {constraint.cost.name: constraint.max for constraint in self.constraints}
        most = {cost.name: cost.ceiling for cost in self.costs} | limits
        return (1.0, *(most[name] for name in self.cost_names[: self.front_costs]))

    def value(self, accuracy: Floats, price: Floats) -> Floats:
        """(N,) higher is better: the accuracy, or minus the price, below any such where too inaccurate.

        price: (N,) the minimised cost, where there is one.
        """
        if self.minimise is None or self.min_accuracy is None:
            return accuracy
        return np.where(accuracy >= self.min_accuracy, -price, -self.minimise.ceiling * (2 - accuracy))

    def fitness(self, accuracy: Floats, costs: Floats) -> Floats:
        """(N,) `value` from (N, C) costs."""
        return self.value(accuracy, costs[:, self.cost_names.index(self.minimise.name) if self.minimise else 0])

    def score(self, genomes: Genomes) -> Scores:
        """Evaluate (N, G) genomes.

        Raises:
            ValueError: the predictor gives something else than N fractions.
        """
        accuracy = np.asarray(self.predictor.predict(genomes), np.float64)
        if accuracy.shape != (len(genomes),) or not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(
                f"the predictor must give {len(genomes)} fractions in [0, 1], not {accuracy.shape} {accuracy[:3]}"
            )
        index = self.tables.index(genomes)
        costs = np.stack([cost.at(index, genomes[:, 0]) for cost in self.costs], axis=1)
        return Scores(self.fitness(accuracy, costs), accuracy, costs)
