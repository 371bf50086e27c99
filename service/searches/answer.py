"""What answers of the server and answers of `supple search` share. Loads neither torch nor the job queue."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolution.costs import DEVICE_COSTS
from evolution.limits import Limit
from evolution.pareto import thin_out
from evolution.refusal import Infeasible, Refused
from evolution.search import SearchResult
from service.candidates.schemas import CandidateOut
from service.errors import InfeasibleError
from service.searches.findings import Findings
from service.searches.request import SearchRequest
from service.searches.schemas import Holds, LimitOut
from supernet.space import Genomes

FINALISTS = 64  # stored beside the front; verification chooses among them
MOST_ON_FRONT = 256  # members of a front that are stored and shown


def answer_parts(
    request: SearchRequest, findings: Findings, best: CandidateOut | None, front: Sequence[CandidateOut]
) -> dict[str, Any]:
    """The fields of `SearchOut` that follow from these. best: None while there is no answer."""
    shown = findings.to_json()
    return {
        "limits": [_limit_out(limit, best) for limit in request.limits],
        "min_accuracy_reached": findings.reached,
        "binding": _binding(request, findings) if best else None,
        "front": sort_front(request, front),
        "device_fronts": {device: _device_front(device, front) for device in request.devices},
        "front_size": findings.front_size,
        "hypervolume": shown.get("hypervolume"),
        "sensitivity": shown["sensitivity"] if best else [],
        "seed": request.seed,
        "strategy": findings.strategy or (request.strategy if best else None),
        "optimality": shown.get("optimality"),
        "two_opt": findings.two_opt,
        "two_opt_evaluations": findings.two_opt_evaluations,
        "gained_last_1000": findings.gained_last_1000,
        "ended_by": findings.ended_by,
    }


def _limit_out(limit: Limit, best: CandidateOut | None) -> LimitOut:
    """A limit, what the best candidate has of its cost, and how that is known."""
    value, evidence, upper = None, None, None
    if best is not None:
        device = limit.device or ""
        measured = (getattr(best, f"measured_{limit.cost}", None) or {}).get(device)
        evidence = limit_evidence(limit, measured is not None)
        value = {
            "counted": predicted_cost(best, limit.place),
            "predicted": predicted_cost(best, limit.place),
            "bound": best.predicted_latency_bound_ms.get(device),
            "measured": measured,
        }[evidence]
        details = (best.measured_latency_details or {}).get(device) if limit.cost == "latency_ms" else None
        upper = details.upper_ms if details else None
    return LimitOut(
        cost=limit.cost,
        max=limit.max,
        device=limit.device,
        confidence=limit.confidence,
        value=value,
        holds=evidence,
        upper=upper,
    )


def _binding(request: SearchRequest, findings: Findings) -> str | None:
    """The name of the limit that costs most accuracy: raised a little, it gains most; else lowered, it loses most."""
    limited = {limit.name for limit in request.limits}
    changes = {
        around.cost: (around.gained, math.inf if around.lost is None else around.lost)
        for around in findings.sensitivity
        if around.cost in limited
    }
    name = max(changes, key=lambda name: changes[name], default=None)
    return name if name is not None and any(changes[name]) else None


def _device_front(device: str, front: Sequence[CandidateOut]) -> list[str]:
    """The members of a front that no other member beats in accuracy and latency on one device, fastest first."""
    members = [member for member in front if device in member.predicted_latency_ms]
    points = [(member.predicted_latency_ms[device], -(member.predicted_accuracy or 0.0)) for member in members]
    ids, best = [], math.inf
    for (_, error), member in sorted(zip(points, members, strict=True), key=lambda pair: pair[0]):
        if error < best:
            ids.append(member.id)
            best = error
    return ids


def limit_evidence(limit: Limit, is_measured: bool = False) -> Holds:
    """How it is known that a limit holds."""
    if limit.cost not in DEVICE_COSTS:
        return "counted"
    return "measured" if is_measured else "bound" if limit.confidence else "predicted"


def weakest_evidence(evidence: Sequence[Holds]) -> Holds | None:
    """What is known of several limits together; None without any. Counting is exact, so it counts as the strongest."""
    return min(evidence, key=("predicted", "bound", "measured", "counted").index, default=None)


def sort_front(request: SearchRequest, front: Sequence[CandidateOut]) -> list[CandidateOut]:
    """The members of a front by the request's first cost, smallest first."""
    cost, device = request.first_cost
    place = f"{cost}@{device}" if cost in DEVICE_COSTS else cost
    return sorted(front, key=lambda member: predicted_cost(member, place) or 0.0)


def predicted_cost(candidate: CandidateOut, place: str) -> float | None:
    """A cost of a candidate, counted or predicted; None where it cannot be predicted. place: as `Limit.place`."""
    cost, _, device = place.partition("@")
    value: float | None = getattr(candidate, f"predicted_{cost}").get(device) if device else getattr(candidate, cost)
    return value


def shown_front(result: SearchResult) -> NDArray[np.intp]:
    """The indices of the front's members to store and to show; of a large front, members that lie far apart."""
    return thin_out(result.front.objectives, MOST_ON_FRONT)


def members(result: SearchResult) -> tuple[Genomes, NDArray[np.bool_]]:
    """(N, G) the candidates to store: finalists, best first, then the rest of the front. (N,) whether on the front."""
    front = [genome.tobytes() for genome in result.front.genomes[shown_front(result)]]
    finalists = [genome.tobytes() for genome in result.finalists.genomes[:FINALISTS]]
    first, on_front = set(finalists), set(front)
    keys = finalists + [key for key in reversed(front) if key not in first]
    genomes = np.frombuffer(b"".join(keys), np.int8).reshape(len(keys), -1)
    return genomes, np.array([key in on_front for key in keys])


def refuse(error: Refused) -> InfeasibleError:
    """The refusal of a search as an error with a problem document."""
    return InfeasibleError(
        str(error),
        proven=isinstance(error, Infeasible),
        limits=error.limits,
        floors={name: _finite(value) for name, value in error.floors.items()},
        nearest={name: {"max": _finite(near.value), "proven": near.proven} for name, near in error.nearest.items()},
        smallest={
            "arch": error.smallest.to_json(),
            "costs": {name: _finite(value) for name, value in error.costs.items()},
        },
    )


def _finite(value: float) -> float | None:
    """A number, None for inf."""
    return value if math.isfinite(value) else None
