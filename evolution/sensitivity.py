"""How much predicted accuracy a slightly higher or lower limit gains or loses, around an answer.

Computed from the architectures within two moves of the answer. So a gain is a lower bound and a loss an upper bound: a
search under the changed limit would find an architecture at least as good.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evolution.arrays import Floats
from evolution.problem import Problem
from evolution.region import Region
from supernet.space import Genomes, SearchSpace, Value

STEP = 0.05  # of a limit: about what one move changes


@dataclass(frozen=True, slots=True)
class Change:
    """One gene of an architecture changed.

    gene: if a stage grows, its depth; the genes of the added block are set with it. accuracy, cost: the change of the
    predicted accuracy and of a cost.
    """

    gene: str
    old: Value
    new: Value
    accuracy: float
    cost: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The effect of one limit on accuracy around an answer, with every other limit unchanged.

    cost, limit: the limited cost and its limit; for a minimised cost, its value for the answer.
    step: by how much the limit is raised and lowered.
    gained: accuracy gained with the raised limit, at least 0.
    lost: accuracy lost with the lowered limit; 0 if the answer is within it; None if nothing near the answer is.
    cheapest: the single move that loses the least accuracy per unit of the cost saved; None if no move lowers the cost.
    """

    cost: str
    limit: float
    step: float
    gained: float
    lost: float | None
    cheapest: Change | None

    @property
    def gained_per_unit(self) -> float:
        """Accuracy per unit of the cost, upwards."""
        return self.gained / self.step

    @property
    def lost_per_unit(self) -> float | None:
        """Accuracy per unit of the cost, downwards."""
        return None if self.lost is None else self.lost / self.step

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON-able dict."""
        return {**asdict(self), "gained_per_unit": self.gained_per_unit, "lost_per_unit": self.lost_per_unit}


def sensitivities(problem: Problem, answer: Genomes) -> tuple[Sensitivity, ...]:
    """One for each limit and for the minimised cost of a problem, around an answer (G,) that is within the limits."""
    space, moves = problem.tables.space, problem.region.moves
    singles = moves.neighbours(answer)
    genomes = np.concatenate([answer[None], singles, moves.within_two(answer)])
    values = {cost.name: cost(genomes) for cost in problem.costs}
    limits = {constraint.cost.name: constraint.max for constraint in problem.constraints}
    if problem.minimise is not None:
        limits.setdefault(problem.minimise.name, float(values[problem.minimise.name][0]))
    allowed = Region(problem.tables, (), problem.resolution, problem.max_resolution).contains(genomes)
    inside = {  # by cost, whether a genome is within the limits, that cost's limit raised
        name: np.logical_and.reduce(
            [allowed, *(values[cost] <= limit * (1 + STEP * (cost == name)) for cost, limit in limits.items())]
        )
        for name in limits
    }
    predicted = np.logical_or.reduce(list(inside.values())) if inside else np.zeros(len(genomes), bool)
    accuracy = np.full(len(genomes), -np.inf)
    accuracy[predicted] = problem.predictor.predict(genomes[predicted])
    result = []
    for name, limit in limits.items():
        reached = np.where(inside[name], accuracy, -np.inf)
        lowered = np.where(values[name] <= limit * (1 - STEP), reached, -np.inf).max()
        change = (array[1 : 1 + len(singles)] - array[0] for array in (reached, values[name]))
        result.append(
            Sensitivity(
                cost=name,
                limit=limit,
                step=STEP * limit,
                gained=float(reached.max() - reached[0]),
                lost=float(max(0.0, reached[0] - lowered)) if np.isfinite(lowered) else None,
                cheapest=_cheapest(space, answer, singles, *change),
            )
        )
    return tuple(result)


def _cheapest(space: SearchSpace, answer: Genomes, singles: Genomes, accuracy: Floats, cost: Floats) -> Change | None:
    """The single move with the least accuracy lost per unit of cost saved. accuracy, cost: (K,) changes."""
    rates = np.full(len(singles), np.inf)
    saving = (cost < 0) & np.isfinite(accuracy)
    rates[saving] = accuracy[saving] / cost[saving]
    if not saving.any():
        return None
    best = int(rates.argmin())
    position = int(np.flatnonzero(singles[best] != answer)[0])  # depths come before the genes of blocks
    gene = space.genes[position]
    old, new = gene.choices[answer[position]], gene.choices[singles[best][position]]
    return Change(gene.name, old, new, float(accuracy[best]), float(cost[best]))
