"""A stored search as the API shows it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from evolution.arrays import Floats
from evolution.predictors.accuracy import ranking_warning
from service.candidates import queries as candidates
from service.candidates.queries import genomes_of
from service.candidates.schemas import CandidateOut
from service.candidates.show import Predicted, describe
from service.context import Context
from service.devices import queries as devices
from service.searches import queries
from service.searches.record import limit_holds
from service.searches.schemas import LimitOut, SearchOut, SearchSummary
from service.storage.tables import Candidate, Search
from service.supernets import queries as supernets


def show(session: Session, context: Context, search: Search, *, from_storage: bool = False) -> SearchOut:
    """A search with its answer. from_storage: it is shown instead of searching for the same again."""
    kept = queries.members(session, search.id, on_front=True)
    best_id = search.best_candidate_id
    others = [one.id for one in kept if one.id != best_id]
    rows = [*kept, *(candidates.by_id(session, [best_id]) if best_id and len(others) == len(kept) else [])]
    found = {one.id: one for one in members(session, context, search, rows)}
    best = found[best_id] if best_id else None
    findings = search.findings or {}
    return SearchOut(
        **_summary(search, best),
        limits=_limits(search, best),
        min_accuracy_reached=findings.get("reached"),
        front=_from_least([found[one.id] for one in kept], search.request),
        front_size=findings.get("front_size"),
        hypervolume=findings.get("hypervolume"),
        sensitivity=findings.get("sensitivity", []) if best else [],
        seed=search.seed,
        predictor=search.predictor_version,
        predictor_warning=ranking_warning(supernets.get(session, search.supernet_id).predictor_card or {}),
        latency_models=search.latency_models,
        answered_from=search.id if from_storage else None,
        warm_starts=search.warm_starts,
        evaluations=search.evaluations,
        two_opt=findings.get("two_opt"),
        two_opt_evaluations=findings.get("two_opt_evaluations"),
        gained_last_1000=findings.get("gained_last_1000"),
        elapsed_ms=search.elapsed_ms,
        progress=search.progress,
    )


def summaries(session: Session, context: Context, searches: Sequence[Search]) -> list[SearchSummary]:
    """Searches in a list."""
    result = []
    for search in searches:
        rows = candidates.by_id(session, [search.best_candidate_id]) if search.best_candidate_id else []
        best = members(session, context, search, rows)
        result.append(SearchSummary(**_summary(search, best[0] if best else None)))
    return result


def front(session: Session, context: Context, search: Search) -> list[CandidateOut]:
    """A search's Pareto front, from the least of its first cost."""
    found = members(session, context, search, queries.members(session, search.id, on_front=True))
    return _from_least(found, search.request)


def members(session: Session, context: Context, search: Search, rows: Sequence[Candidate]) -> list[CandidateOut]:
    """Candidates as a search saw them: with the predictions it used, and the latency measured for it."""
    if not rows:
        return []
    ids = [candidate.id for candidate in rows]
    accuracy = candidates.predicted_accuracy(session, ids, search.predictor_version)
    latency = candidates.predicted_latency(session, ids, search.latency_models)
    bounds = _bounds(session, context, search, rows)
    predicted = [
        Predicted(
            accuracy.get(one),
            search.predictor_version,
            latency.get(one, {}),
            search.latency_models,
            {device: float(ms[row]) for device, ms in bounds.items()},
        )
        for row, one in enumerate(ids)
    ]
    return describe(session, context, rows, predicted, search.id)


def _bounds(session: Session, context: Context, search: Search, found: Sequence[Candidate]) -> dict[str, Floats]:
    """By device, the bound on each candidate's latency that the search asked for, to the bit as it was held."""
    asked = {limit["device"]: limit["confidence"] for limit in search.request["limits"] if limit["confidence"]}
    if not asked:
        return {}
    tables = context.loaded(supernets.get(session, search.supernet_id)).tables
    rows = {row.device: row for row in devices.models_by_id(session, list(search.latency_models.values()))}
    genomes = genomes_of(found)
    return {
        device: context.latency_model(rows[device], tables).upper_bound(genomes, confidence)
        for device, confidence in asked.items()
    }


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


def _limits(search: Search, best: CandidateOut | None) -> list[LimitOut]:
    """The limits, and how the best candidate stands to each."""
    result = []
    for limit in search.request["limits"]:
        value, holds = None, None
        if best is not None:
            measured = (best.measured_latency_ms or {}).get(limit["device"])
            holds = limit_holds(limit, measured is not None)
            value = {
                "counted": getattr(best, limit["cost"], None),
                "predicted": best.predicted_latency_ms.get(limit["device"]),
                "bound": best.predicted_latency_bound_ms.get(limit["device"]),
                "measured": measured,
            }[holds]
        result.append(LimitOut(**limit, value=value, holds=holds))
    return result


def _from_least(found: list[CandidateOut], request: dict[str, Any]) -> list[CandidateOut]:
    """In the order of the front's first cost: the first objective or limit, the minimised one, or FLOPs."""
    minimised = "flops" if request["objective"] in ("accuracy", "pareto") else request["objective"]
    first = request["limits"][0] if request["limits"] else {"cost": minimised, "device": request["device"]}
    if request["objectives"]:
        first = {"cost": request["objectives"][0], "device": request["device"]}
    cost, device = str(first["cost"]), str(first["device"])
    if cost == "latency_ms":
        return sorted(found, key=lambda one: one.predicted_latency_ms.get(device, 0.0))
    return sorted(found, key=lambda one: float(getattr(one, cost)))
