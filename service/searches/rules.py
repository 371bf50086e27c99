"""From a request to a question, from a question to an answer, and the answer's rows."""

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from evolution.constraints import Infeasible, Limit, NotProven, Refused, constrain, cost_of
from evolution.costs import Cost
from evolution.pareto import crowding_distances, dominance_ranks
from evolution.problem import MOST_FRONT_COSTS, Problem
from evolution.search import Search, SearchResult
from evolution.sensitivity import sensitivities
from service import models
from service.candidates import queries as candidates
from service.candidates.rules import candidate_id, spread_out
from service.context import Context
from service.devices import queries as devices
from service.errors import ConflictError, InfeasibleError, InvalidError
from service.models import new_id, now
from service.searches import queries
from service.searches.schemas import Holds, SearchIn
from service.store import Store, pack
from service.supernets import queries as supernets
from service.supernets.rules import check_extractable
from supernet.space import Genomes

IN_PROCESS = 20_000  # evaluations that a request may wait for; more are a job's work
FINALISTS = 64  # kept beside the front, for verification to choose from
MOST_ON_FRONT = 256  # members of a front that are kept
WARM_STARTS = 64  # stored candidates that a search starts from at most, unless it seeks a front
SHORTHANDS = {f"max_{cost}": cost for cost in ("latency_ms", "flops", "params", "model_bytes", "peak_memory_bytes")}


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on, its seed included. latency_models: by device."""

    supernet: models.Supernet
    request: Mapping[str, Any]
    latency_models: Mapping[str, models.LatencyModel]
    warm_start: Genomes | None = None  # (N, G)

    @property
    def hash(self) -> str:
        """SHA-256 of all of it but the warm start: equal for what was asked before."""
        versions = {device: row.id for device, row in self.latency_models.items()}
        asked = [self.request, self.supernet.predictor_version, versions]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def is_short(self) -> bool:
        """Whether it may be answered while the client waits."""
        return not self.request["verify"] and self.request["budget"] <= IN_PROCESS


@dataclass(frozen=True)
class Answered:
    """A result, what was searched for, and the time that searching took, ms."""

    result: SearchResult
    problem: Problem
    elapsed_ms: float


def ask(session: Session, body: SearchIn) -> Question:
    """The question in a request, with the newest models that it depends on.

    Raises:
        NotFoundError, InvalidError: a supernet or device that is not there or not measured; fields that contradict.
    """
    supernet = supernets.get(session, body.supernet) if body.supernet else supernets.only(session)
    if body.verify:
        check_extractable(supernet)
    request = canonical(body, supernet.id)
    names = {limit["device"] for limit in request["limits"]} | {request["device"]}
    latency = devices.models_for(session, sorted(names - {None}), supernet.space_hash)
    return Question(supernet, request, latency)


def answered_before(session: Session, question: Question) -> models.Search | None:
    """The stored search that answers a question, unless it asks for nothing stored to count.

    A verified one whose latency was left as predicted does not: a worker on the device may measure it this time.
    """
    if not question.request["warm_start"]:
        return None
    search = queries.answered(session, question.hash)
    unmeasured = search is not None and search.limits_hold in ("predicted", "bound")
    return None if unmeasured and question.request["verify"] else search


def posed(session: Session, context: Context, question: Question) -> tuple[Question, Problem]:
    """A question with its warm start, should it ask for one, and the problem it states.

    Stored candidates are asked whether the limits can be met, too, where that is neither found nor proven impossible.

    Raises:
        InfeasibleError, ValueError: as `make_problem`.
    """
    problem = _problem(context, question)
    try:
        problem.region  # noqa: B018 - made once, and whatever refuses the question does so here
    except NotProven as error:
        question = _warmed(session, question, problem)
        if question.warm_start is None or not len(question.warm_start):
            raise refusal(error) from error
        return question, make_problem(context, question)
    except Refused as error:
        raise refusal(error) from error
    return _warmed(session, question, problem), problem


def _warmed(session: Session, question: Question, problem: Problem) -> Question:
    """A question that starts from the best stored candidates within its limits, should it ask for that.

    Where a front is sought, those of the stored front go first. The best is never left out, so that an answer is never
    worse than what is stored.
    """
    if not question.request["warm_start"]:
        return question
    _, genomes, accuracy = candidates.of_supernet(session, question.supernet)
    if not len(genomes):
        return question
    within = problem.within(genomes)
    genomes, accuracy = genomes[within], accuracy[within]
    costs = np.stack([cost(genomes) for cost in problem.costs], axis=1)
    order, most = np.lexsort((costs[:, 0], -problem.fitness(accuracy, costs))), WARM_STARTS
    if problem.pareto:
        sought = np.column_stack([-accuracy, costs[:, : len(problem.pareto)]])[order]
        ranks = dominance_ranks(sought)
        order, most = order[np.lexsort((-crowding_distances(sought, ranks), ranks))], MOST_ON_FRONT
    return replace(question, warm_start=genomes[order[:most]])


def asked_before(session: Session, idempotency_key: str | None, body: SearchIn) -> models.Search | None:
    """The search that this key was sent with before.

    Raises:
        ConflictError: it asked something else.
    """
    earlier = queries.by_key(session, idempotency_key) if idempotency_key else None
    if earlier is not None and earlier.request != canonical(body, body.supernet or earlier.supernet_id):
        raise ConflictError(
            f"Idempotency-Key {idempotency_key!r} was sent before with another request, which became search "
            f"{earlier.id}; use another key"
        )
    return earlier


def canonical(body: SearchIn, supernet_id: str) -> dict[str, Any]:
    """A request without shorthands, its limits in a fixed order: what is stored, and asked again to repeat a search.

    Raises:
        InvalidError: fields that contradict each other or lack their device.
    """
    limits = [limit.model_dump() for limit in body.limits]
    for shorthand, cost in SHORTHANDS.items():
        if (value := getattr(body, shorthand)) is not None:
            device = body.device if cost == "latency_ms" else None
            limits.append({"cost": cost, "max": value, "device": device, "confidence": None})
    for limit in limits:
        if limit["cost"] == "latency_ms" and limit["device"] is None:
            limit["device"] = body.device
        Limit(**limit)  # refuses a device missing or out of place
    _check_confidences(limits)
    objectives = _objectives(body)
    on_device = "latency_ms" in (body.objective, *objectives)
    if body.device is not None and not on_device and body.device not in {x["device"] for x in limits}:
        raise InvalidError(
            f"device is {body.device!r}, but nothing limits its latency; add max_latency_ms or leave it out"
        )
    if on_device and body.device is None:
        raise InvalidError("latency_ms as an objective needs a device")
    if (body.objective in ("accuracy", "pareto")) != (body.min_accuracy is None):
        raise InvalidError(
            f"objective is {body.objective!r} and min_accuracy is {body.min_accuracy}; min_accuracy goes with a cost "
            "as objective, and such an objective needs it"
        )
    kept = ("objective", "min_accuracy", "resolution", "max_resolution", "seed", "budget", "warm_start", "verify")
    return {
        "supernet": supernet_id,
        "limits": sorted(limits, key=lambda x: (x["cost"], x["device"] or "", x["confidence"] or 0.0, x["max"])),
        "device": body.device if on_device else None,
        "objectives": objectives,
        "strategy": body.strategy or ("nsga2" if objectives else "evolution"),
        **{field: getattr(body, field) for field in kept},
    }


def _objectives(body: SearchIn) -> list[str]:
    """The costs of the front that is sought; none where none is.

    Raises:
        InvalidError: objectives without the objective `pareto`, twice the same, or more than two costs.
    """
    costs: list[str] = [name for name in body.objectives if name != "accuracy"]
    if body.objective != "pareto":
        if body.objectives:
            raise InvalidError(f"objectives go with the objective 'pareto', and objective is {body.objective!r}")
        return []
    if len(set(costs)) != len(costs) or len(costs) > MOST_FRONT_COSTS:
        raise InvalidError(
            f"objectives are {', '.join(body.objectives)}; a front is of the accuracy and 1 or {MOST_FRONT_COSTS} "
            "different costs"
        )
    return costs or ["latency_ms" if body.device else "flops"]


def _check_confidences(limits: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two confidences on one device: an answer shows one bound for each."""
    confidences: dict[str, set[float]] = defaultdict(set)
    for limit in limits:
        if limit["confidence"] is not None:
            confidences[limit["device"]].add(limit["confidence"])
    for device, given in confidences.items():
        if len(given) > 1:
            raise InvalidError(
                f"device {device!r} is limited at the confidences {' and '.join(map(str, sorted(given)))}; give it one"
            )


