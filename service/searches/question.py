"""Questions: requests together with the versions of the models that answer them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from evolution.choices import Choices
from evolution.costs import DEVICE_COSTS
from evolution.limits import Limit
from evolution.problem import MOST_FRONT_COSTS
from evolution.search import default_evaluations
from service.context import Context
from service.costs import COSTS
from service.devices import queries as devices
from service.errors import ConflictError, InvalidError
from service.searches import queries
from service.searches.findings import Findings
from service.searches.inherited import check_measurable
from service.searches.request import INHERITED_EVALUATIONS, SearchRequest, canonical_choices
from service.searches.schemas import SearchIn
from service.storage.store import unpack
from service.storage.tables import LatencyModelRow, Search, Supernet
from service.supernets import queries as supernets
from service.supernets.extractable import check_extractable
from supernet.families import space_from_json
from supernet.space import Genomes, Value

SHORTHANDS = {kind.field: kind.name for kind in COSTS}


@dataclass(frozen=True)
class Question:
    """Everything that an answer depends on. latency_models: by device. warm_start: (N, G) genomes to start from.

    predictor_version: of the supernet's accuracy predictor, when the question was asked.
    """

    supernet: Supernet
    predictor_version: str | None
    request: SearchRequest
    latency_models: Mapping[str, LatencyModelRow]
    warm_start: Genomes | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of everything but the warm start. Equal hashes: the same question."""
        versions = {device: row.id for device, row in self.latency_models.items()}
        content = [self.request.to_json(), self.predictor_version, versions]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_question(session: Session, body: SearchIn) -> Question:
    """The question that a request body asks, with the newest models.

    Raises:
        NotFoundError: no such supernet or device. InvalidError: the device was not measured, the supernet's networks
            cannot be verified, or fields contradict each other. InputError: they cannot be measured by `metric`.
    """
    supernet = supernets.get(session, body.supernet) if body.supernet else supernets.get_only(session)
    if body.verify:
        check_extractable(supernet)
    request = make_request(body, supernet)
    if request.is_inherited:
        check_measurable(supernet.manifest, request.metric)
    latency_models = devices.get_models(session, request.devices, supernet.space_hash)
    return Question(supernet, supernet.predictor_version, request, latency_models)


def load_question(session: Session, context: Context, search: Search) -> Question:
    """The question of a stored search, with the models and the warm start that it was stored with."""
    warm_start = None
    if search.warm_start is not None:
        warm_start = unpack(context.store.path(search.warm_start).read_bytes())["genomes"]
    rows = devices.get_models_by_id(session, list(search.latency_models.values()))
    supernet = supernets.get(session, search.supernet_id)
    request = SearchRequest.from_json(search.request)
    version = search.predictor_version or None
    return Question(supernet, version, request, {row.device: row for row in rows}, warm_start)


def find_answer(session: Session, question: Question) -> Search | None:
    """The stored search that answers a question already; None for a question that ignores what is stored.

    A verified search whose latency is only predicted does not count: this time, a worker may run on the device. Nor
    does a search that its `seconds` ended: a new one starts from its best architectures and may find better ones.
    """
    if not question.request.warm_start:
        return None
    search = queries.newest_answer(session, question.hash)
    if search is None or Findings.from_json(search.findings).ended_by == "seconds":
        return None
    is_unmeasured = search.limits_hold in ("predicted", "bound")
    return None if is_unmeasured and question.request.verify else search


def find_by_key(session: Session, idempotency_key: str | None, body: SearchIn) -> Search | None:
    """The search that was created with this key.

    Raises:
        ConflictError: that search had another request. Also what `make_request` raises.
    """
    search = queries.by_key(session, idempotency_key) if idempotency_key else None
    if search is None:
        return None
    stored = SearchRequest.from_json(search.request)
    request = make_request(body, supernets.get(session, body.supernet or search.supernet_id))
    if body.strategy is None:  # an earlier release stored the name of its default
        request = replace(request, strategy=stored.strategy)
    if stored != request:
        raise ConflictError(
            f"Idempotency-Key {idempotency_key!r} was sent before with another request, which became search "
            f"{search.id}; use another key"
        )
    return search


