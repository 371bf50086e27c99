"""Comparing all search strategies on a bundle."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evolution.comparison import Comparison, Run, run_strategies
from evolution.search import EVALUATIONS, STRATEGIES
from evolution.strategies.exact import find_obstacle
from service.bundles.search import make_problem, make_request
from service.threads import one_blas_thread
from supernet.bundle import Bundle
from supernet.space import Value

POINTS = 96  # of a curve
FIRST = 0.05  # of the evaluations, where curves begin: earlier points would flatten the rest


@one_blas_thread()
def compare_bundle(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    choices: Mapping[str, Sequence[Value]] | None = None,
    evaluations: int | None = None,
    seeds: int,
    local_search: bool = True,
    progress: Callable[[Run, int, int], None] = lambda run, done, total: None,
) -> dict[str, Any]:
    """Compare every strategy at equal evaluations, as JSON. `exact` takes part where it can prove its answers.

    limits, device, resolution, max_resolution, choices: see `make_request`. evaluations: per search; None: the default.
    seeds: searches per strategy. local_search: whether searches end with it, all but random search.
    progress: called with each run, how many runs are done, and how many there are.

    Raises:
        Refused (a ValueError): no architecture is within the limits. Also what `make_request` and `make_problem` raise.
    """
    evaluations = evaluations or EVALUATIONS
    request, sources = make_request(
        bundle, limits, device=device, resolution=resolution, max_resolution=max_resolution, choices=choices
    )
    problem, _ = make_problem(bundle, request, sources)
    names = sorted(STRATEGIES) if find_obstacle(problem) is None else sorted({*STRATEGIES} - {"exact"})
    done: list[Run] = []
    for run in run_strategies(problem, names, evaluations=evaluations, seeds=seeds, local_search=local_search):
        done.append(run)
        progress(run, len(done), len(names) * seeds)
    comparison = Comparison.from_runs(done)
    best = max(done, key=lambda run: run.accuracy[-1])
    grid = np.unique(np.linspace(FIRST * evaluations, evaluations, POINTS).astype(int))
    upper = {**limits, **({"resolution": max_resolution} if max_resolution else {})}
    restrictions = [f"{name} at most {value:,.12g}" for name, value in upper.items()]
    restrictions += [f"resolution {resolution}"] if resolution else []
    restrictions += [problem.choices.describe()] if problem.choices else []
    devices = "".join(f" on {name}" for name in sources)
    return {
        "title": f"{bundle.manifest['name']}{devices}: {', '.join(restrictions) or 'no limit'}",
        "limits": dict(limits),
        "device": next(iter(sources), None),
        "budget": evaluations,
        "seeds": seeds,
        "local_search": local_search,
        "best_known": {
            "predicted_accuracy": comparison.best_known,
            "strategy": best.strategy,
            "seed": best.seed,
            "arch": bundle.space.decode(best.best).to_json(),
        },
        "test": "exact one-sided Mann-Whitney U against random search",
        "strategies": [
            {
                "strategy": summary.strategy,
                "mean": summary.mean,
                "deviation": summary.deviation,
                "regret": summary.regret,
                "p_value": summary.p_value,
                "evaluations": summary.evaluations,
                "seconds": summary.seconds,
                "predicted_accuracies": list(summary.accuracies),
            }
            for summary in comparison.summaries
        ],
        "evaluations": grid.tolist(),
        "curves": {name: _quartiles(curve) for name, curve in comparison.curves(grid).items()},
    }


def _quartiles(curve: np.ndarray) -> dict[str, list[float | None]]:
    """The quartiles and the median over seeds of (S, N) curves; None where a seed has none yet."""
    low, median, high = np.quantile(curve, [0.25, 0.5, 0.75], axis=0)
    parts = {"low": low, "median": median, "high": high}
    return {name: [None if np.isnan(value) else float(value) for value in values] for name, values in parts.items()}
