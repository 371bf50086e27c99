"""Answering a request: from storage, by searching, or by a job."""

from sqlalchemy.exc import IntegrityError

from evolution.problem import Problem
from service.context import Context
from service.jobs.queue import Priority
from service.searches import problem as rules
from service.searches import queries
from service.searches import question as searches_question
from service.searches import show as answers
from service.searches.question import Question, answered_before, asked_before
from service.searches.record import add, add_answer
from service.searches.schemas import SearchIn, SearchOut


def job_id(search_id: str) -> str:
    """The name of a search's job in the queue."""
    return f"search-{search_id}"


def _show(context: Context, search_id: str) -> SearchOut:
    with context.database.reading() as session:
        return answers.show(session, context, queries.get(session, search_id))


def _search(context: Context, body: SearchIn, key: str | None, later: bool) -> SearchOut:
    """Answer from storage or by searching, or have a worker answer. Nothing is asked twice under one key."""
    with context.database.reading() as session:
        if earlier := asked_before(session, key, body):
            return answers.show(session, context, earlier)
        question = searches_question.ask(session, body)
        if stored := answered_before(session, question):
            return answers.show(session, context, stored, from_storage=True)
        question, problem = rules.posed(session, context, question)
    try:
        if question.is_short and not later:
            return _answer(context, question, problem, key)
        rules.begin(problem, question)  # refuses an unknown strategy
        return _enqueue(context, question, key)
    except IntegrityError:
        with context.database.reading() as session:  # the same key, at the same time
            if earlier := asked_before(session, key, body):
                return answers.show(session, context, earlier)
        raise


def _answer(context: Context, question: Question, problem: Problem, key: str | None) -> SearchOut:
    answer = rules.solve(problem, question)
    with context.database.writing() as session:
        search = add(session, context.store, question, status="running", key=key)
        add_answer(session, context, search, question, answer)
        session.flush()
        return answers.show(session, context, search)


def _enqueue(context: Context, question: Question, key: str | None) -> SearchOut:
    with context.database.writing() as session:
        search = add(session, context.store, question, status="queued", key=key)
        context.jobs.enqueue(session, "search", search.id, job_id=job_id(search.id), priority=Priority.SEARCH)
        return answers.show(session, context, search)
