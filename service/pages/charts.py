"""The charts of the pages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.candidates.schemas import CandidateOut
from service.costs import COSTS, cost_kind, counted_costs
from service.pages import show
from service.searches.request import SearchRequest
from service.searches.schemas import SearchOut
from supernet.evaluation.metrics import Metric


def search_chart(search: SearchOut, space: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the chart of a search's front."""
    names = cost_names(search.latency_models)
    limits = {
        f"{limit.cost}@{limit.device}" if limit.device else limit.cost: limit.max
        for limit in search.limits
        if limit.confidence is None
    }
    request = SearchRequest.from_json(search.request)
    costs = request.objectives or ((request.minimise,) if request.minimise else ())
    objectives = [_on_device(cost, request.device) for cost in costs]
    axis = next((name for name in names if name in (objectives or limits)), names[0])
    metric = request.metric if request.is_inherited else None
    return chart(search.front, search.best, names, axis, space, limits, request.min_accuracy, metric)


def _on_device(name: str, device: str | None) -> str:
    return name if cost_kind(name).build else f"{name}@{device}"


def cost_names(devices: Iterable[str]) -> list[str]:
    """All costs, named as limits are: those that a device has once for each of the devices, then the counted ones."""
    devices = list(devices)
    measured = [f"{kind.name}@{device}" for kind in COSTS if kind.build is None for device in devices]
    return [*measured, *(kind.name for kind in counted_costs())]


def chart(
    front: Sequence[CandidateOut],
    best: CandidateOut | None,
    names: Sequence[str],
    axis: str,
    space: Mapping[str, Any],
    limits: Mapping[str, float] | None = None,
    min_accuracy: float | None = None,
    metric: Metric | None = None,
) -> dict[str, Any]:
    """The data of the chart of a front, with predicted and verified accuracies apart.

    names: the costs that the horizontal axis can show. axis: the cost that it shows first. metric: what the front is
    of, if it was measured.
    """
    limits = limits or {}
    candidates = [candidate for candidate in front if best is None or candidate.id != best.id]
    return {
        "axis": names.index(axis),
        "axes": [
            {"name": show.cost_name(name), "unit": show.unit(name), "limit": limits.get(name)}
            | ({"limit_text": f"limit {show.exact(limits[name], name)}"} if name in limits else {})
            for name in names
        ],
        "ranked": "inherited" if metric else "predicted",
        "quality": show.metric(metric or "accuracy"),
        "is_fraction": metric != "log_likelihood",
        "min_accuracy": min_accuracy,
        "min_accuracy_text": f"at least {show.percent(min_accuracy)}",
        "points": [
            {
                "id": candidate.id,
                "architecture": show.line(candidate.arch, space),
                "predicted": candidate.predicted_accuracy,
                "verified": candidate.verified_accuracy,
                "inherited": getattr(candidate.inherited, metric) if candidate.inherited and metric else None,
                "costs": [_cost(candidate, name) for name in names],
                "best": candidate is best,
                "rows": _rows(candidate, names, metric),
            }
            for candidate in (*candidates, *([best] if best else []))
        ],
    }


def _rows(candidate: CandidateOut, names: Sequence[str], metric: Metric | None) -> list[tuple[str, str]]:
    """The rows of a candidate's tooltip: labels and numbers."""
    rows = []
    if metric and candidate.inherited:
        rows.append((f"{show.metric(metric)}, inherited", show.score(getattr(candidate.inherited, metric), metric)))
    std = candidate.predicted_accuracy_std
    interval = "" if std is None else f" {show.interval(std)}"
    rows += [("Predicted accuracy", f"{show.percent(candidate.predicted_accuracy)}{interval}")]
    if candidate.verified_accuracy is not None:
        rows.append(("Verified accuracy", show.percent(candidate.verified_accuracy)))
    rows += [
        (f"{show.cost_name(name)}{', predicted' if '@' in name else ''}", show.cost(_cost(candidate, name), name))
        for name in names
    ]
    for device, ms in (candidate.measured_latency_ms or {}).items():
        rows.append((f"Latency on {device}, measured", show.cost(ms, "latency_ms")))
    return rows


def _cost(candidate: CandidateOut, name: str) -> float | None:
    cost, _, device = name.partition("@")
    return candidate.predicted_latency_ms.get(device) if device else getattr(candidate, cost)
