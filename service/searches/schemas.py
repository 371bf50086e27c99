"""Bodies about searches."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from evolution.search import EVALUATIONS
from service.candidates.schemas import CandidateOut, Cost
from service.costs import COSTS
from service.web.schemas import Answer, Id, Name, Positive, Request, Text

Status = Literal["queued", "running", "done", "not_verified", "failed", "cancelled"]
Holds = Literal["counted", "predicted", "bound", "measured"]
if TYPE_CHECKING:
    FrontObjective = str
    Objective = str
else:
    FrontObjective = Literal["accuracy", *(kind.name for kind in COSTS)]
    Objective = Literal[FrontObjective, "pareto"]


class LimitIn(Request):
    """The most that one cost may be."""

    cost: Cost = Field(
        description="`flops` are multiply-adds, `model_bytes` what the ONNX file has at most, `peak_memory_bytes` "
        "single-precision activations alive at once, for one image."
    )
    max: Positive
    device: Name | None = Field(None, description="For latency_ms.")
    confidence: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="For latency_ms: hold the upper bound at this confidence, instead of the predicted latency.",
    )


class LimitsIn(Request):
    """The supernet to search, and the limits."""

    supernet: Id | None = Field(None, description="May be left out where there is only one.")
    limits: list[LimitIn] = Field([], max_length=16)
    device: Name | None = Field(None, description="The device of max_latency_ms, or of latency_ms as an objective.")


if TYPE_CHECKING:
    ShorthandLimitsIn = LimitsIn
else:
    ShorthandLimitsIn = create_model(
        "ShorthandLimitsIn",
        __base__=LimitsIn,
        **{
            kind.field: (
                Positive | None,
                Field(
                    None,
                    description=f"The most `{kind.name}`{'' if kind.build else ' on `device`'}: {kind.description}. "
                    "The same as an entry of `limits`.",
                ),
            )
            for kind in COSTS
        },
    )


class SearchIn(ShorthandLimitsIn):
    """A question: the best architecture within limits that are never exceeded."""

    objective: Objective = Field(
        "accuracy",
        description="What to make best: the accuracy, a cost at `min_accuracy`, or for `pareto` the whole front of "
        "`objectives`.",
    )
    objectives: list[FrontObjective] = Field(
        [],
        max_length=3,
        description="With `pareto`: the accuracy, which goes without saying, and one or two costs. Unless given, "
        "latency_ms where there is a device, else flops.",
    )
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="With a cost as objective: the least accuracy, a fraction. It has no floor: where nothing found "
        "reaches it, the most accurate is the answer, and `min_accuracy_reached` is false.",
    )
    resolution: int | None = Field(None, gt=0, description="The only input side allowed, pixels.")
    max_resolution: int | None = Field(None, gt=0, description="The largest input side allowed, pixels.")
    strategy: Text | None = Field(None, max_length=32, description="Unless given, evolution; for a front nsga2.")
    seed: int = Field(0, ge=0, lt=2**63, description="Equal inputs and seed, equal answer.")
    budget: int = Field(
        EVALUATIONS, ge=1, le=1_000_000, description="The most architectures to evaluate by prediction."
    )
    warm_start: bool = Field(
        True,
        description="Start from the best stored candidates within the limits, which become inputs, and be answered "
        "from storage where the same was asked before. False: nothing stored counts; equal seeds, equal answers.",
    )
    verify: bool = Field(
        False, description="Have a worker run the finalists on held-out images and, where it can, on the device."
    )


class LimitOut(Answer):
    """A limit, and how the best candidate stands to it."""

    cost: Cost
    max: float
    device: str | None
    confidence: float | None
    value: float | None = Field(description="The best candidate's, as `holds` says.")
    holds: Holds | None = Field(
        description="How it is known that the limit holds: counted (all but latency), predicted, at the predicted "
        "bound, or measured on the device."
    )


class SearchSummary(Answer):
    """A search in a list."""

    id: str
    supernet: str
    status: Status
    request: dict[str, Any] = Field(description="The question in its canonical form.")
    best: CandidateOut | None
    limits_hold: Holds | None = Field(
        description="How it is known that the limits hold: the least certain of them, counted ones apart."
    )
    problem: dict[str, Any] | None = Field(description="Why there is no best candidate.")
    created_at: datetime
    finished_at: datetime | None


class Hypervolume(Answer):
    """How much of the objectives' space the front dominated after each generation."""

    reference: dict[str, float] = Field(
        description="Where the volume ends: error 1 (accuracy 0), and of each cost its limit or what the largest "
        "architecture costs."
    )
    per_generation: list[float] = Field(description="In the product of these units.")


class Change(Answer):
    """One gene of an architecture changed."""

    gene: str = Field(description="Where a stage grows, its depth; the new block's genes are set with it.")
    old: float
    new: float
    accuracy: float = Field(description="By how much the predicted accuracy changes.")
    cost: float = Field(description="By how much the cost changes.")


class Sensitivity(Answer):
    """What a little more or less of one limit buys, every other limit held.

    Read off the architectures that one or two changes make of the answer, by prediction: a search under the other limit
    finds one as good or better.
    """

    cost: str = Field(description="The limited cost, named as in a refusal; or the one that is minimised.")
    limit: float = Field(description="Its limit; of a minimised cost, what the answer has of it.")
    step: float = Field(description="By how much the limit is raised and lowered, in its unit.")
    gained: float = Field(description="Accuracy that the raised limit buys.")
    lost: float | None = Field(description="Accuracy that the lowered one takes; null where nothing near is within it.")
    gained_per_unit: float
    lost_per_unit: float | None
    cheapest: Change | None = Field(description="The change of one gene that saves cost at the least accuracy.")


class SearchOut(SearchSummary):
    """A search and its answer."""

    limits: list[LimitOut]
    min_accuracy_reached: bool | None = Field(
        description="Whether the best candidate is predicted to have `min_accuracy`; otherwise it is the most accurate "
        "one found within the limits. Null where none was asked."
    )
    front: list[CandidateOut] = Field(
        description="Pareto front of what was evaluated, from the least of its first cost; of a large one, 256 members "
        "that lie far apart."
    )
    front_size: int | None = Field(description="How many members the whole front has.")
    hypervolume: Hypervolume | None = Field(description="Of a search for a front.")
    sensitivity: list[Sensitivity] = Field(description="Around the best candidate, for each limit.")
    seed: int
    predictor: str = Field(description="Version of the accuracy predictor.")
    predictor_warning: str | None = Field(description="What to know of a predictor that ranks held-out pairs badly.")
    latency_models: dict[str, str] = Field(description="The latency model used, by device.")
    answered_from: str | None = Field(
        description="The stored search that answers this request, asked before; null where it was searched for."
    )
    warm_starts: int = Field(description="From how many stored candidates it started.")
    evaluations: int | None = Field(description="Architectures evaluated by prediction.")
    two_opt: bool | None = Field(
        description="Whether everything that one or two changes make of the best, within the limits, was evaluated and "
        "none was better. Never of a search for a front."
    )
    two_opt_evaluations: int | None = Field(description="How many evaluations that local search took.")
    gained_last_1000: float | None = Field(
        description="What the last 1,000 evaluations added to the best accuracy, or took off the minimised cost; null "
        "where there were no more, or those before did not reach `min_accuracy`."
    )
    elapsed_ms: float | None = Field(
        description="Time that searching took, verification apart; of a job, in the worker that finished it."
    )
    progress: dict[str, Any] | None = Field(description="While it runs.")
