"""What a search finds out beside its candidates: the `findings` column."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from evolution.problem import Problem
from evolution.search import Ending, SearchResult
from evolution.sensitivity import Change, Sensitivity, sensitivities
from evolution.strategies import Optimality
from supernet.space import Genomes


@dataclass(frozen=True)
class Hypervolume:
    """How much the front dominates. reference: where that ends, by objective. per_generation: after each generation."""

    reference: Mapping[str, float]
    per_generation: tuple[float, ...]


@dataclass(frozen=True)
class Findings:
    """How good an answer is. The fields mean what they mean in `SearchOut`; None: an earlier release did not store it.

    reached: whether the best candidate has `min_accuracy`; None where the request has none. optimality: None also if
    nothing is proven.
    """

    front_size: int | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    two_opt: bool | None = None
    two_opt_evaluations: int | None = None
    gained_last_1000: float | None = None
    reached: bool | None = None
    hypervolume: Hypervolume | None = None
    strategy: str | None = None
    optimality: Optimality | None = None
    ended_by: Ending | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict, without the last five fields where these do not apply."""
        values = asdict(self) | {"sensitivity": [part.to_json() for part in self.sensitivity]}
        if self.hypervolume is not None:
            reference, per_generation = dict(self.hypervolume.reference), list(self.hypervolume.per_generation)
            values["hypervolume"] = {"reference": reference, "per_generation": per_generation}
        optional = ("reached", "hypervolume", "strategy", "optimality", "ended_by")
        return {name: value for name, value in values.items() if value is not None or name not in optional}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Self:
        """The findings that `to_json` wrote; an earlier release may have written fewer fields, or none."""
        data = data or {}
        volume, optimality = data.get("hypervolume"), data.get("optimality")
        return cls(
            front_size=data.get("front_size"),
            sensitivity=tuple(map(_sensitivity, data.get("sensitivity", ()))),
            two_opt=data.get("two_opt"),
            two_opt_evaluations=data.get("two_opt_evaluations"),
            gained_last_1000=data.get("gained_last_1000"),
            reached=data.get("reached"),
            hypervolume=volume and Hypervolume(volume["reference"], tuple(volume["per_generation"])),
            strategy=data.get("strategy"),
            optimality=optimality and Optimality(**optimality),
            ended_by=data.get("ended_by"),
        )


def _sensitivity(data: Mapping[str, Any]) -> Sensitivity:
    change = data["cheapest"]
    return Sensitivity(
        cost=data["cost"],
        limit=data["limit"],
        step=data["step"],
        gained=data["gained"],
        lost=data["lost"],
        cheapest=change and Change(**change),
    )


def make_findings(problem: Problem, result: SearchResult) -> Findings:
    """What the result of a search says of its answer."""
    hypervolume = None
    if problem.pareto:
        reference = dict(zip(("error", *result.front.names), problem.reference, strict=True))
        hypervolume = Hypervolume(reference, tuple(result.hypervolume.tolist()))
    return Findings(
        front_size=len(result.front),
        sensitivity=find_sensitivity(problem, result.best),
        two_opt=result.two_opt,
        two_opt_evaluations=result.two_opt_evaluations,
        gained_last_1000=result.gained_last_1000,
        reached=None if problem.min_accuracy is None else result.reached,
        hypervolume=hypervolume,
        strategy=result.strategy,
        optimality=result.optimality,
        ended_by=result.ended_by,
    )


def find_sensitivity(problem: Problem, best: Genomes) -> tuple[Sensitivity, ...]:
    """What a little more or less of each limit buys around a genome (G,); empty for a front, which shows that."""
    return () if problem.pareto else sensitivities(problem, best)
