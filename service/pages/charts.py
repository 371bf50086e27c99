"""The charts of the pages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.candidates.schemas import CandidateOut
from service.costs import cost_kind, counted_costs, device_costs
from service.pages import show
from service.searches.answer import predicted_cost
from service.searches.request import SearchRequest
from service.searches.schemas import SearchOut
from supernet.evaluation.metrics import Metric


def search_chart(search: SearchOut, space: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the chart of a search's front."""
    limits = {
        f"{limit.cost}@{limit.device}" if limit.device else limit.cost: limit.max
        for limit in search.limits
        if limit.confidence is None
    }
    request = SearchRequest.from_json(search.request)
    names = cost_names(search.latency_models, search.front)
    costs = request.objectives or ((request.minimise,) if request.minimise else ())
    objectives = [_on_device(cost, request.device) for cost in costs]
    axis = next((name for name in names if name in (objectives or limits)), names[0])
    metric = request.metric if request.is_inherited else None
    return chart(search.front, search.best, names, axis, space, limits, request.min_accuracy, metric)


def _on_device(name: str, device: str | None) -> str:
    return name if cost_kind(name).build else f"{name}@{device}"


def cost_names(devices: Iterable[str], front: Sequence[CandidateOut]) -> list[str]:
    """All costs, named as limits are: those that a device has once for each of the devices, then the counted ones.

    Memory and energy are left out where they are predicted for no member of the front.
    """
    devices = list(devices)
    latencies = [f"latency_ms@{device}" for device in devices]
    return [*latencies, *beside_latency(devices, front), *(kind.name for kind in counted_costs())]


def beside_latency(devices: Iterable[str], front: Sequence[CandidateOut]) -> list[str]:
    """Memory and energy, named as limits are, on each device where some member of the front has a prediction."""
    names = [f"{kind.name}@{name}" for name in devices for kind in device_costs() if kind.name != "latency_ms"]
    return [name for name in names if any(predicted_cost(member, name) is not None for member in front)]


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
                "costs": [predicted_cost(candidate, name) for name in names],
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
        (
            f"{show.cost_name(name)}{', predicted' if '@' in name else ''}",
            show.cost(predicted_cost(candidate, name), name),
        )
        for name in names
    ]
    for kind in device_costs():
        for device, value in (getattr(candidate, f"measured_{kind.name}") or {}).items():
            rows.append((f"{show.cost_name(kind.name)} on {device}, measured", show.cost(value, kind.name)))
    return rows