def begin(problem: Problem, question: Question) -> Search:
    """The search that answers a question, ready to run. Raises ValueError for an unknown strategy."""
    request = question.request
    return Search(
        problem,
        strategy=request["strategy"],
        evaluations=request["budget"],
        seed=request["seed"],
        warm_start=question.warm_start,
    )


def make_problem(context: Context, question: Question) -> Problem:
    """What is searched for.

    Raises:
        InfeasibleError: nothing is within the limits. ValueError: an unknown resolution, a confidence that the
            device's measurements do not support.
    """
    problem = _problem(context, question)
    try:
        problem.region  # noqa: B018 - as in `posed`
    except Refused as error:
        raise refusal(error) from error
    return problem


def _problem(context: Context, question: Question) -> Problem:
    """The same, without asking whether anything is within the limits."""
    tables = context.loaded(question.supernet).tables
    predictor = context.predictor(question.supernet)
    latency = {name: context.latency_model(row, tables) for name, row in question.latency_models.items()}
    request = question.request

    def sought(cost: str) -> Cost:
        return cost_of(Limit(cost, 1.0, request["device"] if cost == "latency_ms" else None), tables, latency)

    return Problem(
        tables,
        predictor,
        constrain([Limit(**limit) for limit in request["limits"]], tables, latency),
        request["resolution"],
        minimise=None if request["objective"] in ("accuracy", "pareto") else sought(request["objective"]),
        min_accuracy=request["min_accuracy"],
        pareto=tuple(sought(cost) for cost in request["objectives"]),
        max_resolution=request.get("max_resolution"),  # searches stored by earlier releases have none
        known=question.warm_start,
    )


