"""The job of a search: search, if that was not done while the client waited; then verify the finalists, if asked to."""

import time

from evolution.search import Progress, Search
from service.context import Context
from service.errors import problem_document_of
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.searches import queries
from service.searches.finalists import verify_finalists
from service.searches.problem import Solution, make_problem
from service.searches.queries import EndedError, lock_unfinished
from service.searches.question import load_question
from service.searches.record import add_solution
from service.storage.store import pack, unpack

SAVE_SECONDS = 1.0  # between two saves: at most this much of a search is lost when its worker dies


def run_search(context: Context, step: Step, subject: str) -> None:
    """The handler of the job: answer the search whose id is `subject`."""
    with context.database.writing() as session:
        search = queries.lock(session, subject)
        search.attempts += 1
        attempts, is_unfinished = search.attempts, search.status in queries.UNFINISHED
        if search.status == "queued":
            search.status = "running"
    if not is_unfinished:
        return
    try:
        if attempts > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while running this search; their logs say why")
        step("search", lambda: _search(context, subject))
        if search.request["verify"]:
            verify_finalists(context, step, subject)
    except EndedError:
        return
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, subject, status="failed", problem=problem_document_of(error))
        raise


def _search(context: Context, search_id: str) -> None:
    """Search on from the state that the last worker saved, and store the solution."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        saved = queries.saved_state(session, search_id)
        if queries.members(session, search_id):
            return
    started = time.perf_counter()
    problem = make_problem(context, question)
    if saved is None:
        search = question.request.search(problem, question.warm_start)
    else:
        search = Search.resume(problem, unpack(saved))
    result = search.run_to_end(_Saver(context, search_id, search).on_progress)
    solution = Solution(problem, result, 1e3 * (time.perf_counter() - started))
    with context.database.writing() as session:
        row = lock_unfinished(session, search_id)
        add_solution(session, context, row, question, solution)
        queries.delete_state(session, search_id)


class _Saver:
    """Saves the progress and the state of a running search every `SAVE_SECONDS`."""

    def __init__(self, context: Context, search_id: str, search: Search) -> None:
        self._context, self._search_id, self._search = context, search_id, search
        self._due = time.monotonic() + SAVE_SECONDS

    def on_progress(self, progress: Progress) -> None:
        """Save if that is due. Raises EndedError when the search was cancelled."""
        if time.monotonic() < self._due:
            return
        with self._context.database.writing() as session:
            row = lock_unfinished(session, self._search_id)
            row.progress = {
                "phase": progress.phase,
                "evaluations": progress.evaluations,
                "budget": progress.max_evaluations,
                "best_predicted_accuracy": progress.accuracy,
            }
            queries.save_state(session, self._search_id, progress.generation, pack(self._search.state()))
        self._due = time.monotonic() + SAVE_SECONDS
