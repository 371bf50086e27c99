"""Problems for questions, and their solutions."""

import time
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy.orm import Session

from evolution.pareto import crowding_distances, dominance_ranks
from evolution.problem import Problem
from evolution.refusal import NotProven, Refused
from evolution.search import SearchResult
from service.candidates import queries as candidates
from service.context import Context
from service.searches.answer import MOST_ON_FRONT, refuse
from service.searches.question import Question

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


def make_problem(context: Context, question: Question) -> Problem:
    """The problem that a question states.

    Raises:
        InfeasibleError: no architecture is within the limits. ValueError: an unknown resolution, or a confidence that
            the device's measurements do not support.
    """
    problem = _state_problem(context, question)
    try:
        problem.require_feasible()
    except Refused as error:
        raise refuse(error) from error
    return problem


def _state_problem(context: Context, question: Question) -> Problem:
    """The problem, feasible or not."""
    tables = context.loaded(question.supernet).tables
    predictor = context.predictor(question.supernet)
    latency_models = {name: context.latency_model(row, tables) for name, row in question.latency_models.items()}
    return question.request.problem(tables, predictor, latency_models, known=question.warm_start)


def _add_warm_start(session: Session, question: Question, problem: Problem) -> Question:
    """A question that starts from the best stored candidates within its limits, if its request allows that.

    A search for a front starts from the stored front first. The best stored candidate is always among them, so that an
    answer is never worse than what is stored.
    """
    if not question.request.warm_start:
        return question
    _, genomes, accuracy = candidates.stored_genomes(session, question.supernet)
    if not len(genomes):
        return question
    within = problem.within(genomes)
    genomes, accuracy = genomes[within], accuracy[within]
    costs = np.stack([cost(genomes) for cost in problem.costs], axis=1)
    order, count = np.lexsort((costs[:, 0], -problem.fitness(accuracy, costs))), WARM_STARTS
    if problem.pareto:
        objectives = np.column_stack([-accuracy, costs[:, : len(problem.pareto)]])[order]
        ranks = dominance_ranks(objectives)
        order, count = order[np.lexsort((-crowding_distances(objectives, ranks), ranks))], MOST_ON_FRONT
    return replace(question, warm_start=genomes[order[:count]])


def solve(problem: Problem, question: Question) -> Solution:
    """Search to the end. Raises ValueError for an unknown strategy."""
    started = time.perf_counter()
    result = question.request.search(problem, question.warm_start).run_to_end()
    return Solution(problem, result, 1e3 * (time.perf_counter() - started))