def solve(problem: Problem, question: Question) -> Answered:
    """Search to the end. Raises what `begin` does."""
    started = time.perf_counter()
    search = begin(problem, question)
    for _ in search.run():
        pass
    return answered(search, started)


def answered(search: Search, started: float) -> Answered:
    """The answer of a search that has run. started: its `time.perf_counter`."""
    return Answered(search.result(), search.problem, 1e3 * (time.perf_counter() - started))


def refusal(error: Refused) -> InfeasibleError:
    """The library's refusal as the API's."""
    return InfeasibleError(
        str(error),
        proven=isinstance(error, Infeasible),
        limits=error.limits,
        floors={name: _known(value) for name, value in error.floors.items()},
        nearest={name: {"max": _known(near.value), "proven": near.proven} for name, near in error.nearest.items()},
        smallest={
            "arch": error.smallest.to_json(),
            "costs": {name: _known(value) for name, value in error.costs.items()},
        },
    )


def _known(value: float) -> float | None:
    """A number, None for inf."""
    return value if math.isfinite(value) else None


def add(session: Session, store: Store, question: Question, *, status: str, key: str | None) -> models.Search:
    """Write a question as a search without an answer yet."""
    warm_start = None if question.warm_start is None else store.put(pack({"genomes": question.warm_start}))
    return queries.add(
        session,
        models.Search(
            id=new_id(),
            supernet_id=question.supernet.id,
            request=dict(question.request),
            predictor_version=question.supernet.predictor_version or "",
            latency_models={device: row.id for device, row in question.latency_models.items()},
            warm_start=warm_start,
            warm_starts=0 if question.warm_start is None else len(question.warm_start),
            question=question.hash,
            seed=question.request["seed"],
            idempotency_key=key,
            status=status,
        ),
    )


def add_answer(session: Session, context: Context, search: models.Search, question: Question, answer: Answered) -> None:
    """Write what a search found: its front and finalists as candidates, with predictions, and all it evaluated."""
    result = answer.result
    search.evaluations, search.elapsed_ms = result.evaluations, answer.elapsed_ms
    search.findings = _findings(answer)
    search.evaluated = context.store.put(
        pack(
            {
                "genomes": result.evaluated.genomes,
                "predicted_accuracy": result.evaluated.accuracy,
                "costs": result.evaluated.costs,
                "cost_names": np.array(result.evaluated.names),
            }
        )
    )
    genomes, on_front = _kept(result)
    ids = _add_candidates(session, context, question, genomes)
    queries.add_members(
        session,
        [
            {"search_id": search.id, "candidate_id": one, "place": place, "on_front": bool(on_front[place])}
            for place, one in enumerate(ids)
        ],
    )
    if search.request["verify"]:
        search.status = "running"
        return
    search.best_candidate_id = ids[0]
    search.limits_hold = least_certain([limit_holds(limit) for limit in search.request["limits"]])
    search.status, search.finished_at = "done", now()


