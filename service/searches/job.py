"""The job of a search: searches if that is long, verifies the finalists, and says which of them won."""

import time

from evolution.search import Search
from service.context import Context
from service.errors import problem_document_of
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.searches import problem as rules
from service.searches import queries
from service.searches.finalists import _verify
from service.searches.queries import _CancelledError, _lock
from service.searches.question import load_question
from service.searches.record import add_answer
from service.storage.store import pack, unpack

SAVE_SECONDS = 1.0  # a worker that dies loses at most so much of a search


def run_search(context: Context, step: Step, subject: str) -> None:
    """The job: answer the search whose id is `subject`."""
    with context.database.writing() as session:
        search = queries.lock(session, subject)
        search.attempts += 1
        attempts, going = search.attempts, search.status in queries.UNFINISHED
        if search.status == "queued":
            search.status = "running"
    if not going:
        return
    try:
        if attempts > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while running this search; their logs say why")
        step("search", lambda: _search(context, subject))
        if search.request["verify"]:
            _verify(context, step, subject)
    except _CancelledError:
        return
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, subject, status="failed", problem=problem_document_of(error))
        raise


def _search(context: Context, search_id: str) -> None:
    """Search on from where the last worker saved, and store the answer."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        saved = queries.state(session, search_id)
        if queries.members(session, search_id):
            return
    started = time.perf_counter()
    problem = rules.make_problem(context, question)
    search = rules.begin(problem, question) if saved is None else Search.resume(problem, unpack(saved))
    due = time.monotonic() + SAVE_SECONDS
    for progress in search.run():
        if time.monotonic() < due:
            continue
        with context.database.writing() as session:
            row = _lock(session, search_id)
            row.progress = {
                "phase": progress.phase,
                "evaluations": progress.evaluations,
                "budget": progress.max_evaluations,
                "best_predicted_accuracy": progress.predicted_accuracy,
            }
            queries.save_state(session, search_id, progress.generation, pack(search.state()))
        due = time.monotonic() + SAVE_SECONDS
    answer = rules.answered(search, started)
    with context.database.writing() as session:
        row = _lock(session, search_id)
        add_answer(session, context, row, question, answer)
        queries.drop_state(session, search_id)


# Verification.
