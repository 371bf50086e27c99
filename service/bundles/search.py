"""Searching and exporting a bundle without a server."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolution.costs import CostTables
from evolution.limits import Limit, constrain, cost_of
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from evolution.problem import Problem
from evolution.search import EVALUATIONS, Search
from evolution.sensitivity import sensitivities
from service.bundles.paths import check_input
from service.costs import cost_tables, counted_costs
from service.devices.measurements import latency_model
from service.errors import InputError
from supernet.bundle import Bundle


def search_bundle(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    minimise: str | None = None,
    min_accuracy: float | None = None,
    budget: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The best architecture by prediction within hard limits, as JSON.

    limits, device, resolution, max_resolution, minimise, min_accuracy: as `problem_of` takes them. budget: evaluations
    at most, or None for the default.

    Raises:
        Infeasible (a ValueError): with each limit's floor. Also what `problem_of` raises.
    """
    problem, models = problem_of(
        bundle,
        limits,
        device=device,
        resolution=resolution,
        max_resolution=max_resolution,
        minimise=minimise,
        min_accuracy=min_accuracy,
    )
    tables = problem.tables
    started = time.perf_counter()
    search = Search(problem, evaluations=EVALUATIONS if budget is None else budget, seed=seed)
    for _ in search.run():
        pass
    result = search.result()
    seconds = time.perf_counter() - started
    best = result.best[None]
    predicted = {name: float(model.predict(best)[0]) for name, model in models.items()}
    latency = {name: ms if math.isfinite(ms) else None for name, ms in predicted.items()}  # inf: not measured there
    return {
        "best": {
            "id": bundle.space.id(result.best),
            "arch": bundle.space.decode(result.best).to_json(),
            "predicted_accuracy": result.predicted_accuracy,
            "latency_ms": next(iter(latency.values()), None),
            "predicted_latency_ms": latency,
            **{kind.name: kind.number(tables.cost(kind.name)(best)[0]) for kind in counted_costs()},
        },
        "min_accuracy": min_accuracy,
        "min_accuracy_reached": None if min_accuracy is None else result.reached,
        "sensitivity": [one.to_json() for one in sensitivities(problem, result.best)],
        "block_genes": [gene.name for gene in bundle.space.block_genes],
        "limits": {constraint.cost.name: constraint.max for constraint in problem.constraints},
        "evaluations": result.evaluations,
        "two_opt": result.two_opt,
        "two_opt_evaluations": result.two_opt_evaluations,
        "gained_last_1000": result.gained_last_1000,
        "seed": seed,
        "search_seconds": seconds,
    }


def problem_of(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    minimise: str | None = None,
    min_accuracy: float | None = None,
) -> tuple[Problem, dict[str, LatencyModel]]:
    """What `search_bundle` searches for, and the latency models of the devices named, `device` first, by their names.

    limits: per cost, the most it may be; `latency_ms` on `device`, `latency_ms@OTHER` on another one. device, OTHER:
    inside the bundle, or a file of measurements. resolution, max_resolution: the only input side allowed, and the
    largest. minimise: the cost to make least at `min_accuracy`.

    Raises:
        ValueError: a bundle without a predictor, a limit on latency without a device, measurements of another space.
            InputError: no such device and no such file, or two files of one name.
    """
    if bundle.predictor_path is None:
        raise ValueError(f"{bundle.path} has no accuracy predictor, so it cannot be searched")
    if device is None and "latency_ms" in (*limits, minimise):
        raise ValueError(
            "latency needs --device: measurements that `supple probe` wrote, or a device inside the bundle "
            f"({_devices_of(bundle)})"
        )
    tables = cost_tables(bundle.space, bundle.classes)
    on = [one for name in limits if (one := name.partition("@")[2])]
    names = {one: one if one in bundle.devices else Path(one).stem for one in dict.fromkeys([device, *on]) if one}
    if len(set(names.values())) < len(names):
        raise InputError(f"devices are {', '.join(names)}; two of them have one name, so rename a file")
    models = {name: latency_model_of(bundle, tables, one) for one, name in names.items()}

    def limit(name: str, most: float) -> Limit:
        cost, _, other = name.partition("@")
        return Limit(cost, most, names[other or device or ""] if cost == "latency_ms" else None)

    predictor = AccuracyPredictor.load(bundle.predictor_path, bundle.space)
    constraints = constrain([limit(name, most) for name, most in limits.items()], tables, models)
    least = None if minimise is None else cost_of(limit(minimise, 1.0), tables, models)
    problem = Problem(
        tables,
        predictor,
        constraints,
        resolution,
        minimise=least,
        min_accuracy=min_accuracy,
        max_resolution=max_resolution,
    )
    return problem, models


def latency_model_of(bundle: Bundle, tables: CostTables, device: str) -> LatencyModel:
    """The latency model of a device inside a bundle, or of the file that the probe wrote.

    Raises:
        InputError: neither. ValueError: what `latency_model` raises.
    """
    if device in bundle.devices:
        return LatencyModel.from_json(bundle.devices[device]["latency_model"], tables)
    try:
        check_input("--device", Path(device))
    except InputError as error:
        raise InputError(f"{error}, or a device inside the bundle ({_devices_of(bundle)})") from error
    return latency_model(tables, Path(device))


def _devices_of(bundle: Bundle) -> str:
    return ", ".join(bundle.devices) or "it has none"
