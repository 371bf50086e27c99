"""Searching a bundle without a server."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution.arrays import Floats
from evolution.costs import CostTables
from evolution.limits import Limit
from evolution.predictors.accuracy import AccuracyPredictor, ranking_warning
from evolution.predictors.latency import LatencyModel
from evolution.problem import Problem
from evolution.search import EVALUATIONS
from service.bundles.paths import check_input
from service.candidates.schemas import CandidateOut
from service.costs import cost_tables, counted_costs
from service.devices.measurements import fit_measurements_file
from service.errors import InputError
from service.searches.answer import answer_parts, limit_evidence, shown_front, weakest_evidence
from service.searches.findings import make_findings
from service.searches.request import SearchRequest, canonical_choices
from service.searches.schemas import SearchOut
from supernet.bundle import Bundle
from supernet.space import Genomes, Value

ID_DIGITS = 16  # of a bundle's hash: the id of its supernet once it is registered


def search_bundle(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    choices: Mapping[str, Sequence[Value]] | None = None,
    minimise: str | None = None,
    min_accuracy: float | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    strategy: str | None = None,
) -> dict[str, Any]:
    """The best architecture by prediction within hard limits, as JSON: `SearchOut`, without what only a server knows.

    A candidate's `id` is its architecture's, as `supple describe` prints it. `latency_models` names their sources.
    limits, device, resolution, max_resolution, choices, minimise, min_accuracy: see `make_request`.
    evaluations: how many architectures to evaluate at most. strategy: a name; None: the default.

    Raises:
        Refused (a ValueError): no architecture is within the limits. ValueError: an unknown strategy. Also what
            `make_request` raises.
    """
    request, sources = make_request(
        bundle,
        limits,
        device=device,
        resolution=resolution,
        max_resolution=max_resolution,
        choices=choices,
        minimise=minimise,
        min_accuracy=min_accuracy,
        evaluations=evaluations,
        seed=seed,
        strategy=strategy,
    )
    problem, latency_models = make_problem(bundle, request, sources)
    started = time.perf_counter()
    result = request.search(problem).run_to_end()
    elapsed_ms = 1e3 * (time.perf_counter() - started)
    members = shown_front(result)
    (best,) = _show(bundle, problem, latency_models, result.best[None], result.finalists.accuracy[:1])
    front = _show(bundle, problem, latency_models, result.front.genomes[members], result.front.accuracy[members])
    answer = SearchOut.model_construct(
        supernet=request.supernet,
        status="done",
        request=request.to_json(),
        best=best,
        limits_hold=weakest_evidence([limit_evidence(limit) for limit in request.limits]),
        **answer_parts(request, make_findings(problem, result), best, front),
        predictor_warning=ranking_warning(load_predictor(bundle).card),
        latency_models=sources,
        evaluations=result.evaluations,
        elapsed_ms=elapsed_ms,
    )
    return answer.model_dump(mode="json", exclude_unset=True, warnings=False)


def make_request(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    choices: Mapping[str, Sequence[Value]] | None = None,
    minimise: str | None = None,
    min_accuracy: float | None = None,
    evaluations: int | None = None,
    seed: int = 0,
    strategy: str | None = None,
) -> tuple[SearchRequest, dict[str, str]]:
    """The request that these arguments make, and where the latency models come from: sources by device, `device` first.

    limits: the largest allowed value by cost; `latency_ms` is on `device`, and `latency_ms@OTHER` on another device.
    device, OTHER: the name of a device inside the bundle, or a file of measurements, whose stem is then the name.
    resolution: the only image size allowed. max_resolution: the largest one. choices: the choices that stay open, by
    name of the gene, as `evolution.choices.Choices` takes them. minimise: the cost to minimise at `min_accuracy`.
    evaluations: the most; None: the default. strategy: a name; None: the default.

    Raises:
        InputError: `device` is missing, or two files have one name.
    """
    if device is None and "latency_ms" in (*limits, minimise):
        raise InputError(
            "latency needs `device`: measurements that `supple probe` wrote, or a device inside the bundle "
            f"({_device_names(bundle)})",
            "device",
        )
    sources = [source for source in (device, *(name.partition("@")[2] for name in limits)) if source]
    names = {source: source if source in bundle.devices else Path(source).stem for source in sources}
    if len(set(names.values())) < len(names):
        raise InputError(f"devices are {', '.join(names)}; two of them have one name, so rename a file")

    def limit(name: str, value: float) -> Limit:
        cost, _, other = name.partition("@")
        return Limit(cost, value, names[other or device or ""] if cost == "latency_ms" else None)

    request = SearchRequest(
        supernet=bundle.hash[:ID_DIGITS],
        limits=tuple(limit(name, value) for name, value in limits.items()),
        device=names[device or ""] if minimise == "latency_ms" else None,
        objective=minimise or "accuracy",
        min_accuracy=min_accuracy,
        resolution=resolution,
        max_resolution=max_resolution,
        choices=canonical_choices(choices or {}),
        strategy=strategy,
        seed=seed,
        evaluations=EVALUATIONS if evaluations is None else evaluations,
        warm_start=False,
    )
    return request, {name: source for source, name in names.items()}


def make_problem(
    bundle: Bundle, request: SearchRequest, sources: Mapping[str, str]
) -> tuple[Problem, dict[str, LatencyModel]]:
    """The problem that a request states, and the latency models by device. sources: from `make_request`.

    Raises:
        ValueError: the bundle has no predictor, or a file measures another space. InputError: no such device or file.
    """
    predictor = load_predictor(bundle)
    tables = cost_tables(bundle.space, bundle.classes)
    latency_models = {name: load_latency_model(bundle, tables, source) for name, source in sources.items()}
    return request.problem(tables, predictor, latency_models), latency_models


def load_predictor(bundle: Bundle) -> AccuracyPredictor:
    """The accuracy predictor of a bundle. Raises ValueError if it has none."""
    if bundle.predictor_path is None:
        raise ValueError(f"{bundle.path} has no accuracy predictor, so it cannot be searched")
    return AccuracyPredictor.load(bundle.predictor_path, bundle.space)


def load_latency_model(bundle: Bundle, tables: CostTables, device: str) -> LatencyModel:
    """The latency model of a device inside a bundle, or fitted on a file that the probe wrote.

    Raises:
        InputError: no such device and no such file. ValueError: what `latency_model` raises.
    """
    if device in bundle.devices:
        return LatencyModel.from_json(bundle.devices[device]["latency_model"], tables)
    try:
        check_input("`device`", Path(device))
    except InputError as error:
        raise InputError(f"{error}, or a device inside the bundle ({_device_names(bundle)})", "device") from error
    return fit_measurements_file(tables, Path(device))


def _device_names(bundle: Bundle) -> str:
    return ", ".join(bundle.devices) or "it has none"


def _show(
    bundle: Bundle, problem: Problem, latency_models: Mapping[str, LatencyModel], genomes: Genomes, accuracy: Floats
) -> list[CandidateOut]:
    """(N, G) genomes and their (N,) predicted accuracies as candidates, which are neither verified nor measured."""
    tables, space = problem.tables, bundle.space
    costs = {kind: tables.cost(kind.name)(genomes) for kind in counted_costs()}
    latency_ms = {name: model.predict(genomes) for name, model in latency_models.items()}
    candidates = []
    for row, genome in enumerate(genomes):
        arch = space.decode(genome)
        counted: dict[str, Any] = {kind.name: kind.number(values[row]) for kind, values in costs.items()}
        candidates.append(
            CandidateOut.model_construct(
                id=space.id(genome),
                supernet=bundle.hash[:ID_DIGITS],
                arch=arch.to_json(),
                resolution=arch.resolution,
                **counted,
                predicted_accuracy=float(accuracy[row]),
                predicted_latency_ms={
                    name: float(ms[row]) for name, ms in latency_ms.items() if math.isfinite(ms[row])
                },  # inf: not measured at this resolution
                predicted_latency_bound_ms={},
                verified_accuracy=None,
                measured_latency_ms=None,
            )
        )
    return candidates
