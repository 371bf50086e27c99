"""Request and answer bodies of searches."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from evolution.search import EVALUATIONS, Ending, default_evaluations
from service.candidates.schemas import CandidateOut, Cost
from service.costs import COSTS
from service.searches.request import INHERITED_EVALUATIONS, Evaluate
from service.web.schemas import Answer, Id, Name, Positive, Request, Text
from supernet.evaluation.metrics import Metric

Status = Literal["queued", "running", "verifying", "done", "not_verified", "failed", "cancelled"]
Holds = Literal["counted", "predicted", "bound", "measured"]
if TYPE_CHECKING:  # here and below: types that follow from the table of costs, which type checkers cannot read
    FrontObjective = str
    Objective = str
else:
    FrontObjective = Literal["accuracy", *(kind.name for kind in COSTS)]
    Objective = Literal[FrontObjective, "pareto"]


Gene = Annotated[Text, Field(min_length=1, max_length=64)]


class LimitIn(Request):
    """The largest allowed value of one cost."""

    cost: Cost = Field(description="; ".join(f"`{kind.name}`: {kind.description}" for kind in COSTS) + ".")
    max: Positive = Field(description="The largest allowed value, in the cost's unit.")
    device: Name | None = Field(
        None,
        description="The device that the limit is on. Only for `latency_ms`, `device_memory_bytes` and `energy_mj`; by "
        "default the request's device.",
    )
    confidence: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="Only for `latency_ms`: limit the one-sided upper bound of the latency at this confidence, instead "
        "of the predicted latency. The bound is conformal and marginal: it holds for this share of networks drawn like "
        "those that the device measured, on average. A search chooses networks that look fast, so fewer of its answers "
        "may hold; `verify` measures them.",
    )


class LimitsIn(Request):
    """What a search is about: a supernet, limits and a device."""

    supernet: Id | None = Field(
        None, description="The supernet to search. May be left out where only one is registered."
    )
    limits: list[LimitIn] = Field(
        [], max_length=16, description="The answer exceeds none of these limits. `max_...` fields add further ones."
    )
    device: Name | None = Field(
        None,
        description="The device of `max_latency_ms`, `max_device_memory_bytes` and `max_energy_mj`, of such limits "
        "that name no device, and of such costs as objectives.",
    )


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
                    description=f"Shorthand for a limit on `{kind.name}`{'' if kind.build else ' of `device`'}: "
                    f"{kind.description}.",
                ),
            )
            for kind in COSTS
        },
    )


class SearchIn(ShorthandLimitsIn):
    """A search for the best architecture within hard limits."""

    objective: Objective = Field(
        "accuracy",
        description="`accuracy`: find the most accurate architecture. A cost: find the architecture of lowest cost "
        "that has `min_accuracy`. `pareto`: find the whole Pareto front of `objectives`.",
    )
    objectives: list[FrontObjective] = Field(
        [],
        max_length=3,
        description="Only for the objective `pareto`: one or two costs; `accuracy` is always included. By default "
        "`latency_ms` if the request has a device, else `flops`.",
    )
    min_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Only for a cost as objective: the accuracy that the answer should reach, as a fraction. If no "
        "architecture found reaches it, the answer is the most accurate one, and `min_accuracy_reached` is false.",
    )
    resolution: int | None = Field(None, gt=0, description="The only image size allowed, pixels.")
    max_resolution: int | None = Field(None, gt=0, description="The largest image size allowed, pixels.")
    choices: dict[Gene, Annotated[list[float], Field(min_length=1, max_length=127)]] = Field(
        {},
        max_length=128,
        description='Restricts genes to some of their choices, as in `{"kernel_size": [3, 5], "stage3.depth": [2]}`. A '
        "name is a gene's (`stage2.block1.kernel_size`), a kind's (`kernel_size`: in all blocks), or a kind's within a "
        "stage (`stage2.kernel_size`). No architecture with another choice is evaluated; floors and proofs in refusals "
        "are about the architectures that are left.",
    )
    strategy: Text | None = Field(
        None,
        max_length=32,
        description="The search strategy. By default `exact` where the accuracy predictor is a sum over genes, so that "
        "it can prove its answer, and for a front only of one cost; otherwise `evolution`, and `nsga2` for a front.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of all random choices. The same inputs and seed give the same answer."
    )
    evaluate: Evaluate = Field(
        "predicted",
        description="What ranks architectures. `predicted`: the accuracy predictor. `inherited`: `metric`, which a "
        "worker measures on held-out images with the supernet's weights, after recalibration of batch norm. A subnet "
        "is measured once, and what was measured is stored.",
    )
    metric: Metric = Field(
        "accuracy",
        description="Only for `evaluate: inherited`: what to measure, and to maximise. `accuracy`: top-1. `top5`: how "
        "often the true class is among the five most probable. `f1_macro`: the mean of F1 over the classes. "
        "`log_likelihood`: the mean log-likelihood of the true class, nats. In a front and in its hypervolume, "
        "exp(`log_likelihood`) takes the place of the accuracy.",
    )
    evaluations: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="How many architectures to evaluate, at most. The default follows from the strategy: "
        f"{default_evaluations('evolution'):,} for `evolution`, which ends before if its restarts agree; "
        f"{EVALUATIONS:,} for others. With `evaluate: inherited` it is {INHERITED_EVALUATIONS}.",
    )
    seconds: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None,
        description="How long to search, at most. If this ends a search, as its `ended_by` says, the answer depends on "
        "the machine: the same inputs and seed may give another answer.",
    )
    budget: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Deprecated name of `evaluations`.",
        json_schema_extra={"deprecated": True},
    )
    warm_start: bool = Field(
        True,
        description="True: start from the best stored candidates within the limits, and if the same search ran before, "
        "answer with its stored result. False: ignore everything stored, so that the same seed gives the same answer.",
    )
    verify: bool = Field(
        False,
        description="Let a worker measure the accuracy of the finalists on held-out images, and a worker or a probe on "
        "the devices measure their latency. The search is `verifying` until then, and its `progress` says what it "
        "waits for. The answer is the best finalist whose measured latency holds its limit with the upper 95 % bound.",
    )


class LimitOut(Answer):
    """A limit, and the best candidate's value."""

    cost: Cost
    max: float
    device: str | None
    confidence: float | None
    value: float | None = Field(description="The best candidate's value, obtained as `holds` says.")
    holds: Holds | None = Field(
        description="How it is known that the limit holds. `counted`: exactly, as for every cost that is the same on "
        "all devices; `predicted`: by the device's model; `bound`: by its upper bound, for networks drawn like the "
        "measured ones, of which a search is a biased choice; `measured`: on the device, a latency with `upper`."
    )
    upper: float | None = Field(
        None, description="The upper 95 % bound of the best candidate's measured latency, which is within the limit."
    )


