"""Searching a bundle without a server."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evolution.choices import Choices
from evolution.costs import DEVICE_COSTS, CostTables
from evolution.limits import Limit
from evolution.predictors.accuracy import AccuracyPredictor, ranking_warning
from evolution.predictors.latency import LatencyModel
from evolution.problem import Problem
from evolution.search import Progress, SearchResult, default_evaluations
from service.bundles.paths import check_input
from service.candidates.on_devices import by_cost, predict_on_device
from service.candidates.schemas import CandidateOut, Inherited
from service.costs import cost_kind, cost_tables, counted_costs, device_costs
from service.devices.measurements import fit_measurements_file
from service.errors import InputError
from service.searches.answer import answer_parts, limit_evidence, shown_front, weakest_evidence
from service.searches.findings import make_findings
from service.searches.inherited import InheritedScores, check_measurable
from service.searches.request import INHERITED_EVALUATIONS, Evaluate, SearchRequest, canonical_choices
from service.searches.schemas import SearchOut
from service.threads import one_blas_thread
from supernet.bundle import Bundle
from supernet.evaluation.metrics import Evaluation, Metric
from supernet.space import Genomes, Value

ID_DIGITS = 16  # of a bundle's hash: the id of its supernet once it is registered


@one_blas_thread()
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
    seconds: float | None = None,
    seed: int = 0,
    strategy: str | None = None,
    evaluate: Evaluate = "predicted",
    metric: Metric = "accuracy",
    progress: Callable[[int, int, str], None] = lambda done, total, remark: None,
) -> dict[str, Any]:
    """The best architecture within hard limits, as JSON: `SearchOut`, without what only a server knows.

    A candidate's `id` is its architecture's, as `supple describe` prints it. `latency_models` names their sources.
    Subnets that are measured stay in BUNDLE.pairs.jsonl, where `supple fit` finds them, too; so an interrupted search,
    when it is run again, measures only the missing subnets.

    limits, device, resolution, max_resolution, choices, minimise, min_accuracy, evaluate, metric: see `make_request`.
    evaluations: how many architectures to evaluate at most. seconds: how long to search at most. strategy: a name;
    None: the default.
    progress: called with each subnet that is measured: how many are evaluated, of at most how many, and a remark.

    Raises:
        Refused (a ValueError): no architecture is within the limits. ValueError: an unknown strategy. Also what
            `make_request` raises. InputError: the bundle's subnets cannot be measured by the metric. OSError:
            BUNDLE.pairs.jsonl cannot be written.
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
        seconds=seconds,
        seed=seed,
        strategy=strategy,
        evaluate=evaluate,
        metric=metric,
    )
    problem, latency_models = make_problem(bundle, request, sources)
    started = time.perf_counter()
    if request.is_inherited:
        result, scored = _search_inherited(bundle, problem, request, progress)
    else:
        result, scored = request.search(problem).run_to_end(), {}
    elapsed_ms = 1e3 * (time.perf_counter() - started)
    predictor = load_predictor(bundle)
    (best,) = _show(bundle, predictor, problem, latency_models, result.best[None], scored)
    members = result.front.genomes[shown_front(result)]
    front = _show(bundle, predictor, problem, latency_models, members, scored)
    answer = SearchOut.model_construct(
        supernet=request.supernet,
        status="done",
        request=request.to_json(),
        best=best,
        limits_hold=weakest_evidence([limit_evidence(limit) for limit in request.limits]),
        **answer_parts(request, make_findings(problem, result), best, front),
        predictor_warning=None if request.is_inherited else ranking_warning(predictor.card),
        latency_models=sources,
        evaluations=result.evaluations,
        elapsed_ms=elapsed_ms,
    )
    return answer.model_dump(mode="json", exclude_unset=True, warnings=False)


