"""Stored searches as the API shows them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.predictors.accuracy import ranking_warning
from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.candidates.schemas import CandidateOut
from service.candidates.show import Predictions, show_candidates
from service.context import Context
from service.devices import queries as devices
from service.measurement_jobs.waiting import explain_waiting, stale_devices
from service.searches import queries
from service.searches.answer import answer_parts, sort_front
from service.searches.findings import Findings
from service.searches.queries import ALL, SearchFilter
from service.searches.request import SearchRequest
from service.searches.schemas import SearchOut, SearchSummary
from service.storage.tables import Candidate, Search
from service.supernets import queries as supernets
from service.web.schemas import Page


def get_search(session: Session, context: Context, search_id: str) -> SearchOut:
    """A search with its answer. Raises NotFoundError."""
    return show_search(session, context, queries.get(session, search_id))


def list_searches(
    session: Session, context: Context, limit: int, cursor: str | None = None, wanted: SearchFilter = ALL
) -> Page[SearchSummary]:
    """One page of searches, newest first. Raises what `queries.page` does."""
    rows, next_cursor = queries.page(session, limit, cursor, wanted)
    return Page(items=[_summarise(session, context, search) for search in rows], next=next_cursor)


def get_search_front(session: Session, context: Context, search_id: str) -> list[CandidateOut]:
    """The Pareto front of a search, sorted by its first cost. Raises NotFoundError."""
    search = queries.get(session, search_id)
    front = _show_members(session, context, search, queries.members(session, search.id, on_front=True))
    return sort_front(SearchRequest.from_json(search.request), front)


def show_search(session: Session, context: Context, search: Search, *, from_storage: bool = False) -> SearchOut:
    """A search with its answer. from_storage: whether it is shown as the answer to a repeated request."""
    front, best_id = queries.members(session, search.id, on_front=True), search.best_candidate_id
    is_apart = best_id is not None and best_id not in {member.id for member in front}
    rows = [*front, *(candidates.by_id(session, [best_id]) if best_id and is_apart else [])]
    shown = {candidate.id: candidate for candidate in _show_members(session, context, search, rows)}
    best = shown[best_id] if best_id else None
    request, supernet = SearchRequest.from_json(search.request), supernets.get(session, search.supernet_id)
    card = context.predictor(supernet, search.predictor_version).card if search.predictor_version else {}
    parts = answer_parts(
        request,
        Findings.from_json(search.findings),
        best,
        [shown[member.id] for member in front],
    )
    return SearchOut(
        **_summary(search, best),
        **parts,
        predictor=search.predictor_version,
        predictor_warning=None if request.is_inherited else ranking_warning(card),
        latency_models=search.latency_models,
        answered_from=search.id if from_storage else None,
        warm_starts=search.warm_starts,
        evaluations=search.evaluations,
        elapsed_ms=search.elapsed_ms,
        device_warnings=stale_devices(session, search.latency_models),
        progress=_progress(session, search),
    )


def _progress(session: Session, search: Search) -> dict[str, Any] | None:
    """How far a search is; while probes measure its finalists, also what it waits for, by device."""
    waiting = explain_waiting(session, search.id) if search.status == "verifying" else {}
    return {**(search.progress or {}), "waiting": waiting} if waiting else search.progress


def _summarise(session: Session, context: Context, search: Search) -> SearchSummary:
    rows = candidates.by_id(session, [search.best_candidate_id]) if search.best_candidate_id else []
    best = _show_members(session, context, search, rows)
    return SearchSummary(**_summary(search, best[0] if best else None))


def _summary(search: Search, best: CandidateOut | None) -> dict[str, Any]:
    return {
        "id": search.id,
        "supernet": search.supernet_id,
        "status": search.status,
        "request": search.request,
        "best": best,
        "limits_hold": search.limits_hold,
        "problem": search.problem,
        "created_at": search.created_at,
        "finished_at": search.finished_at,
    }


def _show_members(session: Session, context: Context, search: Search, rows: Sequence[Candidate]) -> list[CandidateOut]:
    """Candidates with the predictions that a search used, and with the latencies measured for it."""
    if not rows:
        return []
    ids = [candidate.id for candidate in rows]
    accuracy = candidates.accuracy_predictions(session, ids, search.predictor_version)
    latency = candidates.predicted_latency(session, ids, search.latency_models)
    bounds = _latency_bounds(session, context, search, rows)
    predictions = [
        Predictions(
            accuracy[name].predicted_accuracy if name in accuracy else None,
            accuracy[name].predicted_accuracy_std if name in accuracy else None,
            search.predictor_version,
            latency.get(name, {}),
            search.latency_models,
            {device: float(ms[row]) for device, ms in bounds.items()},
        )
        for row, name in enumerate(ids)
    ]
    return show_candidates(session, context, rows, predictions, search.id)


def _latency_bounds(session: Session, context: Context, search: Search, rows: Sequence[Candidate]) -> dict[str, Floats]:
    """By device, (N,) the latency bounds of candidates that the search held below its limits, to the bit."""
    limits = SearchRequest.from_json(search.request).limits
    confidences = {limit.device: limit.confidence for limit in limits if limit.device and limit.confidence}
    if not confidences:
        return {}
    tables = context.tables(supernets.get(session, search.supernet_id))
    latency_models = {
        row.device: row for row in devices.get_models_by_id(session, list(search.latency_models.values()))
    }
    genomes = genomes_of(rows)
    return {
        device: context.latency_model(latency_models[device], tables).upper_bound(genomes, confidence)
        for device, confidence in confidences.items()
    }
