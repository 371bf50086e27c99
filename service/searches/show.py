"""Stored searches as the API shows them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

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
    answered = [(search, search.best_candidate_id) for search in rows if search.best_candidate_id is not None]
    best = candidates.by_id(session, [name for _, name in answered])
    members = [(search, candidate) for (search, _), candidate in zip(answered, best, strict=True)]
    shown = {search.id: out for (search, _), out in zip(members, _show_members(session, context, members), strict=True)}
    return Page(items=[SearchSummary(**_summary(search, shown.get(search.id))) for search in rows], next=next_cursor)


def get_search_front(session: Session, context: Context, search_id: str) -> list[CandidateOut]:
    """The Pareto front of a search, sorted by its first cost. Raises NotFoundError."""
    search = queries.get(session, search_id)
    members = [(search, candidate) for candidate in queries.members(session, search.id, on_front=True)]
    front = _show_members(session, context, members)
    return sort_front(SearchRequest.from_json(search.request), front)


def show_search(session: Session, context: Context, search: Search, *, from_storage: bool = False) -> SearchOut:
    """A search with its answer. from_storage: whether it is shown as the answer to a repeated request."""
    front, best_id = queries.members(session, search.id, on_front=True), search.best_candidate_id
    is_apart = best_id is not None and best_id not in {member.id for member in front}
    rows = [*front, *(candidates.by_id(session, [best_id]) if best_id and is_apart else [])]
    members = [(search, candidate) for candidate in rows]
    shown = {candidate.id: candidate for candidate in _show_members(session, context, members)}
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


def _show_members(
    session: Session, context: Context, members: Sequence[tuple[Search, Candidate]]
) -> list[CandidateOut]:
    """Candidates of searches, each with the predictions that its search used and the latencies measured for it."""
    if not members:
        return []
    rows = [candidate for _, candidate in members]
    ids = [candidate.id for candidate in rows]
    accuracy = candidates.accuracy_predictions(session, ids, {search.predictor_version for search, _ in members})
    model_ids = {model_id for search, _ in members for model_id in search.latency_models.values()}
    on_devices = candidates.device_predictions(session, ids, model_ids)
    bounds = _latency_bounds(session, context, members)
    predictions = []
    for search, candidate in members:
        predicted = accuracy.get((candidate.id, search.predictor_version))
        predictions.append(
            Predictions(
                predicted.predicted_accuracy if predicted else None,
                predicted.predicted_accuracy_std if predicted else None,
                search.predictor_version,
                candidates.on_devices(on_devices, candidate.id, search.latency_models),
                search.latency_models,
                bounds.get((search.id, candidate.id), {}),
            )
        )
    return show_candidates(session, context, rows, predictions, [search.id for search, _ in members])


def _latency_bounds(
    session: Session, context: Context, members: Sequence[tuple[Search, Candidate]]
) -> dict[tuple[str, str], dict[str, float]]:
    """By search and candidate, then by device: the latency bound that the search held below its limit, to the bit."""
    searches = {search.id: search for search, _ in members}
    confidences = {name: limits for name, search in searches.items() if (limits := _confidences(search))}
    if not confidences:
        return {}
    model_ids = {searches[name].latency_models[device] for name, limits in confidences.items() for device in limits}
    models = {row.id: row for row in devices.get_models_by_id(session, list(model_ids))}
    by_id = supernets.by_ids(session, {searches[name].supernet_id for name in confidences})
    bounds: dict[tuple[str, str], dict[str, float]] = {}
    for name, limits in confidences.items():
        search, rows = searches[name], [candidate for other, candidate in members if other.id == name]
        tables, genomes = context.tables(by_id[search.supernet_id]), genomes_of(rows)
        for device, confidence in limits.items():
            model = context.latency_model(models[search.latency_models[device]], tables)
            for candidate, ms in zip(rows, model.upper_bound(genomes, confidence).tolist(), strict=True):
                bounds.setdefault((name, candidate.id), {})[device] = ms
    return bounds


def _confidences(search: Search) -> dict[str, float]:
    """The confidences of a search's limits on latency, by device."""
    limits = SearchRequest.from_json(search.request).limits
    return {limit.device: limit.confidence for limit in limits if limit.device and limit.confidence}