def _search_inherited(
    bundle: Bundle, problem: Problem, request: SearchRequest, progress: Callable[[int, int, str], None]
) -> tuple[SearchResult, Mapping[bytes, Evaluation]]:
    """The result of a search that measures subnets, and the scores of everything measured. Loads torch."""
    from service.bundles.pairs import Pairs

    check_measurable(bundle.manifest, request.metric)
    problem.require_feasible()
    pairs, metric = Pairs.of_bundle(bundle), request.metric
    measured = 0  # since the last generation

    def on_measured(genome: Genomes, evaluation: Evaluation) -> None:
        nonlocal measured
        pairs.add(genome, evaluation)
        measured += 1
        progress(search.evaluations + measured, search.max_evaluations, f"{metric} {getattr(evaluation, metric):.4g}")

    def on_progress(_: Progress) -> None:
        nonlocal measured
        measured = 0
        progress(search.evaluations, search.max_evaluations, "")

    scores = InheritedScores(bundle.evaluator(), bundle.space, metric, pairs.known, on_measured)
    search = request.search(replace(problem, measure=scores))
    return search.run_to_end(on_progress), pairs.known


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
    seconds: float | None = None,
    seed: int = 0,
    strategy: str | None = None,
    evaluate: Evaluate = "predicted",
    metric: Metric = "accuracy",
) -> tuple[SearchRequest, dict[str, str]]:
    """The request that these arguments make, and where the latency models come from: sources by device, `device` first.

    limits: the largest allowed value by cost; `latency_ms`, `device_memory_bytes` and `energy_mj` are on `device`, and
    `latency_ms@OTHER` is on another device.
    device, OTHER: the name of a device inside the bundle, or a file of measurements, whose stem is then the name.
    resolution: the only image size allowed. max_resolution: the largest one. choices: the choices that stay open, by
    name of the gene, as `evolution.choices.Choices` takes them. minimise: the cost to minimise at `min_accuracy`.
    evaluations, seconds: the most; None: the default, and no limit. strategy: a name; None: the default. evaluate:
    `inherited` measures subnets on held-out images, by `metric`, in place of predicting their accuracy.

    Raises:
        InputError: `device` is missing, two files have one name, or the metric does not go with the rest. ValueError:
            unknown choices.
    """
    if device is None and (on_device := next((name for name in (*limits, minimise) if name in DEVICE_COSTS), None)):
        raise InputError(
            f"{cost_kind(on_device).label} needs `device`: measurements that `supple probe` wrote, or a device inside "
            f"the bundle ({_device_names(bundle)})",
            "device",
        )
    sources = [source for source in (device, *(name.partition("@")[2] for name in limits)) if source]
    names = {source: source if source in bundle.devices else Path(source).stem for source in sources}
    if len(set(names.values())) < len(names):
        raise InputError(f"devices are {', '.join(names)}; two of them have one name, so rename a file")

    def limit(name: str, value: float) -> Limit:
        cost, _, other = name.partition("@")
        return Limit(cost, value, names[other or device or ""] if cost in DEVICE_COSTS else None)

    default = INHERITED_EVALUATIONS if evaluate == "inherited" else default_evaluations(strategy or "evolution")
    request = SearchRequest(
        supernet=bundle.hash[:ID_DIGITS],
        limits=tuple(limit(name, value) for name, value in limits.items()),
        device=names[device or ""] if minimise in DEVICE_COSTS else None,
        objective=minimise or "accuracy",
        min_accuracy=min_accuracy,
        resolution=resolution,
        max_resolution=max_resolution,
        choices=canonical_choices(Choices(bundle.space, choices).binding),
        strategy=strategy,
        seed=seed,
        evaluations=default if evaluations is None else evaluations,
        seconds=seconds,
        warm_start=False,
        evaluate=evaluate,
        metric=metric,
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
        raise ValueError(f"{bundle.path} has no accuracy predictor, so it cannot be searched; {_how_to_fit(bundle)}")
    return AccuracyPredictor.load(bundle.predictor_path, bundle.space)


def _how_to_fit(bundle: Bundle) -> str:
    """What to run to give a bundle an accuracy predictor."""
    if not bundle.has_weights:
        return "import its predictor, too: `supple import-ofa --predictor FILE.pth`"
    if "holdout.npz" in bundle.manifest["files"]:
        return f"run `supple fit {bundle.path}`"
    return (
        f"write `init: {bundle.path}` into a training file and run `supple train` to train its subnets first. Or, to "
        f"search it as it is, run `supple fit {bundle.path} --images FOLDER` with images of its classes"
    )


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
    return fit_measurements_file(tables, Path(device), bundle_latency_models(bundle, tables))


def bundle_latency_models(bundle: Bundle, tables: CostTables) -> dict[str, LatencyModel]:
    """The latency models inside a bundle, by device. Raises ValueError: one that cannot be read."""
    return {name: LatencyModel.from_json(device["latency_model"], tables) for name, device in bundle.devices.items()}


def _device_names(bundle: Bundle) -> str:
    return ", ".join(bundle.devices) or "it has none"


def _show(
    bundle: Bundle,
    predictor: AccuracyPredictor,
    problem: Problem,
    latency_models: Mapping[str, LatencyModel],
    genomes: Genomes,
    scored: Mapping[bytes, Evaluation],
) -> list[CandidateOut]:
    """(N, G) genomes as candidates, with their predicted accuracies and costs on devices.

    scored: those that were measured.
    """
    tables, space = problem.tables, bundle.space
    accuracy, std = predictor.predict(genomes), predictor.predict_std(genomes)
    views = max(1, bundle.manifest["views"]["count"])
    costs = {kind: tables.cost(kind.name)(genomes) for kind in counted_costs()}
    on_devices = {name: predict_on_device(model, genomes) for name, model in latency_models.items()}
    candidates = []
    for row, genome in enumerate(genomes):
        arch = space.decode(genome)
        evaluation = scored.get(genome.tobytes())
        counted: dict[str, Any] = {kind.name: kind.number(values[row]) for kind, values in costs.items()}
        predicted: dict[str, Any] = {f"predicted_{cost}": x for cost, x in by_cost(on_devices, row).items()}
        candidates.append(
            CandidateOut.model_construct(
                id=space.id(genome),
                supernet=bundle.hash[:ID_DIGITS],
                arch=arch.to_json(),
                resolution=arch.resolution,
                **counted,
                predicted_accuracy=float(accuracy[row]),
                predicted_accuracy_std=None if std is None else float(std[row]),
                **predicted,
                predicted_latency_bound_ms={},
                verified_accuracy=evaluation.accuracy if evaluation else None,
                inherited=Inherited.of_evaluation(evaluation, views) if evaluation else None,
                **{f"measured_{kind.name}": None for kind in device_costs()},
                measured_latency_details=None,
            )
        )
    return candidates
