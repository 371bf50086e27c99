"""From a request to a question, from a question to an answer, and the answer's rows."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy.orm import Session

from evolution.costs import Cost
from evolution.limits import Limit, constrain, cost_of
from evolution.pareto import crowding_distances, dominance_ranks
from evolution.problem import Problem
from evolution.refusal import Infeasible, NotProven, Refused
from evolution.search import Search, SearchResult
from service.candidates import queries as candidates
from service.context import Context
from service.errors import InfeasibleError
from service.searches.question import Question

MOST_ON_FRONT = 256  # members of a front that are kept
WARM_STARTS = 64  # stored candidates that a search starts from at most, unless it seeks a front


@dataclass(frozen=True)
class Answered:
    """A result, what was searched for, and the time that searching took, ms."""

    result: SearchResult
    problem: Problem
    elapsed_ms: float


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