def _findings(answer: Answered) -> dict[str, Any]:
    """What is kept of how an answer was found."""
    result, problem = answer.result, answer.problem
    findings: dict[str, Any] = {
        "front_size": len(result.front),
        "sensitivity": sensitivity(problem, result.best),
        "two_opt": result.two_opt,
        "two_opt_evaluations": result.two_opt_evaluations,
        "gained_last_1000": result.gained_last_1000,
    }
    if problem.min_accuracy is not None:
        findings["reached"] = result.reached
    if problem.pareto:
        reference = dict(zip(("error", *result.front.names), problem.reference, strict=True))
        findings["hypervolume"] = {"reference": reference, "per_generation": result.hypervolume.tolist()}
    return findings


def sensitivity(problem: Problem, best: Genomes) -> list[dict[str, Any]]:
    """What a little more or less of each limit buys around a genome (G,); nothing where a front says it."""
    return [] if problem.pareto else [one.to_json() for one in sensitivities(problem, best)]


def _kept(result: SearchResult) -> tuple[Genomes, np.ndarray[Any, np.dtype[np.bool_]]]:
    """(N, G) the finalists, best first, then the rest of the front, and whether each is on the front."""
    members = result.front.genomes[spread_out(result.front.objectives, MOST_ON_FRONT)]
    front = {genome.tobytes() for genome in members}
    finalists = [genome.tobytes() for genome in result.finalists.genomes[:FINALISTS]]
    rest = [key for genome in members[::-1] if (key := genome.tobytes()) not in set(finalists)]
    kept = finalists + rest
    genomes = np.frombuffer(b"".join(kept), np.int8).reshape(len(kept), -1)
    return genomes, np.array([key in front for key in kept])


def _add_candidates(session: Session, context: Context, question: Question, genomes: Genomes) -> list[str]:
    """Write (N, G) genomes as candidates with their predictions; their ids."""
    supernet, loaded = question.supernet, context.loaded(question.supernet)
    space, made = loaded.space, now()
    accuracy = context.predictor(supernet).predict(genomes).tolist()
    flops, params = loaded.tables.flops(genomes).astype(int), loaded.tables.params(genomes).astype(int)
    rows = []
    for genome, multiply_adds, parameters in zip(genomes, flops.tolist(), params.tolist(), strict=True):
        architecture, name = space.decode(genome), space.id(genome)
        rows.append(
            {
                "id": candidate_id(supernet.id, name),
                "supernet_id": supernet.id,
                "architecture_id": name,
                "architecture": architecture.to_json(),
                "genome": genome.tobytes(),
                "resolution": architecture.resolution,
                "flops": multiply_adds,
                "params": parameters,
                "created_at": made,
            }
        )
    ids = [row["id"] for row in rows]
    version = supernet.predictor_version
    said = [
        {"candidate_id": one, "predictor_version": version, "predicted_accuracy": fraction}
        for one, fraction in zip(ids, accuracy, strict=True)
    ]
    latency = []
    for model in question.latency_models.values():
        predicted = context.latency_model(model, loaded.tables).predict(genomes).tolist()
        latency += [
            {"candidate_id": one, "latency_model_id": model.id, "predicted_latency_ms": ms}
            for one, ms in zip(ids, predicted, strict=True)
            if math.isfinite(ms)
        ]
    candidates.add(session, rows, said, latency)
    return ids


def limit_holds(limit: Mapping[str, Any], measured: bool = False) -> Holds:
    """How it is known that a limit holds."""
    if limit["cost"] != "latency_ms":
        return "counted"
    return "measured" if measured else "bound" if limit["confidence"] else "predicted"


def least_certain(holds: Sequence[Holds]) -> Holds | None:
    """What to say of several limits together, None without any. Counting is exact, so other words go before it."""
    return min(holds, key=("predicted", "bound", "measured", "counted").index, default=None)


def cancel(session: Session, search_id: str) -> None:
    """End a search that has not ended.

    Raises:
        NotFoundError: there is no such search. ConflictError: it has ended already.
    """
    search = queries.get(session, search_id)
    if not queries.finish(session, search_id, status="cancelled"):
        raise ConflictError(
            f"search {search_id} is {search.status}; only one that is queued or running can be cancelled"
        )