class SearchSummary(Answer):
    """A search in a list."""

    id: str
    supernet: str
    status: Status
    request: dict[str, Any] = Field(description="The request in its canonical form.")
    best: CandidateOut | None
    limits_hold: Holds | None = Field(
        description="How it is known that all limits hold: `holds` of the least certain limit. `counted` only if every "
        "limit is counted."
    )
    problem: dict[str, Any] | None = Field(description="A problem document: why there is no best candidate.")
    created_at: datetime
    finished_at: datetime | None


class Optimality(Answer):
    """A certificate: how good the answer is beside the best that could be. For the predictor, and not in truth."""

    proven: bool = Field(
        description="Whether the answer is proven optimal for the predictor: `gap` is 0. Of a front: that it is whole."
    )
    bound: float = Field(
        description="It is certain, up to rounding, that no architecture within the limits has a higher predicted "
        "accuracy; or, for a cost as objective that reaches `min_accuracy`, a lower cost; or, for a front, none "
        "has a larger hypervolume."
    )
    gap: float = Field(description="The distance of the answer from `bound`, in the same unit.")


class Hypervolume(Answer):
    """The hypervolume of the front after each generation: how much of the objective space the front dominates."""

    reference: dict[str, float] = Field(
        description="The reference point: error 1 (accuracy 0), and for each cost its limit or, without a limit, the "
        "cost of the most expensive architecture."
    )
    per_generation: list[float] = Field(description="In the product of the objectives' units.")


class Change(Answer):
    """A change of one gene of an architecture."""

    gene: str = Field(description="The gene's name. A larger depth also sets the genes of the new block.")
    old: float
    new: float
    accuracy: float = Field(description="The change of the predicted accuracy.")
    cost: float = Field(description="The change of the cost.")


