"""The job of a search: search, if that was not done while the client waited; then verify the finalists, if asked to."""

import math
import time
from collections.abc import Callable

import numpy as np
from sqlalchemy.orm import Session

from evolution.search import Phase, Progress, Search
from service.candidates import queries as candidates
from service.context import Context
from service.errors import problem_document_of
from service.jobs.queue import MOST_ATTEMPTS, UNFINISHED, Step
from service.predictors.refit import request_if_due
from service.searches import queries
from service.searches.finalists import verify_finalists
from service.searches.inherited import InheritedScores
from service.searches.problem import Solution, make_problem
from service.searches.queries import EndedError, lock_unfinished
from service.searches.question import Question, load_question
from service.searches.record import add_measured, add_solution
from service.storage.store import pack, unpack
from supernet.evaluation.metrics import Evaluation, from_fraction
from supernet.space import Genomes

SAVE_SECONDS = 1.0  # between two saves: at most this much of a search is lost when its worker dies


def run_search(context: Context, step: Step, subject: str) -> None:
    """The handler of the job: answer the search whose id is `subject`."""
    with context.database.writing() as session:
        search = queries.lock(session, subject)
        search.attempts += 1
        attempts, is_unfinished = search.attempts, search.status in UNFINISHED
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
        if search.request["verify"] or search.request.get("evaluate") == "inherited":
            step("request a refit", lambda: _request_refit(context, search.supernet_id))
    except EndedError:
        return
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, subject, status="failed", problem=problem_document_of(error))
        raise


def _request_refit(context: Context, supernet_id: str) -> None:
    """Have the accuracy predictor fitted again if enough was measured since the last fit."""
    with context.database.writing() as session:
        request_if_due(session, context, supernet_id)


def _search(context: Context, search_id: str) -> None:
    """Search on from the state that the last worker saved, and store the solution."""
    with context.database.reading() as session:
        question = load_question(session, context, queries.get(session, search_id))
        saved = queries.saved_state(session, search_id)
        if queries.members(session, search_id):
            return
    started = time.perf_counter()
    saver = _Saver(context, search_id, question)
    measure = _load_scores(context, question, saver.on_measured) if question.request.is_inherited else None
    problem = make_problem(context, question, measure)
    if saved is None:
        search = question.request.search(problem, question.warm_start)
    else:
        search = Search.resume(problem, unpack(saved))
    saver.search = search
    result = search.run_to_end(saver.on_progress)
    solution = Solution(problem, result, 1e3 * (time.perf_counter() - started))
    with context.database.writing() as session:
        row = lock_unfinished(session, search_id)
        saver.write_measured(session)
        add_solution(session, context, row, question, solution)
        queries.delete_state(session, search_id)


def _load_scores(
    context: Context, question: Question, on_measured: Callable[[Genomes, Evaluation], None]
) -> InheritedScores:
    """What measures subnets on held-out images, knowing every score that is stored. Loads torch."""
    with context.database.reading() as session:
        known = candidates.evaluations(session, question.supernet)
    bundle, evaluator = context.evaluator(question.supernet)
    return InheritedScores(evaluator, bundle.space, question.request.metric, known, on_measured)


class _Saver:
    """Saves the progress and the state of a running search every `SAVE_SECONDS`.

    Where subnets are measured, their scores are saved likewise, also in the middle of a generation. A search that goes
    on from a saved state finds them again.

    search: set it before the search runs.
    """

    search: Search

    def __init__(self, context: Context, search_id: str, question: Question) -> None:
        self._context, self._search_id, self._question = context, search_id, question
        self._metric = question.request.metric
        self._state_due = self._scores_due = time.monotonic() + SAVE_SECONDS
        self._unsaved: list[tuple[Genomes, Evaluation]] = []
        self._measured = 0  # since the last generation
        self._phase: Phase = "seed"
        self._best = -math.inf  # by the metric

    def on_progress(self, progress: Progress) -> None:
        """Save if that is due. Raises EndedError when the search was cancelled."""
        self._phase, self._measured = progress.phase, 0
        self._best = from_fraction(self._metric, progress.accuracy)
        if time.monotonic() < self._state_due:
            return
        with self._context.database.writing() as session:
            self._write_progress(session)
            queries.save_state(session, self._search_id, progress.generation, pack(self.search.state()))
        self._state_due = time.monotonic() + SAVE_SECONDS

    def on_measured(self, genome: Genomes, scored: Evaluation) -> None:
        """Save the scores of genomes (G,) if that is due. Raises EndedError when the search was cancelled."""
        self._unsaved.append((genome, scored))
        self._measured += 1
        self._best = max(self._best, getattr(scored, self._metric))
        if time.monotonic() < self._scores_due:
            return
        with self._context.database.writing() as session:
            self._write_progress(session)
        self._scores_due = time.monotonic() + SAVE_SECONDS

    def write_measured(self, session: Session) -> None:
        """Write the scores that are not saved yet."""
        if self._unsaved:
            genomes, scored = zip(*self._unsaved, strict=True)
            add_measured(session, self._context, self._question, np.stack(genomes), scored)
            self._unsaved = []

    def _write_progress(self, session: Session) -> None:
        row = lock_unfinished(session, self._search_id)
        self.write_measured(session)
        best = "best_inherited" if self._question.request.is_inherited else "best_predicted_accuracy"
        row.progress = {
            "phase": self._phase,
            "evaluations": self.search.evaluations + self._measured,
            "budget": self.search.max_evaluations,
            best: self._best,
        }
