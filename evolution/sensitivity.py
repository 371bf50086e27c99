"""What a little more or less of each limit buys, around an answer.

Read off the architectures that at most two moves make of the answer, by prediction: what they gain is gained at least,
and what they lose is lost at most, since a search under the other limit would find one as good or better.
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
    """One gene of an architecture changed. accuracy, cost: by how much that changes the predicted accuracy and a cost.

    gene: where a stage grows, its depth; the genes of the block that comes to life are set with it.
    """

    gene: str
    old: Value
    new: Value
    accuracy: float
    cost: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What accuracy a limit costs around an answer, every other limit held.

    cost, limit: the limited cost, and its limit; of a minimised cost, what the answer has of it. step: by how much the
    limit is raised and lowered. gained: the accuracy that the raised limit buys, at least 0. lost: what the lowered one
    takes, 0 where the answer is within it already; None where nothing near the answer is. cheapest: of the single moves
    that lower the cost, the one that loses the least accuracy for what it saves; None where no move does.
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
    space, moves = problem.tables.space, problem.tables.moves
    singles = moves.neighbours(answer)
    genomes = np.concatenate([answer[None], singles, moves.within_two(answer)])
    values = {cost.name: cost(genomes) for cost in problem.costs}
    limits = {limit.cost.name: limit.max for limit in problem.constraints}
    if problem.minimise is not None:
        limits.setdefault(problem.minimise.name, float(values[problem.minimise.name][0]))
    allowed = Region(problem.tables, (), problem.resolution, problem.max_resolution).contains(genomes)
    inside = {  # each limit raised, the others held
        name: np.logical_and.reduce(
            [allowed, *(values[other] <= most * (1 + STEP * (other == name)) for other, most in limits.items())]
        )
        for name in limits
    }
    wanted = np.logical_or.reduce(list(inside.values())) if inside else np.zeros(len(genomes), bool)
    accuracy = np.full(len(genomes), -np.inf)
    accuracy[wanted] = problem.predictor.predict(genomes[wanted])
    result = []
    for name, most in limits.items():
        reached = np.where(inside[name], accuracy, -np.inf)
        lowered = np.where(values[name] <= most * (1 - STEP), reached, -np.inf).max()
        change = (array[1 : 1 + len(singles)] - array[0] for array in (reached, values[name]))
        result.append(
            Sensitivity(
                cost=name,
                limit=most,
                step=STEP * most,
                gained=float(reached.max() - reached[0]),
                lost=float(max(0.0, reached[0] - lowered)) if np.isfinite(lowered) else None,
                cheapest=_cheapest(space, answer, singles, *change),
            )
        )
    return tuple(result)


def _cheapest(space: SearchSpace, answer: Genomes, singles: Genomes, accuracy: Floats, cost: Floats) -> Change | None:
    """Of single moves (K, G) and what each changes, (K,), the one that saves at the least accuracy per unit."""
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
