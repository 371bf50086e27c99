"""The charts of the pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.candidates.schemas import CandidateOut
from service.pages import show
from service.searches.schemas import SearchOut


def search_chart(search: SearchOut, space: Mapping[str, Any]) -> dict[str, Any]:
    """What the chart of a search's front is drawn from."""
    names = [*(f"latency_ms@{device}" for device in search.latency_models), *show.COUNTED]
    limits = {
        f"{limit.cost}@{limit.device}" if limit.device else limit.cost: limit.max
        for limit in search.limits
        if limit.confidence is None
    }
    sought = [f"{cost}@{search.request['device']}" if cost == "latency_ms" else cost for cost in _sought(search)]
    axis = next((name for name in names if name in (sought or limits)), names[0])
    return chart(search.front, search.best, names, axis, space, limits, search.request["min_accuracy"])


def _sought(search: SearchOut) -> list[str]:
    objective, objectives = search.request["objective"], search.request["objectives"]
    return objectives if objective == "pareto" else [] if objective == "accuracy" else [objective]


def chart(
    front: Sequence[CandidateOut],
    best: CandidateOut | None,
    names: Sequence[str],
    axis: str,
    space: Mapping[str, Any],
    limits: Mapping[str, float] | None = None,
    least: float | None = None,
) -> dict[str, Any]:
    """What the chart of a front is drawn from: predictions and verified accuracies, each by itself.

    names: the costs to choose from for the horizontal axis. axis: the one shown first. least: the accuracy asked.
    """
    limits = limits or {}
    others = [one for one in front if best is None or one.id != best.id]
    return {
        "axis": names.index(axis),
        "axes": [
            {"name": show.cost_name(name), "unit": show.kind(name), "limit": limits.get(name)}
            | ({"limit_text": f"limit {show.asked(limits[name], name)}"} if name in limits else {})
            for name in names
        ],
        "min_accuracy": least,
        "min_accuracy_text": f"at least {show.percent(least)}",
        "points": [
            {
                "id": one.id,
                "architecture": show.line(one.arch, space),
                "predicted": one.predicted_accuracy,
                "verified": one.verified_accuracy,
                "costs": [_cost(one, name) for name in names],
                "best": one is best,
                "rows": _rows(one, names),
            }
            for one in (*others, *([best] if best else []))
        ],
    }


def _rows(one: CandidateOut, names: Sequence[str]) -> list[tuple[str, str]]:
    """What a pointer on a candidate is told: names and numbers."""
    rows = [("Predicted accuracy", show.percent(one.predicted_accuracy))]
    if one.verified_accuracy is not None:
        rows.append(("Verified accuracy", show.percent(one.verified_accuracy)))
    rows += [
        (f"{show.cost_name(name)}{', predicted' if '@' in name else ''}", show.cost(_cost(one, name), name))
        for name in names
    ]
    for device, ms in (one.measured_latency_ms or {}).items():
        rows.append((f"Latency on {device}, measured", show.cost(ms, "latency_ms")))
    return rows


def _cost(candidate: CandidateOut, name: str) -> float | None:
    kind, _, device = name.partition("@")
    return candidate.predicted_latency_ms.get(device) if device else getattr(candidate, kind)
