"""What is searched for: tables, limits, a predictor and an objective, and how genomes are scored by them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from evolution.constraints import Constraint
from evolution.costs import AdditiveCost, CostTables
from evolution.elimination import Floats
from supernet.space import Genomes


class Predictor(Protocol):
    """What predicts accuracy. `evolution.accuracy.AccuracyPredictor` is one, with layers to differentiate through."""

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
    """What is searched for: the highest predicted accuracy, or the least of one cost at a predicted accuracy.

    constraints: hard limits. resolution: when given, the only input side allowed. minimise, min_accuracy: given
    together, they replace the objective.

    Raises:
        ValueError: one of `minimise` and `min_accuracy` without the other, or a `min_accuracy` outside (0, 1).
    """

    tables: CostTables
    predictor: Predictor
    constraints: tuple[Constraint, ...] = ()
    resolution: int | None = None
    minimise: AdditiveCost | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        if (self.minimise is None) != (self.min_accuracy is None):
            raise ValueError("a cost to minimise and min_accuracy belong together; give both or neither")
        if self.min_accuracy is not None and not 0 < self.min_accuracy < 1:
            raise ValueError(f"min_accuracy is {self.min_accuracy}; a fraction between 0 and 1 is needed")

    @cached_property
    def costs(self) -> tuple[AdditiveCost, ...]:
        """The C costs that answers report: the limited ones, the minimised one, FLOPs and parameters."""
        wanted = [constraint.cost for constraint in self.constraints]
        wanted += [self.minimise] if self.minimise else []
        wanted += [self.tables.flops_cost, self.tables.params_cost]
        return tuple({cost.name: cost for cost in wanted}.values())

    @property
    def bounded(self) -> tuple[Constraint, ...]:
        """The constraints; a minimised cost without a limit gets one that only rules out what cannot be predicted."""
        if self.minimise is None or self.minimise.name in {constraint.cost.name for constraint in self.constraints}:
            return self.constraints
        return (*self.constraints, Constraint(self.minimise, self.minimise.ceiling))

    @cached_property
    def cost_names(self) -> tuple[str, ...]:
        """(C,) their names."""
        return tuple(cost.name for cost in self.costs)

    @property
    def front_costs(self) -> int:
        """How many of the costs, the first ones, span the front: the limited and minimised ones, or FLOPs alone."""
        return max(1, len({c.cost.name for c in self.constraints} | ({self.minimise.name} if self.minimise else set())))

    def fitness(self, accuracy: Floats, costs: Floats) -> Floats:
        """(N,) higher is better: the accuracy, or minus the minimised cost, below any such where too inaccurate."""
        if self.minimise is None or self.min_accuracy is None:
            return accuracy
        cost = costs[:, self.cost_names.index(self.minimise.name)]
        worst = self.minimise.ceiling
        return np.where(accuracy >= self.min_accuracy, -cost, -worst * (2 - accuracy))

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
