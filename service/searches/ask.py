"""Creating a search, which is answered from storage, at once or by a job; and cancelling one."""

from sqlalchemy.exc import IntegrityError

from evolution.problem import Problem
from service.context import Context
from service.jobs.queue import Priority
from service.searches import record
from service.searches.problem import prepare, solve
from service.searches.question import Question, find_answer, find_by_key, make_question
from service.searches.record import add_search, add_solution
from service.searches.schemas import SearchIn, SearchOut
from service.searches.show import get_search, show_search


def create_search(context: Context, body: SearchIn, *, key: str | None = None, prefers_job: bool = False) -> SearchOut:
    """Answer a request from storage or by searching, or leave it to a worker. One key never makes two searches.

    key: the Idempotency-Key. prefers_job: whether a short search becomes a job, too.

    Raises:
        SuppleError: the request cannot be answered; ValueError: an unknown strategy or resolution.
    """
    with context.database.reading() as session:
        if earlier := find_by_key(session, key, body):
            return show_search(session, context, earlier)
        question = make_question(session, body)
        if stored := find_answer(session, question):
            return show_search(session, context, stored, from_storage=True)
        question, problem = prepare(session, context, question)
    try:
        if question.request.is_short and not prefers_job:
            return _answer(context, question, problem, key)
        question.request.search(problem, question.warm_start)  # refuses an unknown strategy before it is a job
        return _enqueue(context, question, key)
    except IntegrityError:  # another request with this key came first
        with context.database.reading() as session:
            if earlier := find_by_key(session, key, body):
                return show_search(session, context, earlier)
        raise


def _answer(context: Context, question: Question, problem: Problem, key: str | None) -> SearchOut:
    solution = solve(problem, question)
    with context.database.writing() as session:
        search = add_search(session, context.store, question, status="running", key=key)
        add_solution(session, context, search, question, solution)
        session.flush()
        return show_search(session, context, search)


def _enqueue(context: Context, question: Question, key: str | None) -> SearchOut:
    with context.database.writing() as session:
        search = add_search(session, context.store, question, status="queued", key=key)
        context.jobs.enqueue(session, "search", search.id, job_id=_job_id(search.id), priority=Priority.SEARCH)
        return show_search(session, context, search)


def cancel_search(context: Context, search_id: str) -> SearchOut:
    """End a search that has not ended, and its job. Raises what `record.cancel` does."""
    with context.database.writing() as session:
        record.cancel(session, search_id)
    context.jobs.cancel(_job_id(search_id))
    with context.database.reading() as session:
        return get_search(session, context, search_id)


def _job_id(search_id: str) -> str:
    """The id of a search's job in the queue."""
    return f"search-{search_id}"
