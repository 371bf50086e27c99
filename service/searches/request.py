"""A search request in its canonical form: what is stored, hashed and searched for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from evolution.costs import CostTables
from evolution.limits import Limit
from evolution.predictors.latency import LatencyModel
from evolution.problem import Predictor, Problem, build_problem
from evolution.search import EVALUATIONS, Search
from supernet.space import Genomes, Value

IN_PROCESS = 20_000  # evaluations that a client may wait for; a search with more is a job


@dataclass(frozen=True)
class SearchRequest:
    """What to search for, and how. The fields mean what they mean in `SearchIn`, without its shorthands.

    device: where an objective `latency_ms` is predicted. objectives: the costs of the front; empty unless the objective
    is `pareto`. choices: as from `canonical_choices`. strategy: None for the default of the problem. evaluations: how
    many architectures to evaluate at most; its JSON key is `budget`.
    """

    supernet: str
    limits: tuple[Limit, ...] = ()
    device: str | None = None
    objectives: tuple[str, ...] = ()
    strategy: str | None = None
    objective: str = "accuracy"
    min_accuracy: float | None = None
    resolution: int | None = None
    max_resolution: int | None = None
    seed: int = 0
    evaluations: int = EVALUATIONS
    warm_start: bool = True
    verify: bool = False
    choices: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict. Stored requests are compared and hashed by it, so neither keys nor values may change.

        It has `choices` only if some gene is restricted, since earlier releases stored requests without this key.
        """
        values = asdict(self) | {"limits": [asdict(limit) for limit in self.limits], "objectives": [*self.objectives]}
        choices = {name: list(values) for name, values in values.pop("choices")}
        values |= {"choices": choices} if choices else {}
        return {"budget" if name == "evaluations" else name: value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The request that `to_json` wrote. Fields that an earlier release did not store have their defaults."""
        values = {name: data[name] for name in (field.name for field in fields(cls)) if name in data}
        values["limits"] = tuple(Limit(**limit) for limit in data["limits"])
        values["objectives"] = tuple(data.get("objectives", ()))
        values["choices"] = canonical_choices(data.get("choices", {}))
        values["evaluations"] = data["budget"]
        return cls(**values)

    @property
    def devices(self) -> list[str]:
        """The devices whose latency is limited or an objective, sorted."""
        return sorted({device for device in (self.device, *(limit.device for limit in self.limits)) if device})

    @property
    def minimise(self) -> str | None:
        """The cost to minimise at `min_accuracy`."""
        return None if self.objective in ("accuracy", "pareto") else self.objective

    @property
    def first_cost(self) -> tuple[str, str | None]:
        """The cost that its front is sorted by, and its device: the first objective or limit, else FLOPs."""
        cost = next(iter(self.objectives), None)
        if cost is None and self.limits:
            return self.limits[0].cost, self.limits[0].device
        return cost or self.minimise or "flops", self.device

    @property
    def is_short(self) -> bool:
        """Whether the client may wait for the answer, so that it needs no job."""
        return not self.verify and self.evaluations <= IN_PROCESS

    def problem(
        self,
        tables: CostTables,
        predictor: Predictor,
        latency_models: Mapping[str, LatencyModel],
        known: Genomes | None = None,
    ) -> Problem:
        """The problem to solve. latency_models: by device. known: as in `Problem`. Raises what `build_problem` does."""
        return build_problem(
            tables,
            predictor,
            latency_models,
            limits=self.limits,
            minimise=self.minimise,
            min_accuracy=self.min_accuracy,
            front=self.objectives,
            device=self.device,
            resolution=self.resolution,
            max_resolution=self.max_resolution,
            choices=dict(self.choices),
            known=known,
        )

    def search(self, problem: Problem, warm_start: Genomes | None = None) -> Search:
        """The search for the answer to `problem`, ready to run. warm_start: (N, G). Raises what `Search` does."""
        return Search(
            problem, strategy=self.strategy, evaluations=self.evaluations, seed=self.seed, warm_start=warm_start
        )


def canonical_choices(choices: Mapping[str, Sequence[float]]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    """Restrictions by name of the gene, as `evolution.choices.Choices` takes them, in a fixed order without repeats."""
    whole = {
        name: {int(value) if value == int(value) else value for value in values} for name, values in choices.items()
    }
    return tuple((name, tuple(sorted(values))) for name, values in sorted(whole.items()))
