"""The job that fits a supernet's accuracy predictor again with what was verified since. Loads torch."""

import hashlib
import logging

import numpy as np

from evolution.predictors.pairs import MeasuredPairs
from evolution.predictors.refit import Refit, refit
from service.candidates import queries as candidates
from service.context import Context
from service.errors import problem_document_of
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.predictors import queries
from service.predictors.pairs import check_comparable, measured_pairs
from service.predictors.refit import MOST_PAIRS, standing
from service.storage.tables import Supernet
from service.supernets import queries as supernets
from service.supernets.register import DIGITS

log = logging.getLogger("supple.refit")
SEED = 0


def run_refit(context: Context, step: Step, subject: str) -> None:
    """The handler of the job. subject: the id of the refit."""
    with context.database.writing() as session:
        row = queries.begin(session, subject)
        attempts, is_unfinished = row.attempts, row.status in queries.UNFINISHED
    if not is_unfinished:
        return
    try:
        if attempts > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while fitting this predictor; their logs say why")
        step("refit", lambda: _refit(context, subject))
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, subject, status="failed", problem=problem_document_of(error))
        raise


def _refit(context: Context, refit_id: str) -> None:
    """Fit, compare, and write all that follows in one transaction."""
    with context.database.reading() as session:
        row = queries.get_refit(session, refit_id)
        supernet, is_unfinished = supernets.get(session, row.supernet_id), row.status in queries.UNFINISHED
        stands = standing(session, context, supernet)
    if not is_unfinished:  # the worker before died after it had written the result
        return
    _, evaluator = context.evaluator(supernet)
    images = check_comparable(evaluator, stands.fitted)
    measured = _of_images(context, supernet, stands.measured, images)
    measured = measured[: max(0, MOST_PAIRS - len(stands.fitted))]
    result = refit(stands.fitted, measured, supernet.predictor_card or {}, SEED)
    _write(context, refit_id, supernet, stands.fitted, measured, result)


def _of_images(context: Context, supernet: Supernet, measured: MeasuredPairs, images: int) -> MeasuredPairs:
    """The pairs that were measured on all held-out images."""
    with context.database.reading() as session:
        scored = candidates.evaluations(session, supernet)
    others = measured_pairs(measured.space, {key: scores for key, scores in scored.items() if scores.images != images})
    comparable = measured.without(others)
    if len(comparable) < len(measured):
        log.warning(
            "%d verified candidates of supernet %s were scored on other images and are left out",
            len(measured) - len(comparable),
            supernet.id,
        )
    return comparable


def _write(
    context: Context, refit_id: str, supernet: Supernet, fitted: MeasuredPairs, measured: MeasuredPairs, result: Refit
) -> None:
    content = result.predictor.to_bytes()
    version = hashlib.sha256(content).hexdigest()[:DIGITS]
    files = {"file": context.store.put(content), "pairs": context.store.put((fitted + measured).to_bytes())}
    with context.database.writing() as session:
        current = supernets.lock(session, supernet.id)
        is_kept = result.is_kept and current.predictor_version == supernet.predictor_version
        values = {
            "status": "done",
            "old_version": supernet.predictor_version,
            "old_pairs": len(fitted),
            "new_pairs": len(measured),
            "old_errors": dict(result.old_errors),
            "new_errors": dict(result.new_errors),
            "new_version": version if is_kept else None,
        }
        if not queries.finish(session, refit_id, **values) or not is_kept:
            return
        card = dict(result.predictor.card)
        queries.add_version(session, {"supernet_id": supernet.id, "version": version, "card": card, **files})
        current.predictor_version, current.predictor_card = version, card
        ids, genomes = candidates.list_genomes(session, supernet.id)
        for start in range(0, len(ids), 1_000):
            rows = slice(start, start + 1_000)
            predicted = candidates.accuracy_rows(result.predictor, version, ids[rows], np.asarray(genomes[rows]))
            candidates.add(session, [], predicted, [])
