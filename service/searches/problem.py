"""Problems for questions, and their solutions."""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.pareto import ParetoFront, thin_out
from evolution.problem import Measure, Problem
from evolution.refusal import NotProven, Refused
from evolution.search import SearchResult
from service.candidates import queries as candidates
from service.context import Context
from service.searches.answer import MOST_ON_FRONT, refuse
from service.searches.question import Question
from service.storage.catalogue import StoredCandidates
from supernet.space import Genomes

LOOKED_AT = 4096  # stored candidates of the highest value, whose restricted choices are looked at
WARM_STARTS = 64  # the most stored candidates that a search starts from, unless it searches for a front


@dataclass(frozen=True)
class Solution:
    """The result of a search, the problem that it solves, and the time that searching took, ms."""

    problem: Problem
    result: SearchResult
    elapsed_ms: float


def prepare(session: Session, context: Context, question: Question) -> tuple[Question, Problem]:
    """A question with the stored candidates that it starts from, if it may, and its problem.

    Stored candidates can also prove that the limits can be met where the feasibility search gives up.

    Raises:
        InfeasibleError, ValueError: as `make_problem`.
    """
    problem = _state_problem(context, question)
    try:
        problem.require_feasible()
    except NotProven as error:
        question = _add_warm_start(session, context, question, problem)
        if question.warm_start is None or not len(question.warm_start):
            raise refuse(error) from error
        return question, make_problem(context, question)
    except Refused as error:
        raise refuse(error) from error
    return _add_warm_start(session, context, question, problem), problem


def make_problem(context: Context, question: Question, measure: Measure | None = None) -> Problem:
    """The problem that a question states. measure: as in `Problem`.

    Raises:
        InfeasibleError: no architecture is within the limits. ValueError: an unknown resolution, or a confidence that
            the device's measurements do not support.
    """
    problem = _state_problem(context, question, measure)
    try:
        problem.require_feasible()
    except Refused as error:
        raise refuse(error) from error
    return problem


def _state_problem(context: Context, question: Question, measure: Measure | None = None) -> Problem:
    """The problem, feasible or not."""
    tables = context.tables(question.supernet)
    predictor = context.predictor(question.supernet, question.predictor_version)
    latency_models = {name: context.latency_model(row, tables) for name, row in question.latency_models.items()}
    return question.request.problem(tables, predictor, latency_models, known=question.warm_start, measure=measure)


def _add_warm_start(session: Session, context: Context, question: Question, problem: Problem) -> Question:
    """A question that starts from the best stored candidates within its limits, if its request allows that.

    A search for a front starts from the stored front first. The best stored candidate is always among them, so that an
    answer is never worse than what is stored. A search that measures starts from what was measured, if anything was.
    """
    if not question.request.warm_start:
        return question
    request, supernet = question.request, question.supernet
    genomes = None
    if request.is_inherited:
        genomes = _best_measured(problem, *candidates.measured_genomes(session, supernet, request.metric))
    if genomes is None or not len(genomes):
        genomes = _best_stored(problem, context.catalogue(supernet).read(session))
    return replace(question, warm_start=genomes) if len(genomes) else question


def _best_measured(problem: Problem, genomes: Genomes, accuracy: Floats) -> Genomes:
    """The best of N genomes with measured accuracies (N,) that are within the limits, best first."""
    inside = problem.within(genomes) if len(genomes) else np.zeros(0, bool)
    genomes, accuracy = genomes[inside], accuracy[inside]
    if not len(genomes):
        return genomes
    costs = np.stack([cost(genomes) for cost in problem.costs], axis=1)
    if problem.pareto:
        return _front(problem, genomes, accuracy, costs[:, : len(problem.pareto)])
    return genomes[np.lexsort((costs[:, 0], -problem.fitness(accuracy, costs)))[:WARM_STARTS]]


def _best_stored(problem: Problem, stored: StoredCandidates) -> Genomes:
    """The best stored candidates within the limits, best first."""
    rows = np.flatnonzero(_maybe_within(problem, stored))
    if not len(rows):
        return stored.genomes[:0]
    if problem.pareto:
        rows = rows[problem.within(stored.genomes[rows])]
        costs = np.stack([stored.cost(cost)[rows] for cost in problem.pareto], axis=1)
        return _front(problem, stored.genomes[rows], stored.accuracy[rows], costs)
    price = stored.cost(problem.minimise)[rows] if problem.minimise else np.zeros(len(rows))
    value = problem.value(stored.accuracy[rows], price)
    chosen: list[Genomes] = []
    while len(rows) and sum(map(len, chosen)) < WARM_STARTS:
        is_next = value >= (np.partition(value, -LOOKED_AT)[-LOOKED_AT] if len(value) > LOOKED_AT else -np.inf)
        best = np.flatnonzero(is_next)
        best = best[np.lexsort((stored.cost(problem.costs[0])[rows[best]], -value[best]))]
        genomes = stored.genomes[rows[best]]
        chosen.append(genomes[problem.within(genomes)])
        rows, value = rows[~is_next], value[~is_next]
    return np.concatenate(chosen)[:WARM_STARTS] if chosen else stored.genomes[:0]


def _maybe_within(problem: Problem, stored: StoredCandidates) -> NDArray[np.bool_]:
    """(N,) whether candidates are within the limits, restricted choices and resolutions aside."""
    inside = np.ones(len(stored), bool)
    for constraint in problem.constraints:
        inside &= stored.cost(constraint.cost) <= constraint.max
    return inside


def _front(problem: Problem, genomes: Genomes, accuracy: Floats, costs: Floats) -> Genomes:
    """The front of N genomes, at most `MOST_ON_FRONT` that lie far apart. costs: (N, C)."""
    front = ParetoFront.from_genomes(genomes, accuracy, costs, [cost.name for cost in problem.pareto])
    return front.genomes[thin_out(front.objectives, MOST_ON_FRONT)]


def solve(problem: Problem, question: Question) -> Solution:
    """Search to the end. Raises ValueError for an unknown strategy."""
    started = time.perf_counter()
    result = question.request.search(problem, question.warm_start).run_to_end()
    return Solution(problem, result, 1e3 * (time.perf_counter() - started))
