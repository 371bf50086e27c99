"""From a request to a question."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from evolution.limits import Limit
from evolution.problem import MOST_FRONT_COSTS
from service.context import Context
from service.costs import COSTS
from service.devices import queries as devices
from service.errors import ConflictError, InvalidError
from service.searches import queries
from service.searches.schemas import SearchIn
from service.storage.store import unpack
from service.storage.tables import LatencyModelRow, Search, Supernet
from service.supernets import queries as supernets
from service.supernets.extractable import check_extractable
from supernet.space import Genomes

IN_PROCESS = 20_000  # evaluations that a request may wait for; more are a job's work
SHORTHANDS = {kind.field: kind.name for kind in COSTS}


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on, its seed included. latency_models: by device."""

    supernet: Supernet
    request: Mapping[str, Any]
    latency_models: Mapping[str, LatencyModelRow]
    warm_start: Genomes | None = None  # (N, G)

    @property
    def hash(self) -> str:
        """SHA-256 of all of it but the warm start: equal for what was asked before."""
        versions = {device: row.id for device, row in self.latency_models.items()}
        asked = [self.request, self.supernet.predictor_version, versions]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def is_short(self) -> bool:
        """Whether it may be answered while the client waits."""
        return not self.request["verify"] and self.request["budget"] <= IN_PROCESS


def ask(session: Session, body: SearchIn) -> Question:
    """The question in a request, with the newest models that it depends on.

    Raises:
        NotFoundError, InvalidError: a supernet or device that is not there or not measured; fields that contradict.
    """
    supernet = supernets.get(session, body.supernet) if body.supernet else supernets.only(session)
    if body.verify:
        check_extractable(supernet)
    request = canonical(body, supernet.id)
    names = {limit["device"] for limit in request["limits"]} | {request["device"]}
    latency = devices.models_for(session, sorted(names - {None}), supernet.space_hash)
    return Question(supernet, request, latency)


def answered_before(session: Session, question: Question) -> Search | None:
    """The stored search that answers a question, unless it asks for nothing stored to count.

    A verified one whose latency was left as predicted does not: a worker on the device may measure it this time.
    """
    if not question.request["warm_start"]:
        return None
    search = queries.answered(session, question.hash)
    unmeasured = search is not None and search.limits_hold in ("predicted", "bound")
    return None if unmeasured and question.request["verify"] else search


def asked_before(session: Session, idempotency_key: str | None, body: SearchIn) -> Search | None:
    """The search that this key was sent with before.

    Raises:
        ConflictError: it asked something else.
    """
    earlier = queries.by_key(session, idempotency_key) if idempotency_key else None
    if earlier is not None and earlier.request != canonical(body, body.supernet or earlier.supernet_id):
        raise ConflictError(
            f"Idempotency-Key {idempotency_key!r} was sent before with another request, which became search "
            f"{earlier.id}; use another key"
        )
    return earlier


def canonical(body: SearchIn, supernet_id: str) -> dict[str, Any]:
    """A request without shorthands, its limits in a fixed order: what is stored, and asked again to repeat a search.

    Raises:
        InvalidError: fields that contradict each other or lack their device.
    """
    limits = [limit.model_dump() for limit in body.limits]
    for shorthand, cost in SHORTHANDS.items():
        if (value := getattr(body, shorthand)) is not None:
            device = body.device if cost == "latency_ms" else None
            limits.append({"cost": cost, "max": value, "device": device, "confidence": None})
    for limit in limits:
        if limit["cost"] == "latency_ms" and limit["device"] is None:
            limit["device"] = body.device
        Limit(**limit)  # refuses a device missing or out of place
    _check_confidences(limits)
    objectives = _objectives(body)
    on_device = "latency_ms" in (body.objective, *objectives)
    if body.device is not None and not on_device and body.device not in {x["device"] for x in limits}:
        raise InvalidError(
            f"device is {body.device!r}, but nothing limits its latency; add max_latency_ms or leave it out"
        )
    if on_device and body.device is None:
        raise InvalidError("latency_ms as an objective needs a device")
    if (body.objective in ("accuracy", "pareto")) != (body.min_accuracy is None):
        raise InvalidError(
            f"objective is {body.objective!r} and min_accuracy is {body.min_accuracy}; min_accuracy goes with a cost "
            "as objective, and such an objective needs it"
        )
    kept = ("objective", "min_accuracy", "resolution", "max_resolution", "seed", "budget", "warm_start", "verify")
    return {
        "supernet": supernet_id,
        "limits": sorted(limits, key=lambda x: (x["cost"], x["device"] or "", x["confidence"] or 0.0, x["max"])),
        "device": body.device if on_device else None,
        "objectives": objectives,
        "strategy": body.strategy or ("nsga2" if objectives else "evolution"),
        **{field: getattr(body, field) for field in kept},
    }


def _objectives(body: SearchIn) -> list[str]:
    """The costs of the front that is sought; none where none is.

    Raises:
        InvalidError: objectives without the objective `pareto`, twice the same, or more than two costs.
    """
    costs: list[str] = [name for name in body.objectives if name != "accuracy"]
    if body.objective != "pareto":
        if body.objectives:
            raise InvalidError(f"objectives go with the objective 'pareto', and objective is {body.objective!r}")
        return []
    if len(set(costs)) != len(costs) or len(costs) > MOST_FRONT_COSTS:
        raise InvalidError(
            f"objectives are {', '.join(body.objectives)}; a front is of the accuracy and 1 or {MOST_FRONT_COSTS} "
            "different costs"
        )
    return costs or ["latency_ms" if body.device else "flops"]


def _check_confidences(limits: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two confidences on one device: an answer shows one bound for each."""
    confidences: dict[str, set[float]] = defaultdict(set)
    for limit in limits:
        if limit["confidence"] is not None:
            confidences[limit["device"]].add(limit["confidence"])
    for device, given in confidences.items():
        if len(given) > 1:
            raise InvalidError(
                f"device {device!r} is limited at the confidences {' and '.join(map(str, sorted(given)))}; give it one"
            )


def load_question(session: Session, context: Context, search: Search) -> Question:
    """The question that a stored search asks, with the models and genomes it was asked with."""
    genomes = None
    if search.warm_start is not None:
        genomes = unpack(context.store.path(search.warm_start).read_bytes())["genomes"]
    rows = devices.models_by_id(session, list(search.latency_models.values()))
    supernet = supernets.get(session, search.supernet_id)
    return Question(supernet, search.request, {row.device: row for row in rows}, genomes)