def make_request(body: SearchIn, supernet: Supernet) -> SearchRequest:
    """The canonical form of a request body: no shorthands, no choices that exclude nothing, limits in a fixed order.

    Raises:
        InvalidError, InputError: fields contradict each other or lack their device. ValueError: unknown choices.
    """
    limits = _limits(body)
    objectives = _objectives(body)
    on_device = [name for name in (body.objective, *objectives) if name in DEVICE_COSTS]
    if body.device is not None and not on_device and body.device not in {limit.device for limit in limits}:
        raise InvalidError(
            f"device is {body.device!r}, but nothing limits its latency, memory or energy; add max_latency_ms or leave "
            "it out"
        )
    if on_device and body.device is None:
        raise InvalidError(f"{on_device[0]} as an objective needs a device")
    if (body.objective in ("accuracy", "pareto")) != (body.min_accuracy is None):
        raise InvalidError(
            f"objective is {body.objective!r} and min_accuracy is {body.min_accuracy}; min_accuracy goes with a cost "
            "as objective, and such an objective needs it"
        )
    return SearchRequest(
        supernet=supernet.id,
        limits=limits,
        device=body.device if on_device else None,
        objectives=objectives,
        strategy=body.strategy,
        objective=body.objective,
        min_accuracy=body.min_accuracy,
        resolution=body.resolution,
        max_resolution=body.max_resolution,
        choices=canonical_choices(_binding(body.choices, supernet)),
        seed=body.seed,
        evaluations=_evaluations(body, objectives),
        seconds=body.seconds,
        warm_start=body.warm_start,
        verify=body.verify,
        evaluate=body.evaluate,
        metric=body.metric,
    )


def _binding(choices: Mapping[str, Sequence[Value]], supernet: Supernet) -> Mapping[str, Sequence[Value]]:
    """The restrictions that exclude a choice, so that requests with and without the others are the same question."""
    return Choices(space_from_json(supernet.manifest["space"]), choices).binding if choices else {}


def _limits(body: SearchIn) -> tuple[Limit, ...]:
    """All limits, shorthands included, sorted.

    Raises:
        ValueError: a limit lacks its device, or has one that is out of place. InvalidError: two confidences on one
            device.
    """
    limits = [
        Limit(limit.cost, limit.max, limit.device or _device_of(limit.cost, body), limit.confidence)
        for limit in body.limits
    ]
    for shorthand, cost in SHORTHANDS.items():
        if (value := getattr(body, shorthand)) is not None:
            limits.append(Limit(cost, value, _device_of(cost, body)))
    _check_confidences(limits)
    return tuple(sorted(limits, key=lambda x: (x.cost, x.device or "", x.confidence or 0.0, x.max)))


def _device_of(cost: str, body: SearchIn) -> str | None:
    return body.device if cost in DEVICE_COSTS else None


def _evaluations(body: SearchIn, objectives: Sequence[str]) -> int:
    """`evaluations`, or `budget`, its deprecated name, or else the default.

    Raises:
        InvalidError: both are sent and differ.
    """
    if body.evaluations is not None and body.budget is not None and body.evaluations != body.budget:
        raise InvalidError(
            f"evaluations is {body.evaluations} and budget, its deprecated name, is {body.budget}; send evaluations "
            "alone"
        )
    if (evaluations := body.evaluations or body.budget) is not None:
        return evaluations
    if body.evaluate == "inherited":
        return INHERITED_EVALUATIONS
    return default_evaluations(body.strategy or ("nsga2" if objectives else "evolution"))


def _objectives(body: SearchIn) -> tuple[str, ...]:
    """The costs of the front; empty unless the objective is `pareto`.

    Raises:
        InvalidError: objectives without the objective `pareto`, one cost twice, or more than two costs.
    """
    costs = tuple(name for name in body.objectives if name != "accuracy")
    if body.objective != "pareto":
        if body.objectives:
            raise InvalidError(f"objectives go with the objective 'pareto', and objective is {body.objective!r}")
        return ()
    if len(set(costs)) != len(costs) or len(costs) > MOST_FRONT_COSTS:
        raise InvalidError(
            f"objectives are {', '.join(body.objectives)}; a front is of the accuracy and 1 or {MOST_FRONT_COSTS} "
            "different costs"
        )
    return costs or ("latency_ms" if body.device else "flops",)


def _check_confidences(limits: Sequence[Limit]) -> None:
    """Refuse two confidences on one device: an answer shows one bound per device."""
    confidences: dict[str | None, set[float]] = defaultdict(set)
    for limit in limits:
        if limit.confidence is not None:
            confidences[limit.device].add(limit.confidence)
    for device, values in confidences.items():
        if len(values) > 1:
            raise InvalidError(
                f"device {device!r} is limited at the confidences {' and '.join(map(str, sorted(values)))}; give it one"
            )
