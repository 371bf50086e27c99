"""A search request in its canonical form: what is stored, hashed and searched for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from evolution.costs import CostTables
from evolution.limits import Limit
from evolution.predictors.latency import LatencyModel
from evolution.problem import Measure, Predictor, Problem, build_problem
from evolution.search import Search, default_evaluations
from service.errors import InputError
from supernet.evaluation.metrics import Metric
from supernet.space import Genomes, Value

Evaluate = Literal["predicted", "inherited"]
INHERITED_EVALUATIONS = 300  # unless a request says otherwise; each takes some ten milliseconds to seconds
IN_PROCESS = 25_000  # evaluations that a client may wait for; a search with more is a job


@dataclass(frozen=True)
class SearchRequest:
    """What to search for, and how. The fields mean what they mean in `SearchIn`, without its shorthands.

    device: where an objective that a device has is predicted. objectives: the costs of the front; empty unless the
    objective is `pareto`. choices: as from `canonical_choices`. strategy: None for the default of the problem.
    evaluations: how many architectures to evaluate at most; its JSON key is `budget`. seconds: how long to search at
    most.

    Raises:
        InputError: a metric that does not go together with `evaluate` or `min_accuracy`, or a strategy with `evaluate`.
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
    evaluations: int = default_evaluations("evolution")
    seconds: float | None = None
    warm_start: bool = True
    verify: bool = False
    choices: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    evaluate: Evaluate = "predicted"
    metric: Metric = "accuracy"

    def __post_init__(self) -> None:
        if self.metric != "accuracy" and not self.is_inherited:
            raise InputError(
                f"`metric` is {self.metric!r}, and the predictor predicts accuracy; set `evaluate` to 'inherited', or "
                "leave the metric out",
                "metric",
                "evaluate",
            )
        if self.metric != "accuracy" and self.min_accuracy is not None:
            raise InputError(
                f"`metric` is {self.metric!r}, and `min_accuracy` is on accuracy; leave one of them out",
                "metric",
                "min_accuracy",
            )

        if self.is_inherited and self.strategy == "exact":
            raise InputError(
                "`strategy` is 'exact', which proves its answer for the predictor, and `evaluate` is 'inherited'; "
                "leave one of them out",
                "strategy",
                "evaluate",
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict. Stored requests are compared and hashed by it, so neither keys nor values may change.

        `choices` is left out unless some gene is restricted, `seconds` unless they are limited, and `evaluate` and
        `metric` where accuracy is predicted: earlier releases stored requests without these keys.
        """
        values = asdict(self) | {"limits": [asdict(limit) for limit in self.limits], "objectives": [*self.objectives]}
        choices = {name: list(values) for name, values in values.pop("choices")}
        values |= {"choices": choices} if choices else {}
        if not self.is_inherited:
            del values["evaluate"], values["metric"]
        if self.seconds is None:
            del values["seconds"]
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
        """The devices that limits or objectives are on, sorted."""
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
    def is_inherited(self) -> bool:
        """Whether subnets are scored on held-out images, in place of predicting their accuracy."""
        return self.evaluate == "inherited"

    @property
    def is_short(self) -> bool:
        """Whether the client may wait for the answer, so that it needs no job."""
        return not self.verify and not self.is_inherited and self.evaluations <= IN_PROCESS

    def problem(
        self,
        tables: CostTables,
        predictor: Predictor,
        latency_models: Mapping[str, LatencyModel],
        known: Genomes | None = None,
        measure: Measure | None = None,
    ) -> Problem:
        """The problem to solve. latency_models: by device. known, measure: as in `Problem`.

        Raises what `build_problem` does.
        """
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
            measure=measure,
        )

    def search(self, problem: Problem, warm_start: Genomes | None = None) -> Search:
        """The search for the answer to `problem`, ready to run. warm_start: (N, G). Raises what `Search` does."""
        return Search(
            problem,
            strategy=self.strategy,
            evaluations=self.evaluations,
            seconds=self.seconds,
            seed=self.seed,
            warm_start=warm_start,
        )


def canonical_choices(choices: Mapping[str, Sequence[float]]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    """Restrictions by name of the gene, as `evolution.choices.Choices` takes them, in a fixed order without repeats."""
    whole = {
        name: {int(value) if value == int(value) else value for value in values} for name, values in choices.items()
    }
    return tuple((name, tuple(sorted(values))) for name, values in sorted(whole.items()))