class Sensitivity(Answer):
    """How the predicted accuracy changes when one limit is raised or lowered a little and all other limits stay.

    It is read off the architectures that one or two changes of the answer lead to. A new search with the changed limit
    finds an architecture that is at least as accurate.
    """

    cost: str = Field(description="The name of the limited cost, as in a refusal, or of the minimised cost.")
    limit: float = Field(description="The limit; for a minimised cost, the answer's value.")
    step: float = Field(description="By how much the limit is raised and lowered, in the cost's unit.")
    gained: float = Field(description="The accuracy gained with the raised limit.")
    lost: float | None = Field(
        description="The accuracy lost with the lowered limit; null if no such architecture is within that limit."
    )
    gained_per_unit: float = Field(description="`gained` per unit of the cost.")
    lost_per_unit: float | None = Field(description="`lost` per unit of the cost.")
    cheapest: Change | None = Field(
        description="The change of one gene that lowers the cost and loses the least accuracy per unit of it."
    )


class SearchOut(SearchSummary):
    """A search and its answer."""

    limits: list[LimitOut]
    binding: str | None = Field(
        None,
        description="The limit that binds, by `sensitivity`: raised by 5 %, it gains more predicted accuracy than any "
        "other limit; if none gains any alone, lowered by 5 %, it loses most. `latency_ms@DEVICE` is the latency on a "
        "device. Null if no limit changes the accuracy.",
    )
    min_accuracy_reached: bool | None = Field(
        description="Whether the best candidate reaches `min_accuracy`; if not, it is the most accurate architecture "
        "found within the limits. Null if the request has no `min_accuracy`."
    )
    front: list[CandidateOut] = Field(
        description="The Pareto front of the evaluated architectures, sorted by its first cost. Of a large front, 256 "
        "members that lie far apart."
    )
    front_size: int | None = Field(description="How many members the whole front has.")
    device_fronts: dict[str, list[str]] = Field(
        {},
        description="By device that limits or objectives are on, the front of accuracy and latency on it: the "
        "ids of the members of `front` that no other member beats in both, fastest first.",
    )
    hypervolume: Hypervolume | None = Field(description="Only of a search for a front.")
    sensitivity: list[Sensitivity] = Field(description="One entry for each limit, around the best candidate.")
    seed: int
    predictor: str = Field(description="The version of the accuracy predictor.")
    predictor_warning: str | None = Field(
        description="A warning if the accuracy predictor ranks held-out architectures badly."
    )
    latency_models: dict[str, str] = Field(description="By device, the id of the latency model that was used.")
    device_warnings: dict[str, str] = Field(
        {},
        description="By device, a warning if its numbers are stale: its probe now has another runtime than the one "
        "that its latency model was measured with.",
    )
    answered_from: str | None = Field(
        description="The id of the earlier search whose stored result this is; null if the search ran for this request."
    )
    warm_starts: int = Field(description="How many stored candidates the search started from.")
    evaluations: int | None = Field(description="How many architectures were evaluated, as `evaluate` says.")
    strategy: str | None = Field(description="The strategy that searched; null before the search has ended.")
    optimality: Optimality | None = Field(
        description="How good the best candidate is beside the best that could be. Null if nothing is proven: with "
        "another strategy than `exact`, with a predictor that is no sum over genes, for a verified candidate that is "
        "not the best by prediction, and for a search of an earlier release."
    )
    two_opt: bool | None = Field(
        description="Whether no architecture within the limits that one or two changes of the best lead to is better: "
        "the local search evaluated them all, or the best is proven optimal."
    )
    two_opt_evaluations: int | None = Field(description="How many evaluations the local search took.")
    gained_last_1000: float | None = Field(
        description="By how much the last 1,000 evaluations raised the best accuracy or lowered the minimised cost. "
        "Null if there were no more than 1,000, or if the earlier ones did not reach `min_accuracy`."
    )
    ended_by: Ending | None = Field(
        description="Why the search ended. `agreed`: its restarts agree on the best candidate. `proven`: that is "
        "proven optimal. `exhausted`: the strategy had nothing left to propose. `evaluations`, `seconds`: the most "
        "allowed were spent, so a longer search may find a better candidate. Null for a search of an earlier release."
    )
    elapsed_ms: float | None = Field(
        description="How long the search took, without verification. Of a job: in the worker that finished it."
    )
    progress: dict[str, Any] | None = Field(
        description="How far the search is, while it runs. While probes measure its finalists, `waiting` says by "
        "device what it waits for."
    )
