"""Problems for questions, and their solutions."""

import time
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.pareto import crowding_distances, dominance_ranks
from evolution.problem import Measure, Problem
from evolution.refusal import NotProven, Refused
from evolution.search import SearchResult
from service.candidates import queries as candidates
from service.context import Context
from service.searches.answer import MOST_ON_FRONT, refuse
from service.searches.question import Question
from supernet.space import Genomes

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
        question = _add_warm_start(session, question, problem)
        if question.warm_start is None or not len(question.warm_start):
            raise refuse(error) from error
        return question, make_problem(context, question)
    except Refused as error:
        raise refuse(error) from error
    return _add_warm_start(session, question, problem), problem


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
    tables = context.loaded(question.supernet).tables
    predictor = context.predictor(question.supernet)
    latency_models = {name: context.latency_model(row, tables) for name, row in question.latency_models.items()}
    return question.request.problem(tables, predictor, latency_models, known=question.warm_start, measure=measure)


def _add_warm_start(session: Session, question: Question, problem: Problem) -> Question:
    """A question that starts from the best stored candidates within its limits, if its request allows that.

    A search for a front starts from the stored front first. The best stored candidate is always among them, so that an
    answer is never worse than what is stored. A search that measures starts from what was measured, if anything was.
    """
    if not question.request.warm_start:
        return question
    genomes, accuracy = _stored_within(session, question, problem)
    if not len(genomes):
        return question
    costs = np.stack([cost(genomes) for cost in problem.costs], axis=1)
    order, count = np.lexsort((costs[:, 0], -problem.fitness(accuracy, costs))), WARM_STARTS
    if problem.pareto:
        objectives = np.column_stack([-accuracy, costs[:, : len(problem.pareto)]])[order]
        ranks = dominance_ranks(objectives)
        order, count = order[np.lexsort((-crowding_distances(objectives, ranks), ranks))], MOST_ON_FRONT
    return replace(question, warm_start=genomes[order[:count]])


def _stored_within(session: Session, question: Question, problem: Problem) -> tuple[Genomes, Floats]:
    """(N, G) the stored candidates within the limits, and (N,) their accuracies.

    If the search measures, these are the measured candidates and their scores; if there are none, predictions.
    """

    def within(genomes: Genomes, accuracy: Floats) -> tuple[Genomes, Floats]:
        inside = problem.within(genomes) if len(genomes) else np.zeros(0, bool)
        return genomes[inside], accuracy[inside]

    request, supernet = question.request, question.supernet
    if request.is_inherited:
        genomes, accuracy = within(*candidates.measured_genomes(session, supernet, request.metric))
        if len(genomes):
            return genomes, accuracy
    _, genomes, accuracy = candidates.stored_genomes(session, supernet)
    return within(genomes, accuracy)


def solve(problem: Problem, question: Question) -> Solution:
    """Search to the end. Raises ValueError for an unknown strategy."""
    started = time.perf_counter()
    result = question.request.search(problem, question.warm_start).run_to_end()
    return Solution(problem, result, 1e3 * (time.perf_counter() - started))
